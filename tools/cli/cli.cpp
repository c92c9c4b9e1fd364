#include "tools/cli/cli.h"

#include <algorithm>
#include <cstdio>
#include <new>
#include <numeric>

#include "jit/error.h"
#include "tools/cli/commands.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

constexpr const char* kVersion = "nibble 0.1.0";

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates) {
  const std::string near = nearest(word, candidates);
  return near.empty() ? "" : fmt::format(" Did you mean '{}'?", near);
}

std::vector<std::string> command_names(const CLI::App& program) {
  std::vector<std::string> names;
  for (const CLI::App* command : program.get_subcommands({})) names.push_back(command->get_name());
  return names;
}

// The innermost subcommand that was named on the command line.
const CLI::App* chosen(const CLI::App& program) {
  const CLI::App* app = &program;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return app;
}

std::string explain(const CLI::App& program, const CLI::ParseError& error, int argc, char** argv) {
  const CLI::App* app = chosen(program);
  std::string message = error.what();
  if (!message.empty() && message.back() != '.') message += '.';
  std::vector<std::string> names;
  for (const CLI::Option* option : app->get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    word = word.substr(0, word.find('='));
    const bool unknown = message.find(word) != std::string::npos &&
                         std::find(names.begin(), names.end(), word) == names.end();
    if (word.starts_with("--") && unknown) message += did_you_mean(word, names);
  }
  std::string help = "nibble";
  if (app != &program) help += " " + app->get_name();
  if (app->get_parent() != nullptr && app->get_parent() != &program) {
    help = "nibble " + app->get_parent()->get_name() + " " + app->get_name();
  }
  return fmt::format("{} See '{} --help'.", message, help);
}

int usage(const std::string& message) {
  fmt::print(stderr, "nibble: {}\n", message);
  return 2;
}

int failure(const std::string& message) {
  fmt::print(stderr, "nibble: {}\n", message);
  return 1;
}

int perform(const Action& action) {
  try {
    const int code = action();
    flush_output();
    return code;
  } catch (const UsageError& error) {
    return usage(error.what());
  } catch (const std::bad_alloc&) {
    return failure("There is not enough memory for this.");
  } catch (const std::exception& error) {
    return failure(error.what());
  }
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t least = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    const bool begins = word.size() >= 3 && candidate.starts_with(word);
    if (distance < least || (begins && best.empty())) {
      least = std::min(least, distance);
      best = candidate;
    }
  }
  return best;
}

int run_command_line(int argc, char** argv) {
  CLI::App program("Runs INT4 language models with machine code written for this very processor.",
                   "nibble");
  Action action;
  program.require_subcommand(1);
  program.set_version_flag("--version", kVersion);
  add_compile(program, action);
  add_quantize(program, action);
  add_export(program, action);
  add_run(program, action);
  add_chat(program, action);
  add_chat_template(program, action);
  add_logits(program, action);
  add_tokenize(program, action);
  add_inspect(program, action);
  add_bench(program, action);
  add_eval(program, action);
  add_kernels(program, action);
  add_tune(program, action);
  add_doctor(program, action);

  const std::vector<std::string> names = command_names(program);
  if (argc > 1 && argv[1][0] != '-' &&
      std::find(names.begin(), names.end(), argv[1]) == names.end()) {
    return usage(fmt::format("There is no command '{}'.{} See 'nibble --help'.", argv[1],
                             did_you_mean(argv[1], names)));
  }
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help, --version
    return usage(explain(program, error, argc, argv));
  }
  return perform(action);
}

}  // namespace nibble::cli
