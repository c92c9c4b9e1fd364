// What commands say: results on standard output, whose every failure is an Error, and warnings and
// progress on standard error.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

namespace nibble::cli {

using Json = nlohmann::ordered_json;

// Throw Error when standard output cannot take it (a full disk, say).
void print(std::string_view text);
void print_line(std::string_view text);
void print_json(const Json& json);  // one line
void flush_output();

// "nibble: warning: MESSAGE" on standard error.
void warn(std::string_view message);
void note(std::string_view message);  // one line on standard error, as it is

// A bar with rate and remaining time on standard error, when that is a terminal; otherwise nothing.
class Progress {
 public:
  // `unit` names what update() counts, `scale` of which make one.
  explicit Progress(std::string_view what, std::string_view unit = "MB", double scale = 1e6);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void update(int64_t done, int64_t total);

 private:
  std::string_view what_, unit_;
  double scale_;
  bool shown_ = false, terminal_ = false;
  double start_ = 0, last_ = 0;
  int64_t first_ = -1;  // what was done before: the speed is that of the rest
};

// The most memory this process has held so far.
double peak_rss_mb();
// What it holds now; 0 where the system does not say.
double rss_mb();

}  // namespace nibble::cli
