// nibble tokenize: a text as the ids that a model sees.
#include <filesystem>

#include "frontends/tokenizer/tokenizer.h"
#include "graph/nib_model.h"
#include "jit/error.h"
#include "runtime/mapped_file.h"
#include "tools/cli/commands.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, text;
  bool json = false, special = false;
};

frontends::Tokenizer read_tokenizer(const std::string& path) {
  const auto file = runtime::MappedFile::open(path);
  const auto bytes = file->bytes();
  return frontends::Tokenizer::from_json(
      {reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

// Of a tokenizer.json, of a folder that has one, of the folder an .onnx lies in, or in a .nib.
frontends::Tokenizer find_tokenizer(const std::string& model) {
  std::error_code error;
  const fs::path path(model);
  if (path.extension() == ".json" && fs::is_regular_file(path, error)) return read_tokenizer(model);
  const fs::path within = path / "tokenizer.json";
  if (fs::is_directory(path, error) && fs::exists(within, error)) {
    return read_tokenizer(within.string());
  }
  const ModelPath found = find_model(model);
  if (found.nib) {
    runtime::ThreadPool pool(1);
    const graph::Graph graph = graph::read_nib_model(found.path, &pool);
    if (auto tokenizer = tokenizer_of(graph)) return std::move(*tokenizer);
    fail("{}: the file holds no tokenizer.json.", found.path);
  }
  const fs::path beside = path.parent_path() / "tokenizer.json";
  if (fs::is_directory(path, error) || !fs::exists(beside, error)) {
    fail("{}: there is no tokenizer.json beside the model.", model);
  }
  return read_tokenizer(beside.string());
}

int tokenize(const Options& options) {
  const frontends::Tokenizer tokenizer = find_tokenizer(options.model);
  const std::vector<int32_t> ids = tokenizer.encode(options.text, options.special);
  if (options.json) {
    Json tokens = Json::array();
    for (const int32_t id : ids) tokens.push_back(tokenizer.token_of(id));
    print_json({{"ids", ids}, {"tokens", tokens}, {"text", tokenizer.decode(ids, false)}});
    return 0;
  }
  for (const int32_t id : ids) {
    // As text rather than as the vocabulary spells it, with what does not print escaped.
    const std::string text =
        Json(tokenizer.decode({id}, false)).dump(-1, ' ', false, Json::error_handler_t::replace);
    print_line(fmt::format("{:>7}  {}", id, text));
  }
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& program, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand("tokenize", "Show a text as ids");
  command->add_option("MODEL", options->model, "A model, or a tokenizer.json")->required();
  command->add_option("TEXT", options->text, "The text")->required();
  command->add_flag("--special", options->special, "Add the tokens that begin and end a text");
  command->add_flag("--json", options->json, "Print a JSON object");
  command->callback([options, &action] { action = [options] { return tokenize(*options); }; });
}

}  // namespace nibble::cli
