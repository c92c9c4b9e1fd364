// nibble chat-template: a conversation as the prompt that a model's chat template makes of it.
#include "frontends/chat/chat_template.h"

#include <ctime>
#include <filesystem>

#include "frontends/chat/model_template.h"
#include "jit/error.h"
#include "runtime/json_text.h"
#include "tools/cli/commands.h"
#include "tools/cli/model_documents.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

using frontends::ChatTemplate;
using frontends::ModelTemplate;

struct ChatTemplateOptions {
  std::string model, input, name, now, bos = "<s>", eos = "</s>";
  bool json = false;
  CLI::Option *bos_flag = nullptr, *eos_flag = nullptr;
};

// "2026-01-31 12:00", seconds and the time of day may be left out.
std::optional<std::tm> parse_now(const std::string& text) {
  if (text.empty()) return std::nullopt;
  for (const char* format : {"%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"}) {
    std::tm time = {};
    const char* end = strptime(text.c_str(), format, &time);
    if (end == nullptr || *end != '\0') continue;
    time.tm_isdst = -1;
    const std::tm given = time;
    if (mktime(&time) == -1) break;  // which finds the day of the week and of the year
    time.tm_hour = given.tm_hour;
    return time;
  }
  throw UsageError(
      fmt::format("--now should be a time like \"2026-01-31 12:00\", but it is \"{}\".", text));
}

// The template of a model, or that of a file that is nothing else.
ModelTemplate find_template(const ChatTemplateOptions& options, bool with_tools) {
  const std::string extension = std::filesystem::path(options.model).extension().string();
  ModelTemplate out;
  if (extension == ".jinja" || extension == ".j2" || extension == ".txt") {
    out.source = read_text_file(options.model);
    out.tokens = {{"bos_token", options.bos}, {"eos_token", options.eos}};
    return out;
  }
  std::map<std::string, std::string> documents;
  if (extension == ".json") {  // a tokenizer_config.json or chat_template.json under any name
    documents["tokenizer_config.json"] = read_text_file(options.model);
  } else {
    documents = read_model_documents(options.model);
  }
  out = frontends::read_model_template(documents, options.model, options.name, with_tools);
  if (out.source.empty()) fail("{}: the model has no chat template.", options.model);
  if (options.bos_flag->count() > 0) out.tokens["bos_token"] = options.bos;
  if (options.eos_flag->count() > 0) out.tokens["eos_token"] = options.eos;
  return out;
}

// What transformers hands to a template, whatever of it is given.
Json variables_of(const Json& input, const ModelTemplate& model) {
  Json out = {{"messages", Json::array()},
              {"tools", nullptr},
              {"documents", nullptr},
              {"add_generation_prompt", false}};
  out.update(model.tokens);
  if (input.is_array()) {
    out["messages"] = input;
    return out;
  }
  if (!input.is_object()) {
    fail("A conversation should be a JSON object with \"messages\" or a list of messages.");
  }
  out.update(input);
  return out;
}

class Renderer {
 public:
  explicit Renderer(const ChatTemplateOptions& options)
      : options_(options), now_(parse_now(options.now)) {}

  std::string render(const Json& input) {
    const bool tools = input.is_object() && input.contains("tools") && !input["tools"].is_null();
    auto& known = models_[tools];
    if (!known) known = std::make_unique<ModelTemplate>(find_template(options_, tools));
    ChatTemplate::Options how;
    how.now = now_;
    return ChatTemplate::parse(known->source).render(variables_of(input, *known), how);
  }

 private:
  const ChatTemplateOptions& options_;
  std::optional<std::tm> now_;
  std::unique_ptr<ModelTemplate> models_[2];  // without and with tools
};

// A list of cases {"input": conversation, ...}: each with what comes of it.
int render_cases(const Json& cases, Renderer& renderer, bool json) {
  Json results = Json::array();
  for (const Json& each : cases) {
    Json result = each;
    result.erase("rendered");
    result.erase("error");
    try {
      result["rendered"] = renderer.render(each["input"]);
    } catch (const frontends::chat::TemplateError& error) {
      result["error"] = error.what();
    }
    if (!json) {
      print_line(result.contains("error") ? "error: " + result["error"].get<std::string>()
                                          : result["rendered"].get<std::string>());
    }
    results.push_back(std::move(result));
  }
  if (json) print_json(results);
  return 0;
}

int render(const ChatTemplateOptions& options) {
  const std::string path = options.input == "-" ? "/dev/stdin" : options.input;
  const Json input = runtime::parse_ordered_json(read_text_file(path), options.input);
  Renderer renderer(options);
  const auto is_case = [](const Json& json) { return json.is_object() && json.contains("input"); };
  if (input.is_array() && !input.empty() && is_case(input[0])) {
    if (!std::all_of(input.begin(), input.end(), is_case)) {
      fail("{}: some of the cases have no \"input\".", options.input);
    }
    return render_cases(input, renderer, options.json);
  }
  try {
    const std::string text = renderer.render(is_case(input) ? input["input"] : input);
    if (options.json) {
      print_json({{"rendered", text}});
    } else {
      print(text);
    }
  } catch (const frontends::chat::TemplateError& error) {
    if (options.json) print_json({{"error", error.what()}});
    throw;
  }
  return 0;
}

}  // namespace

void add_chat_template(CLI::App& program, Action& action) {
  auto options = std::make_shared<ChatTemplateOptions>();
  CLI::App* command =
      program.add_subcommand("chat-template", "Write a conversation as a model's prompt");
  command
      ->add_option("MODEL", options->model,
                   "A model, a folder with its tokenizer's files, or a .jinja template")
      ->required();
  command
      ->add_option("--input", options->input,
                   "JSON: {\"messages\": [...], \"tools\": [...], \"add_generation_prompt\": true, "
                   "...}, a list of messages, or a list of {\"input\": ...}; -: standard input")
      ->required();
  command->add_option("--name", options->name, "Which of several templates (default: \"default\")");
  command->add_option("--now", options->now, "The time that strftime_now tells (default: now)");
  options->bos_flag =
      command->add_option("--bos", options->bos, "bos_token (default: the model's, else <s>)");
  options->eos_flag =
      command->add_option("--eos", options->eos, "eos_token (default: the model's, else </s>)");
  command->add_flag("--json", options->json, "Print {\"rendered\": ...} or {\"error\": ...}");
  command->callback([options, &action] { action = [options] { return render(*options); }; });
}

}  // namespace nibble::cli
