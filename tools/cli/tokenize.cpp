// nibble tokenize: a text as the ids that a model sees.
#include <filesystem>

#include "frontends/gguf/gguf_documents.h"
#include "frontends/tokenizer/tokenizer.h"
#include "graph/nib_model.h"
#include "jit/error.h"
#include "runtime/mapped_file.h"
#include "tools/cli/commands.h"
#include "tools/cli/model_path.h"
#include "tools/cli/model_tokenizer.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;

struct TokenizeOptions {
  std::string model, text, file;
  bool json = false, special = false;
};

std::string read_whole(const std::string& path) {
  const auto file = runtime::MappedFile::open(path);
  const auto bytes = file->bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

frontends::Tokenizer read_tokenizer(const fs::path& path) {
  return make_tokenizer(path.filename().string(), read_whole(path.string()), path.string());
}

// The tokenizer's file in a folder; empty when there is none.
fs::path tokenizer_file(const fs::path& folder) {
  std::error_code error;
  for (const char* name : kTokenizerFiles) {
    if (fs::is_regular_file(folder / name, error)) return folder / name;
  }
  return {};
}

// Of a tokenizer's file, of a folder that has one, of the folder an .onnx lies in, or in a .nib.
frontends::Tokenizer find_tokenizer(const std::string& model) {
  std::error_code error;
  const fs::path path(model);
  const bool file = path.extension() == ".json" || path.extension() == ".model";
  if (file && fs::is_regular_file(path, error)) return read_tokenizer(path);
  const bool folder = fs::is_directory(path, error);
  if (folder) {
    const fs::path within = tokenizer_file(path);
    if (!within.empty()) return read_tokenizer(within);
  }
  const ModelPath found = find_model(model);
  if (found.nib) {
    runtime::ThreadPool pool(1);
    const graph::Graph graph = graph::read_nib_model(found.path, &pool);
    if (auto tokenizer = tokenizer_of(graph)) return std::move(*tokenizer);
    fail("{}: the file holds no tokenizer.json and no tokenizer.model.", found.path);
  }
  if (found.gguf) {
    const auto vocabulary =
        frontends::gguf::read_vocabulary(frontends::gguf::File::open(found.path));
    if (vocabulary) return frontends::Tokenizer::from_gguf(*vocabulary, found.path);
    fail("{}: the file holds no vocabulary.", found.path);
  }
  const fs::path beside = folder ? fs::path() : tokenizer_file(path.parent_path());
  if (beside.empty()) {
    fail("{}: there is no tokenizer.json and no tokenizer.model beside the model.", model);
  }
  return read_tokenizer(beside);
}

int tokenize(const TokenizeOptions& options) {
  const frontends::Tokenizer tokenizer = find_tokenizer(options.model);
  const std::vector<int32_t> ids = tokenizer.encode(
      options.file.empty() ? options.text : read_whole(options.file), options.special);
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
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = program.add_subcommand("tokenize", "Show a text as ids");
  command->add_option("MODEL", options->model, "A model, a tokenizer.json or a tokenizer.model")
      ->required();
  CLI::Option* text = command->add_option("TEXT", options->text, "The text");
  CLI::Option* file = command->add_option("-f,--file", options->file, "A file with the text");
  text->excludes(file);
  command->callback([options, text, file, &action] {
    const bool given = text->count() + file->count() > 0;
    action = [options, given] {
      if (!given) throw UsageError("A TEXT or a --file is needed.");
      return tokenize(*options);
    };
  });
  command->add_flag("--special", options->special, "Add the tokens that begin and end a text");
  command->add_flag("--json", options->json, "Print a JSON object");
}

}  // namespace nibble::cli
