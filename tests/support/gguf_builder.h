// Writes GGUF files for tests, sound ones and damaged ones.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::test {

class GgufBuilder {
 public:
  explicit GgufBuilder(uint32_t version = 3) : version_(version) {}

  // The value's bytes as they stand in the file.
  GgufBuilder& raw(std::string_view key, uint32_t type, const std::string& bytes) {
    values_ += text(key) + number(type) + bytes;
    ++value_count_;
    return *this;
  }
  GgufBuilder& u32(std::string_view key, uint32_t value) { return raw(key, 4, number(value)); }
  GgufBuilder& f32(std::string_view key, float value) { return raw(key, 6, number(value)); }
  GgufBuilder& boolean(std::string_view key, bool value) {
    return raw(key, 7, std::string(1, value ? '\1' : '\0'));
  }
  GgufBuilder& string(std::string_view key, std::string_view value) {
    return raw(key, 8, text(value));
  }
  GgufBuilder& strings(std::string_view key, const std::vector<std::string>& list) {
    std::string bytes = number(uint32_t{8}) + number(uint64_t{list.size()});
    for (const std::string& s : list) bytes += text(s);
    return raw(key, 9, bytes);
  }
  template <typename T>
  GgufBuilder& numbers(std::string_view key, uint32_t type, const std::vector<T>& list) {
    std::string bytes = number(type) + number(uint64_t{list.size()});
    for (const T value : list) bytes += number(value);
    return raw(key, 9, bytes);
  }
  // `dimensions` in the order of the file, fastest first.
  GgufBuilder& tensor(std::string_view name, uint32_t type, const std::vector<uint64_t>& dimensions,
                      const std::string& data) {
    while (data_.size() % alignment_ != 0) data_ += '\0';
    return tensor_at(name, type, dimensions, data_.size(), data);
  }
  GgufBuilder& tensor_at(std::string_view name, uint32_t type,
                         const std::vector<uint64_t>& dimensions, uint64_t offset,
                         const std::string& data = {}) {
    tensors_ += text(name) + number(static_cast<uint32_t>(dimensions.size()));
    for (const uint64_t d : dimensions) tensors_ += number(d);
    tensors_ += number(type) + number(offset);
    data_ += data;
    ++tensor_count_;
    return *this;
  }
  // Only what pads the file; "general.alignment" is the caller's to say.
  GgufBuilder& align(size_t alignment) {
    alignment_ = alignment;
    return *this;
  }

  std::string file() const {
    std::string out = "GGUF" + number(version_) + number(tensor_count_) + number(value_count_);
    out += values_ + tensors_;
    if (tensor_count_ > 0) out.resize((out.size() + alignment_ - 1) / alignment_ * alignment_);
    return out + data_;
  }

  template <typename T>
  static std::string number(T value) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
  }
  static std::string text(std::string_view s) {
    return number(uint64_t{s.size()}) + std::string(s);
  }
  static std::string floats(const std::vector<float>& values) {
    std::string bytes;
    for (const float value : values) bytes += number(value);
    return bytes;
  }

 private:
  uint32_t version_;
  size_t alignment_ = 32;
  uint64_t value_count_ = 0, tensor_count_ = 0;
  std::string values_, tensors_, data_;
};

}  // namespace nibble::test
