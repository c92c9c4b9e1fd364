// The commands. Each adds its subcommand to the program and, when that is the one chosen, sets
// `action` to what is to be done once the command line has been understood.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace nibble::cli {

using Action = std::function<int()>;  // returns the exit code

void add_compile(CLI::App& program, Action& action);
void add_quantize(CLI::App& program, Action& action);
void add_export(CLI::App& program, Action& action);
void add_run(CLI::App& program, Action& action);
void add_chat(CLI::App& program, Action& action);
void add_chat_template(CLI::App& program, Action& action);
void add_logits(CLI::App& program, Action& action);
void add_tokenize(CLI::App& program, Action& action);
void add_inspect(CLI::App& program, Action& action);
void add_doctor(CLI::App& program, Action& action);
void add_bench(CLI::App& program, Action& action);
void add_eval(CLI::App& program, Action& action);
void add_kernels(CLI::App& program, Action& action);
void add_tune(CLI::App& program, Action& action);

// A command line that is wrong as a whole: exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The candidate that a misspelt word most likely meant, or "" when none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace nibble::cli
