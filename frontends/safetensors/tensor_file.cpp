#include "frontends/safetensors/tensor_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "jit/error.h"
#include "runtime/mapped_file.h"

namespace nibble::frontends::safetensors {
namespace {

using graph::DType;
using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMostHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMostDimensions = 8;
constexpr size_t kMostTensors = size_t{1} << 17;  // of one file
constexpr std::string_view kMetadata = "__metadata__";

constexpr std::array<std::pair<std::string_view, DType>, 13> kDTypes = {{{"F32", DType::f32},
                                                                         {"F16", DType::f16},
                                                                         {"BF16", DType::bf16},
                                                                         {"F64", DType::f64},
                                                                         {"I64", DType::i64},
                                                                         {"I32", DType::i32},
                                                                         {"I16", DType::i16},
                                                                         {"I8", DType::i8},
                                                                         {"U64", DType::u64},
                                                                         {"U32", DType::u32},
                                                                         {"U16", DType::u16},
                                                                         {"U8", DType::u8},
                                                                         {"BOOL", DType::boolean}}};

struct Entry {
  std::string name;
  std::optional<DType> dtype;
  graph::Shape shape;
  uint64_t begin = 0, end = 0;
  bool has_shape = false, has_offsets = false;
};

// Reads the header event by event: no tree of it is ever made, and a key that comes twice is seen.
class HeaderReader : public json::json_sax_t {
 public:
  explicit HeaderReader(const std::string& path) : path_(path) {}

  std::vector<Entry> take() && { return std::move(entries_); }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("true or false"); }
  bool number_integer(number_integer_t value) override {
    fail("{} has the negative number {}.", where(), value);
  }
  bool number_float(number_float_t, const string_t& text) override { unexpected(text); }
  bool binary(binary_t&) override { unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) unexpected("a number");
    Entry& entry = entries_.back();
    if (field_ == "shape") {
      if (value > uint64_t{std::numeric_limits<int64_t>::max()}) {
        fail("{} has the dimension {}, which is too large.", where(), value);
      }
      if (entry.shape.size() == kMostDimensions) {
        fail("{} has more than {} dimensions.", where(), kMostDimensions);
      }
      entry.shape.push_back(static_cast<int64_t>(value));
    } else {
      if (offsets_ == 2) fail("{} has more than two offsets.", where());
      (offsets_ == 0 ? entry.begin : entry.end) = value;
      ++offsets_;
    }
    return true;
  }

  bool string(string_t& text) override {
    if (depth_ == 2 && metadata_) return true;
    if (depth_ != 2 || in_array_ || field_ != "dtype") unexpected("text");
    for (const auto& [name, dtype] : kDTypes) {
      if (text == name) entries_.back().dtype = dtype;
    }
    if (!entries_.back().dtype) {
      fail("{} has the dtype \"{}\", which is not supported.", where(), text);
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (depth_ == 2 || in_array_) unexpected("an object");
    ++depth_;
    return true;
  }

  bool end_object() override {
    if (depth_ == 2 && !metadata_) check_complete();
    --depth_;
    return true;
  }

  bool key(string_t& text) override {
    if (depth_ == 1) {
      metadata_ = text == kMetadata;
      if (!metadata_) entries_.push_back({std::move(text), {}, {}});
      if (entries_.size() > kMostTensors) {
        fail("{}: the header has more than {} tensors.", path_, kMostTensors);
      }
      if (metadata_ && std::exchange(has_metadata_, true)) {
        fail("{}: the header has {} twice.", path_, kMetadata);
      }
      return true;
    }
    if (metadata_) return true;
    field_ = std::move(text);
    const Entry& entry = entries_.back();
    const bool again = (field_ == "dtype" && entry.dtype) ||
                       (field_ == "shape" && entry.has_shape) ||
                       (field_ == "data_offsets" && entry.has_offsets);
    if (again) fail("{} comes twice.", where());
    if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") {
      fail("{} is not known: dtype, shape and data_offsets are.", where());
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || metadata_ || in_array_ || field_ == "dtype") unexpected("an array");
    in_array_ = true;
    offsets_ = 0;
    return true;
  }

