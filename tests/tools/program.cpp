#include "tests/tools/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace nibble::test {
namespace {

struct Pipe {
  int read_end = -1, write_end = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    close(read_end);
    close_write();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_write() {
    if (write_end >= 0) close(write_end);
    write_end = -1;
  }
};

[[noreturn]] void become(const std::vector<std::string>& arguments, const Surroundings& around,
                         int in, int out, int err) {
  dup2(around.input.empty() ? open("/dev/null", O_RDONLY) : in, 0);
  dup2(around.output.empty() ? out : open(around.output.c_str(), O_WRONLY), 1);
  dup2(err, 2);
  setenv("NIBBLE_TUNE_DB", "off", 1);  // not this user's measurements
  for (const auto& [name, value] : around.environment) setenv(name.c_str(), value.c_str(), 1);
  if (around.memory_limit > 0) {
    const rlimit limit{around.memory_limit, around.memory_limit};
    setrlimit(RLIMIT_AS, &limit);
  }
  const std::string program = std::string(NIBBLE_BINARY_DIR) + "/nibble";
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  _exit(127);
}

// Reads both to their ends, in turns, so that neither side waits for a full pipe.
void read_both(int out, int err, Outcome& outcome, pid_t interrupt) {
  pollfd ends[2] = {{out, POLLIN, 0}, {err, POLLIN, 0}};
  std::string* texts[2] = {&outcome.out, &outcome.err};
  for (int open_ends = 2; open_ends > 0;) {
    if (poll(ends, 2, -1) < 0) throw std::runtime_error("poll failed");
    for (int i = 0; i < 2; ++i) {
      if (ends[i].fd < 0 || ends[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t count = read(ends[i].fd, buffer, sizeof buffer);
      if (count <= 0) {
        ends[i].fd = -1;
        --open_ends;
        continue;
      }
      texts[i]->append(buffer, static_cast<size_t>(count));
      if (i == 0 && interrupt > 0) {
        kill(interrupt, SIGINT);
        interrupt = 0;
      }
    }
  }
}

}  // namespace

int Outcome::messages() const {
  std::istringstream lines(err);
  std::string line;
  int count = 0;
  while (std::getline(lines, line)) {
    if (line.starts_with("nibble: ") && !line.starts_with("nibble: warning: ")) ++count;
  }
  return count;
}

Outcome nibble(const Arguments& arguments, const Surroundings& around) {
  Pipe in, out, err;
  // A pipe takes 64 kB before anybody reads, more than tests have to say.
  if (write(in.write_end, around.input.data(), around.input.size()) !=
      static_cast<ssize_t>(around.input.size())) {
    throw std::runtime_error("the input does not fit into a pipe");
  }
  in.close_write();
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("no process");
  if (child == 0) become(arguments, around, in.read_end, out.write_end, err.write_end);
  out.close_write();
  err.close_write();
  Outcome outcome;
  read_both(out.read_end, err.read_end, outcome, around.interrupt_after_output ? child : 0);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
  return outcome;
}

nlohmann::json json_of(const Arguments& arguments, const Surroundings& around) {
  const Outcome outcome = nibble(arguments, around);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return outcome.code == 0 ? nlohmann::json::parse(outcome.out) : nlohmann::json();
}

std::string demo_model() { return std::string(NIBBLE_SOURCE_DIR) + "/tools/demo/tale"; }

}  // namespace nibble::test
