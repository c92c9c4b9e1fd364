// nibble chat: talks with a model, line by line.
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iostream>

#include "jit/error.h"
#include "tools/cli/commands.h"
#include "tools/cli/conversation.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_tokenizer.h"

namespace nibble::cli {
namespace {

constexpr const char* kHelp =
    "/system TEXT  begin anew under this system message; without a text: under none\n"
    "/reset        begin anew\n"
    "/save FILE    write the conversation as JSON, as 'nibble chat-template --input' takes it\n"
    "/stats        tokens and speed of the last answer, and how full the context is\n"
    "/exit         leave; so does the end of the input. Ctrl-C stops an answer";

struct ChatOptions {
  std::string model, system, variables;
  int64_t tokens = int64_t{1} << 30;
  bool json = false;
  SamplingOptions sampling;
  WeightOptions weights;
  RunOptions run;
};

class Chat {
 public:
  Chat(const ChatOptions& options, const LoadedModel& model, const frontends::Tokenizer& tokenizer,
       Json variables)
      : options_(options),
        model_(model),
        conversation_(model, tokenizer, std::move(variables)),
        system_(options.system),
        terminal_(isatty(STDIN_FILENO) != 0) {
    conversation_.begin(system_);
    if (!conversation_.has_template()) {
      warn(
          fmt::format("{} has no chat template, so the conversation is written as plain 'User:' "
                      "and 'Assistant:' lines.",
                      options.model));
    }
  }

  void talk() {
    if (terminal_) note("/help lists what can be said besides talking.");
    std::string line;
    while (!done_) {
      if (terminal_) {
        print("> ");
        flush_output();
      }
      if (!std::getline(std::cin, line)) break;
      if (line.ends_with('\r')) line.pop_back();
      forget_interrupts();
      if (line.empty()) continue;
      if (line[0] == '/') {
        obey(line);
      } else {
        answer(line);
      }
    }
  }

 private:
  void obey(const std::string& line) {
    const size_t blank = line.find(' ');
    const std::string command = line.substr(0, blank);
    const std::string text = blank == std::string::npos ? "" : line.substr(blank + 1);
    if (command == "/exit" || command == "/quit") {
      done_ = true;
    } else if (command == "/help") {
      note(kHelp);
    } else if (command == "/reset") {
      conversation_.begin(system_);
      note("[the conversation begins anew]");
    } else if (command == "/system") {
      system_ = text;
      conversation_.begin(system_);
      note("[the conversation begins anew]");
    } else if (command == "/save") {
      save(text);
    } else if (command == "/stats") {
      stats();
    } else {
      const std::string near =
          nearest(command, {"/exit", "/quit", "/help", "/reset", "/system", "/save", "/stats"});
      note(fmt::format("There is no command '{}'.{} /help lists them.", command,
                       near.empty() ? "" : fmt::format(" Did you mean '{}'?", near)));
    }
  }

  void answer(const std::string& line) {
    try {
      last_ =
          conversation_.ask(line, options_.sampling, options_.tokens, [&](const std::string& part) {
            if (options_.json) return;
            print(part);
            flush_output();
          });
    } catch (const Error& error) {
      note(fmt::format("nibble: {}", error.what()));
      return;
    }
    ++answers_;
    if (options_.json) {
      Json json = figures();
      json["answer"] = last_.text;
      print_json(json);
    } else {
      print("\n");
    }
    flush_output();
    if (last_.made.stop == "interrupted") note("[interrupted]");
    if (last_.made.stop == "context") note("[the context is full; /reset begins anew]");
  }

  Json figures() const {
    return {{"stop", last_.made.stop},
            {"prompt_tokens", last_.made.prompt_tokens},
            {"reused_tokens", last_.reused_tokens},
            {"generated_tokens", last_.made.ids.size()},
            {"prefill_tok_s", last_.made.prefill_tok_s()},
            {"decode_tok_s", last_.made.decode_tok_s()},
            {"position", model_.decoder->position()},
            {"context", model_.decoder->context_length()}};
  }

  void stats() const {
    if (options_.json) {
      Json json = figures();
      json["answers"] = answers_;
      print_json(json);
      flush_output();
      return;
    }
    note(fmt::format(
        "[{} answers; the last: {} tokens at {:.1f} tok/s, prompt of {} at {:.1f} tok/s and {} "
        "held from before; {} of {} positions; {} threads, {}]",
        answers_, last_.made.ids.size(), last_.made.decode_tok_s(), last_.made.prompt_tokens,
        last_.made.prefill_tok_s(), last_.reused_tokens, model_.decoder->position(),
        model_.decoder->context_length(), model_.pool->size(), model_.isa()));
  }

  void save(const std::string& path) const {
    if (path.empty()) return note("/save needs the name of a file.");
    const Json json = {{"messages", conversation_.messages()}};
    std::ofstream file(path);
    file << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    file.flush();
    note(file ? fmt::format("[{} messages written to {}]", conversation_.messages().size(), path)
              : fmt::format("nibble: {}: the file cannot be written.", path));
  }

  const ChatOptions& options_;
  const LoadedModel& model_;
  Conversation conversation_;
  std::string system_;
  bool terminal_, done_ = false;
  Answer last_;
  int64_t answers_ = 0;
};

int chat(ChatOptions options) {
  catch_interrupts();
  options.sampling.settle();
  Json variables = Json::object();
  if (!options.variables.empty()) {
    variables = Json::parse(options.variables, nullptr, false);
    if (!variables.is_object()) throw UsageError("--vars should be a JSON object.");
  }
  const LoadedModel model = load_model(options.model, "", options.weights, options.run);
  const auto tokenizer = tokenizer_of(*model.graph);
  if (!tokenizer) {
    fail(
        "{}: there is no tokenizer.json, no tokenizer.model and no vocabulary of a GGUF beside or "
        "within the model.",
        options.model);
  }
  Chat(options, model, *tokenizer, std::move(variables)).talk();
  return 0;
}

}  // namespace

void add_chat(CLI::App& program, Action& action) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* command = program.add_subcommand("chat", "Talk with a model, line by line");
  command->add_option("MODEL", options->model, "An .onnx, a .nib or a folder holding one")
      ->required();
  command->add_option("--system", options->system, "The system message");
  command
      ->add_option("-n,--tokens", options->tokens, "Ids of an answer at most (default: no limit)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  command->add_option("--vars", options->variables,
                      "More for the chat template: '{\"enable_thinking\": false}'");
  command->add_flag("--json", options->json, "Print one JSON object an answer");
  options->sampling.add_to(*command);
  options->run.add_to(*command);
  options->weights.add_to(*command);
  command->footer(kHelp);
  command->callback([options, &action] { action = [options] { return chat(*options); }; });
}

}  // namespace nibble::cli