  bool end_array() override {
    in_array_ = false;
    Entry& entry = entries_.back();
    if (field_ == "shape") {
      entry.has_shape = true;
    } else {
      if (offsets_ != 2) fail("{} should be two offsets, but there are {}.", where(), offsets_);
      entry.has_offsets = true;
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    fail("{}: the header is not valid JSON near its byte {}: {}.", path_, position, error.what());
  }

 private:
  std::string where() const {
    if (depth_ < 1) return fmt::format("{}: the header", path_);
    if (metadata_) return fmt::format("{}: {}", path_, kMetadata);
    const std::string& name = entries_.empty() ? std::string() : entries_.back().name;
    if (depth_ < 2) return fmt::format("{}: tensor '{}'", path_, name);
    return fmt::format("{}: the {} of tensor '{}'", path_, field_, name);
  }

  [[noreturn]] void unexpected(std::string_view found) const {
    const char* expected = depth_ < 2 ? "an object" : metadata_ ? "text" : "numbers or a dtype";
    fail("{} should be {}, but there is {}.", where(), expected, found);
  }

  void check_complete() const {
    const Entry& entry = entries_.back();
    const char* missing = !entry.dtype         ? "dtype"
                          : !entry.has_shape   ? "shape"
                          : !entry.has_offsets ? "data_offsets"
                                               : nullptr;
    if (missing != nullptr) fail("{}: tensor '{}' has no {}.", path_, entry.name, missing);
  }

  const std::string& path_;
  std::vector<Entry> entries_;
  std::string field_;
  int depth_ = 0;
  int offsets_ = 0;
  bool in_array_ = false, metadata_ = false, has_metadata_ = false;
};

// The bytes that a tensor takes, by its shape.
uint64_t expected_bytes(const Entry& entry, const std::string& path) {
  uint64_t bytes = static_cast<uint64_t>(graph::dtype_bits(*entry.dtype)) / 8;
  for (int64_t dimension : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes) ||
        bytes > uint64_t{std::numeric_limits<int64_t>::max()}) {
      fail("{}: tensor '{}' of shape {} is too large.", path, entry.name,
           graph::to_string(entry.shape));
    }
  }
  return bytes;
}

void check_layout(const std::vector<Entry>& entries, uint64_t data_bytes, const std::string& path) {
  std::vector<size_t> order(entries.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(entries[a].begin, entries[a].end) <
           std::pair(entries[b].begin, entries[b].end);
  });
  uint64_t covered = 0;
  for (size_t i : order) {
    const Entry& entry = entries[i];
    if (entry.begin > entry.end || entry.end > data_bytes) {
      fail("{}: tensor '{}' has its data at bytes {} to {}, but there are {} bytes of data.", path,
           entry.name, entry.begin, entry.end, data_bytes);
    }
    if (entry.begin != covered) {
      fail("{}: tensor '{}' has its data at byte {}, but the data before it ends at {}: {}.", path,
           entry.name, entry.begin, covered, entry.begin < covered ? "they overlap" : "a hole");
    }
    const uint64_t expected = expected_bytes(entry, path);
    if (entry.end - entry.begin != expected) {
      fail("{}: tensor '{}' is {} {}, which takes {} bytes, but its data has {}.", path, entry.name,
           graph::dtype_name(*entry.dtype), graph::to_string(entry.shape), expected,
           entry.end - entry.begin);
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    fail("{}: the tensors end at byte {} of the data, but there are {} bytes of data.", path,
         covered, data_bytes);
  }
}

}  // namespace

TensorFile read_tensor_file(const std::string& path) {
  const auto file = runtime::MappedFile::open(path);
  const auto bytes = file->bytes();
  if (bytes.size() < kLengthBytes) {
    fail("{}: a safetensors file begins with {} bytes of length, but it has only {}.", path,
         kLengthBytes, bytes.size());
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMostHeaderBytes) {
    fail("{}: the header has {} bytes, but {} are allowed at most.", path, length,
         kMostHeaderBytes);
  }
  if (length > bytes.size() - kLengthBytes) {
    fail("{}: the header has {} bytes, but only {} follow its length.", path, length,
         bytes.size() - kLengthBytes);
  }
  const char* header = reinterpret_cast<const char*>(bytes.data()) + kLengthBytes;
  if (length == 0 || header[0] != '{') fail("{}: the header does not begin with '{{'.", path);
  HeaderReader reader(path);
  json::sax_parse(header, header + length, &reader);
  std::vector<Entry> entries = std::move(reader).take();
  check_layout(entries, bytes.size() - kLengthBytes - length, path);

  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  TensorFile result{path, {}};
  result.tensors.reserve(entries.size());
  const std::byte* data = bytes.data() + kLengthBytes + length;
  for (Entry& entry : entries) {
    if (!result.tensors.empty() && result.tensors.back().name == entry.name) {
      fail("{}: the header has the tensor '{}' twice.", path, entry.name);
    }
    graph::TensorData tensor{*entry.dtype, std::move(entry.shape), data + entry.begin,
                             entry.end - entry.begin, file};
    result.tensors.push_back({std::move(entry.name), std::move(tensor)});
  }
  return result;
}

}  // namespace nibble::frontends::safetensors
