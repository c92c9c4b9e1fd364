// Runs the built `nibble` program as its users do: arguments and environment in; exit code, output
// and messages out.
#pragma once

#include <sys/types.h>

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace nibble::test {

using Arguments = std::vector<std::string>;
inline Arguments operator+(Arguments a, const Arguments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

struct Outcome {
  int code = -1;    // exit code, or -1 when a signal ended it
  int signal = 0;   // that signal
  std::string out;  // standard output
  std::string err;  // standard error

  // Messages on standard error that are no warnings: lines that begin with "nibble: ".
  int messages() const;
};

struct Surroundings {
  std::vector<std::pair<std::string, std::string>> environment;  // set on top of this process's own
  size_t memory_limit = 0;                                       // bytes of address space, 0: none
  std::string input;                                             // what standard input holds
  std::string output;                   // a file to write standard output to, instead of reading it
  bool interrupt_after_output = false;  // SIGINT when the first output arrives
};

Outcome nibble(const Arguments& arguments, const Surroundings& around = {});

// What it prints with --json; null, and the test fails, where it does not end well.
nlohmann::json json_of(const Arguments& arguments, const Surroundings& around = {});

// The bundled model, which is always there.
std::string demo_model();

}  // namespace nibble::test
