#include "tests/support/zoo.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

namespace nibble::test {
namespace {

std::vector<int32_t> narrow(const Npy<int64_t>& array) {
  return {array.values.begin(), array.values.end()};
}

}  // namespace

std::span<const std::string> zoo_families() {
  static const std::vector<std::string> families = {
      "bloom",           "falcon-40b", "falcon-7b",   "gemma",
      "gemma2",          "gpt2",       "gpt-bigcode", "gpt-neox",
      "gpt-neox-serial", "gptj",       "llama",       "llama-gqa-rope3",
      "mistral-window",  "mpt",        "opt",         "phi-2",
      "phi-3",           "qwen2",      "qwen3",       "starcoder2"};
  return families;
}

std::string zoo_test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::string zoo_folder(const std::string& family) {
  return (shared_folder() / "models/zoo" / family).string();
}

std::string tale_folder(const std::string& variant) {
  return (shared_folder() / "models/tale" / variant).string();
}

std::vector<int32_t> Reference::ids(int64_t row) const {
  const auto begin = input_ids.values.begin() + row * length();
  return {begin, begin + length()};
}

std::span<const float> Reference::row_logits(int64_t row) const {
  const auto count = static_cast<size_t>(length() * vocabulary());
  return std::span(logits.values).subspan(static_cast<size_t>(row) * count, count);
}

Reference zoo_reference(const std::string& family) {
  const std::string folder = zoo_folder(family);
  Reference reference{.input_ids = read_npy_i64(folder + "/input_ids.npy"),
                      .logits = read_npy_f32(folder + "/logits.npy"),
                      .prompt = {},
                      .greedy = {}};
  if (std::filesystem::exists(folder + "/greedy.npy")) {
    reference.prompt = narrow(read_npy_i64(folder + "/prompt.npy"));
    reference.greedy = narrow(read_npy_i64(folder + "/greedy.npy"));
  }
  return reference;
}

Reference tale_reference() {
  const std::string folder = (shared_folder() / "models/tale").string();
  return {.input_ids = read_npy_i64(folder + "/input_ids.npy"),
          .logits = read_npy_f32(folder + "/logits.npy"),
          .prompt = {},
          .greedy = {}};
}

float max_abs(std::span<const float> values) {
  float most = 0;
  for (const float value : values) {
    if (std::isnan(value)) return value;
    most = std::max(most, std::fabs(value));
  }
  return most;
}

float max_abs_difference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return std::numeric_limits<float>::infinity();
  std::vector<float> difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  return max_abs(difference);
}

int32_t argmax(std::span<const float> values) {
  return static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

std::vector<int32_t> greedy_ids(runtime::Decoder& decoder, std::span<const int32_t> prompt,
                                size_t count) {
  std::vector<int32_t> ids;
  int32_t next = argmax(decoder.forward(prompt));
  while (ids.size() < count) {
    ids.push_back(next);
    next = argmax(decoder.forward(std::span(&next, 1)));
  }
  return ids;
}

}  // namespace nibble::test
