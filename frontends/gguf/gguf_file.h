// A GGUF file, versions 2 and 3, little-endian: its metadata and where its tensors lie, of all
// parts where it is split (gguf_parts.h). Everything is checked against the file's length before it
// is used, nothing is copied but the directory, and what is returned points into the mapped file.
// Knows no model: that is gguf_model.h. Source: the GGUF specification of ggml (docs/gguf.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "frontends/gguf/ggml_types.h"
#include "runtime/mapped_file.h"

namespace nibble::frontends::gguf {

// The numbers that the file uses for types of metadata.
enum class ValueType : uint32_t {
  u8 = 0,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};

// A list of scalars or of strings; lists of lists are refused. Elements are read by index.
struct Array {
  ValueType type = ValueType::u8;
  uint64_t count = 0;
  std::span<const std::byte> bytes;       // of scalars, unaligned
  std::vector<std::string_view> strings;  // of strings
};

// Integers of any width are int64 or, where they do not fit, uint64; floats are double.
using Value = std::variant<int64_t, uint64_t, double, bool, std::string_view, Array>;

struct Tensor {
  std::string_view name;
  std::vector<int64_t>
      shape;  // row-major as everywhere here: the last is the fastest, GGUF's first
  GgmlType type = GgmlType::f32;
  std::span<const std::byte> data;
  std::shared_ptr<const runtime::MappedFile> file;  // which holds `data`
};

class File {
 public:
  // `path` is a file, or any part of one that is split. Throws Error naming the path, the offset or
  // key or tensor, what was expected and what found.
  static File open(const std::string& path);

  // Of the first part.
  const std::string& path() const { return file_->path(); }
  const std::vector<Tensor>& tensors() const { return tensors_; }

  std::vector<std::string_view> keys() const;  // in alphabetic order
  bool has(std::string_view key) const { return values_.contains(key); }
  bool is_list(std::string_view key) const { return std::holds_alternative<Array>(value(key)); }
  // Throw Error when the key is missing or of another type; with a default only when of another.
  int64_t integer(std::string_view key) const;
  int64_t integer(std::string_view key, int64_t otherwise) const;
  double real(std::string_view key) const;
  double real(std::string_view key, double otherwise) const;
  bool boolean(std::string_view key, bool otherwise) const;
  std::string_view text(std::string_view key) const;
  std::string_view text(std::string_view key, std::string_view otherwise) const;
  std::span<const std::string_view> texts(std::string_view key) const;
  // Booleans are 0 and 1.
  std::vector<int64_t> integers(std::string_view key) const;
  std::vector<float> reals(std::string_view key) const;

  // Null when there is none.
  const Tensor* find(std::string_view name) const;
  // Throws Error when it is missing or shaped otherwise.
  const Tensor& tensor(std::string_view name, std::span<const int64_t> shape) const;

 private:
  friend class Parser;
  File() = default;
  void append(File part);
  const Value& value(std::string_view key) const;
  [[noreturn]] void wrong_type(std::string_view key, std::string_view expected) const;

  std::shared_ptr<const runtime::MappedFile> file_;
  std::unordered_map<std::string_view, Value> values_;
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;
};

}  // namespace nibble::frontends::gguf
