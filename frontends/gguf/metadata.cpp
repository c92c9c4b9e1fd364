#include "frontends/gguf/metadata.h"

#include <cmath>

#include "jit/error.h"

namespace nibble::frontends::gguf {
namespace {

constexpr int64_t kMostSize = int64_t{1} << 24;

}  // namespace

Metadata::Metadata(const File& file)
    : file_(file), architecture_(file.text("general.architecture")) {}

std::string Metadata::use(const std::string& key) {
  std::string name = full(key);
  used_.insert(name);
  return name;
}

int64_t Metadata::size(const std::string& key) {
  const int64_t value = count(key);
  if (value == 0) refuse(key, "0", fmt::format("1 to {}", kMostSize));
  return value;
}

int64_t Metadata::count(const std::string& key) {
  const std::string name = use(key);
  int64_t value = 0;
  if (file_.is_list(name)) {
    const std::vector<int64_t> list = file_.integers(name);
    if (list.empty()) refuse(key, "an empty list", "a number");
    value = list.front();
    for (const int64_t other : list) {
      if (other == value) continue;
      refuse(key, fmt::format("{} in one layer and {} in another", value, other),
             "the same in all layers");
    }
  } else {
    value = file_.integer(name);
  }
  if (value >= 0 && value <= kMostSize) return value;
  refuse(key, std::to_string(value), fmt::format("0 to {}", kMostSize));
}

int64_t Metadata::size(const std::string& key, int64_t fallback) {
  return has(key) ? size(key) : fallback;
}

double Metadata::real(const std::string& key) {
  const double value = file_.real(use(key));
  if (!std::isfinite(value)) refuse(key, std::to_string(value), "a finite number");
  return value;
}

double Metadata::real(const std::string& key, double fallback) {
  return has(key) ? real(key) : fallback;
}

std::string Metadata::text(const std::string& key, const std::string& fallback) {
  return std::string(file_.text(use(key), fallback));
}

bool Metadata::boolean(const std::string& key, bool fallback) {
  return file_.boolean(use(key), fallback);
}

std::vector<bool> Metadata::flags(const std::string& key, int64_t layers) {
  const std::vector<int64_t> list = file_.integers(use(key));
  if (std::ssize(list) != layers) {
    refuse(key, fmt::format("a list of {}", list.size()), fmt::format("one of {} layers", layers));
  }
  std::vector<bool> flags;
  for (const int64_t value : list) flags.push_back(value != 0);
  return flags;
}

void Metadata::only(const std::string& key, int64_t expected) {
  const int64_t value = file_.integer(use(key), expected);
  if (value != expected) refuse(key, std::to_string(value), std::to_string(expected));
}

void Metadata::only_true(const std::string& key) {
  if (!file_.boolean(use(key), true)) refuse(key, "false", "true");
}

void Metadata::pass_group(const std::string& prefix) {
  for (const std::string_view key : file_.keys()) {
    if (key.starts_with(full(prefix))) used_.emplace(key);
  }
}

void Metadata::refuse_unused() const {
  for (const std::string_view key : file_.keys()) {
    if (!key.starts_with(architecture_ + ".") || used_.contains(key)) continue;
    fail("{}: metadata '{}' is not known, and may change what the model computes.", path(), key);
  }
}

void Metadata::refuse(const std::string& key, const std::string& found,
                      const std::string& expected) const {
  fail("{}: metadata '{}' is {}, but {} is expected.", path(), full(key), found, expected);
}

}  // namespace nibble::frontends::gguf
