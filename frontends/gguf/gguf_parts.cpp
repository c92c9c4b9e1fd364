#include "frontends/gguf/gguf_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

namespace nibble::frontends::gguf {
namespace {

constexpr size_t kDigits = 5;

// 0 when `text` is anything but digits.
int number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::max(value, 0) : 0;
}

}  // namespace

std::vector<std::string> part_paths(const std::string& path) {
  constexpr std::string_view kOf = "-of-", kEnd = ".gguf";
  constexpr size_t kTail = 1 + kDigits + kOf.size() + kDigits + kEnd.size();
  if (path.size() <= kTail) return {};
  const std::string_view name = std::string_view(path).substr(0, path.size() - kTail);
  const std::string_view tail = std::string_view(path).substr(name.size());
  const int part = number(tail.substr(1, kDigits));
  const int count = number(tail.substr(1 + kDigits + kOf.size(), kDigits));
  if (tail[0] != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf || !tail.ends_with(kEnd) ||
      part < 1 || part > count) {
    return {};
  }
  std::vector<std::string> paths;
  for (int i = 1; i <= count; ++i) {
    paths.push_back(fmt::format("{}-{:05}-of-{:05}.gguf", name, i, count));
  }
  return paths;
}

}  // namespace nibble::frontends::gguf
