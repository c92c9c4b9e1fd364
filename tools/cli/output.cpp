#include "tools/cli/output.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "jit/error.h"
#include "runtime/clock.h"

namespace nibble::cli {

void print(std::string_view text) {
  if (fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    fail("Standard output could not be written: {}.", std::strerror(errno));
  }
}

void print_line(std::string_view text) {
  print(text);
  print("\n");
}

void print_json(const Json& json) {
  // Bytes that are no UTF-8 (a path may have them) become U+FFFD.
  print_line(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void flush_output() {
  if (fflush(stdout) != 0 || ferror(stdout) != 0) {
    fail("Standard output could not be written: {}.", std::strerror(errno));
  }
}

void warn(std::string_view message) { fmt::print(stderr, "nibble: warning: {}\n", message); }
void note(std::string_view message) { fmt::print(stderr, "{}\n", message); }

Progress::Progress(std::string_view what, std::string_view unit, double scale)
    : what_(what),
      unit_(unit),
      scale_(scale),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(runtime::seconds_now()) {}

Progress::~Progress() {
  if (shown_) fmt::print(stderr, "\r\x1B[K");
}

void Progress::update(int64_t done, int64_t total) {
  const double time = runtime::seconds_now();
  if (first_ < 0) first_ = done;
  if (!terminal_ || total <= 0 || time - last_ < 0.1) return;
  last_ = time;
  shown_ = true;
  constexpr int kWidth = 30;
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
  const double rate = static_cast<double>(done - first_) / std::max(time - start_, 1e-3);
  const double left = rate > 0 ? static_cast<double>(total - done) / rate : 0;
  const int filled = static_cast<int>(share * kWidth);
  fmt::print(stderr, "\r\x1B[K{} [{:=<{}}{:<{}}] {:3.0f}%  {:.0f} {}/s  {:.0f} s left", what_, "",
             filled, "", kWidth - filled, share * 100, rate / scale_, unit_, left);
  fflush(stderr);
}

// Of this program alone: getrusage counts what the process held before it became this program too,
// which is what its parent held.
double peak_rss_mb() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

double rss_mb() {
  std::ifstream file("/proc/self/statm");
  int64_t all = 0, resident = 0;
  if (!(file >> all >> resident)) return 0;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1 << 20);
}

}  // namespace nibble::cli
