#include "frontends/gguf/gguf_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "frontends/gguf/gguf_parts.h"
#include "jit/error.h"

namespace nibble::frontends::gguf {
namespace {

constexpr uint32_t kMagic = 0x46554747;    // "GGUF"
constexpr uint64_t kMostValues = 1 << 16;  // of metadata
constexpr uint64_t kMostTensors = 1 << 17;
constexpr uint64_t kMostIntegers = 1 << 22;  // in a list: each becomes 8 bytes
constexpr uint64_t kMostDimensions = 4;
constexpr uint64_t kMostNameBytes = 1 << 16;
constexpr int64_t kMostElements = int64_t{1} << 48;

// Bytes of a scalar; 0 for strings and arrays.
size_t scalar_bytes(ValueType type) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean:
      return 1;
    case ValueType::u16:
    case ValueType::i16:
      return 2;
    case ValueType::u32:
    case ValueType::i32:
    case ValueType::f32:
      return 4;
    case ValueType::u64:
    case ValueType::i64:
    case ValueType::f64:
      return 8;
    default:
      return 0;
  }
}

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// A scalar at `from`; a boolean byte must have been checked.
Value scalar(ValueType type, const std::byte* from) {
  switch (type) {
    case ValueType::u8:
      return int64_t{load<uint8_t>(from)};
    case ValueType::i8:
      return int64_t{load<int8_t>(from)};
    case ValueType::u16:
      return int64_t{load<uint16_t>(from)};
    case ValueType::i16:
      return int64_t{load<int16_t>(from)};
    case ValueType::u32:
      return int64_t{load<uint32_t>(from)};
    case ValueType::i32:
      return int64_t{load<int32_t>(from)};
    case ValueType::i64:
      return load<int64_t>(from);
    case ValueType::u64: {
      const auto value = load<uint64_t>(from);
      if (std::in_range<int64_t>(value)) return static_cast<int64_t>(value);
      return value;
    }
    case ValueType::f32:
      return double{load<float>(from)};
    case ValueType::f64:
      return load<double>(from);
    default:
      return load<uint8_t>(from) != 0;
  }
}

}  // namespace

// Reads the directory of a file from its beginning on.
class Parser {
 public:
  explicit Parser(const std::string& path) {
    out_.file_ = runtime::MappedFile::open(path);
    rest_ = out_.file_->bytes();
  }

  File run() {
    if (rest_.size() < 4 || number<uint32_t>("magic number") != kMagic) {
      fail("{}: not a GGUF file: it does not begin with 'GGUF'.", path());
    }
    const auto version = number<uint32_t>("version");
    if (version != 2 && version != 3) {
      const bool big_endian = version >> 24 != 0 && (version & 0xFFFFFF) == 0;
      fail("{}: GGUF version {}, expected 2 or 3{}.", path(), version,
           big_endian ? " (it is a big-endian file, which is not supported)" : "");
    }
    const auto tensors = count("number of tensors", kMostTensors),
               values = count("number of metadata entries", kMostValues);
    for (uint64_t i = 0; i < values; ++i) read_value();
    for (uint64_t i = 0; i < tensors; ++i) read_tensor();
    place_tensors();
    return std::move(out_);
  }

 private:
  struct Place {
    uint64_t offset, bytes;
    size_t tensor;
  };

  const std::string& path() const { return out_.path(); }
  size_t offset() const { return out_.file_->bytes().size() - rest_.size(); }

  std::span<const std::byte> take(uint64_t bytes, std::string_view what) {
    if (bytes > rest_.size()) {
      fail("{}: '{}' at offset {} needs {} bytes, and the file ends after {}.", path(), what,
           offset(), bytes, rest_.size());
    }
    const auto taken = rest_.first(static_cast<size_t>(bytes));
    rest_ = rest_.subspan(static_cast<size_t>(bytes));
    return taken;
  }

  template <typename T>
  T number(std::string_view what) {
    return load<T>(take(sizeof(T), what).data());
  }

  uint64_t count(std::string_view what, uint64_t most) {
    const size_t at = offset();
    const auto n = number<uint64_t>(what);
    if (n > most) {
      fail("{}: '{}' at offset {} is {}, expected at most {}.", path(), what, at, n, most);
    }
    return n;
  }

  std::string_view string(std::string_view what, uint64_t most) {
    const size_t at = offset();
    const auto length = number<uint64_t>(what);
    if (length > most) {
      fail("{}: '{}' at offset {} has {} bytes, expected at most {}.", path(), what, at, length,
           most);
    }
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  ValueType value_type(std::string_view key) {
    const auto type = number<uint32_t>("type of a metadata entry");
    if (type > static_cast<uint32_t>(ValueType::f64)) {
      fail("{}: metadata '{}' has type {}, which GGUF does not define.", path(), key, type);
    }
    return static_cast<ValueType>(type);
  }

  void check_booleans(std::string_view key, std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) {
      if (std::to_integer<unsigned>(b) > 1) {
        fail("{}: metadata '{}' is a boolean of value {}, expected 0 or 1.", path(), key,
             std::to_integer<unsigned>(b));
      }
    }
  }

  void read_value() {
    const std::string_view key = string("key of a metadata entry", kMostNameBytes);
    const ValueType type = value_type(key);
    Value value;
    if (type == ValueType::array) {
      value = array(key);
    } else if (type == ValueType::string) {
      value = string(key, std::numeric_limits<uint64_t>::max());
    } else {
      const auto bytes = take(scalar_bytes(type), key);
      if (type == ValueType::boolean) check_booleans(key, bytes);
      value = scalar(type, bytes.data());
    }
    if (!out_.values_.emplace(key, std::move(value)).second) {
      fail("{}: metadata '{}' is there twice.", path(), key);
    }
  }

  Array array(std::string_view key) {
    Array list;
    list.type = value_type(key);
    list.count = number<uint64_t>(key);
    if (list.type == ValueType::array) {
      fail("{}: metadata '{}' is a list of lists, which is not supported.", path(), key);
    }
    if (list.type == ValueType::string) {
      // Every string has at least its length.
      if (list.count > rest_.size() / sizeof(uint64_t)) {
        fail("{}: metadata '{}' has {} strings, more than the file has room for.", path(), key,
             list.count);
      }
      list.strings.reserve(static_cast<size_t>(list.count));
      for (uint64_t i = 0; i < list.count; ++i) {
        list.strings.push_back(string(key, std::numeric_limits<uint64_t>::max()));
      }
      return list;
    }
    const size_t each = scalar_bytes(list.type);
    if (list.count > rest_.size() / each) {
      fail("{}: metadata '{}' has {} numbers of {} bytes, more than the file has room for.", path(),
           key, list.count, each);
    }
    list.bytes = take(list.count * each, key);
    if (list.type == ValueType::boolean) check_booleans(key, list.bytes);
    return list;
  }

  void read_tensor() {
    Tensor tensor;
    tensor.name = string("name of a tensor", kMostNameBytes);
    const auto dimensions = number<uint32_t>("number of dimensions");
    if (dimensions < 1 || dimensions > kMostDimensions) {
      fail("{}: tensor '{}' has {} dimensions, expected 1 to {}.", path(), tensor.name, dimensions,
           kMostDimensions);
    }
    int64_t elements = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {
      const auto d = number<uint64_t>("dimension of a tensor");
      if (d < 1 || d > static_cast<uint64_t>(kMostElements) ||
          static_cast<int64_t>(d) > kMostElements / elements) {
        fail("{}: tensor '{}' has a dimension of {}: expected at least 1, and at most {} elements.",
             path(), tensor.name, d, kMostElements);
      }
      elements *= static_cast<int64_t>(d);
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(d));
    }
    const auto type = number<uint32_t>("type of a tensor");
    const GgmlBlock* block = ggml_block(type);
    if (block == nullptr) {
      fail("{}: tensor '{}' has type {}, expected one of {}.", path(), tensor.name, type,
           ggml_type_names());
    }
    if (tensor.shape.back() % block->elements != 0) {
      fail("{}: tensor '{}' has rows of {} elements, expected a multiple of the {} of a {} block.",
           path(), tensor.name, tensor.shape.back(), block->elements, block->name);
    }
    tensor.type = block->type;
    const auto at = number<uint64_t>("offset of a tensor");
    const auto bytes = static_cast<uint64_t>(elements / block->elements * block->bytes);
    places_.push_back({at, bytes, out_.tensors_.size()});
    if (!out_.by_name_.emplace(tensor.name, out_.tensors_.size()).second) {
      fail("{}: tensor '{}' is there twice.", path(), tensor.name);
    }
    out_.tensors_.push_back(std::move(tensor));
  }

  // Offsets count from where the directory ends, rounded up to the alignment.
  void place_tensors() {
    const int64_t alignment = out_.integer("general.alignment", 32);
    if (alignment < 8 || alignment > (1 << 20) || !std::has_single_bit(uint64_t(alignment))) {
      fail("{}: general.alignment is {}, expected a power of two from 8 to {}.", path(), alignment,
           1 << 20);
    }
    if (places_.empty()) return;
    const auto unit = static_cast<uint64_t>(alignment);
    const uint64_t begin = (offset() + unit - 1) / unit * unit;
    const std::span<const std::byte> all = out_.file_->bytes();
    for (const Place& place : places_) {
      Tensor& tensor = out_.tensors_[place.tensor];
      if (place.offset % unit != 0) {
        fail("{}: tensor '{}' begins at offset {}, expected a multiple of {}.", path(), tensor.name,
             place.offset, alignment);
      }
      if (begin > all.size() || place.offset > all.size() - begin ||
          place.bytes > all.size() - begin - place.offset) {
        fail("{}: tensor '{}' of {} bytes at offset {} + {} ends past the file's {} bytes.", path(),
             tensor.name, place.bytes, begin, place.offset, all.size());
      }
      tensor.file = out_.file_;
      tensor.data =
          all.subspan(static_cast<size_t>(begin + place.offset), static_cast<size_t>(place.bytes));
    }
    refuse_overlaps();
  }

  void refuse_overlaps() {
    std::ranges::sort(places_, {}, &Place::offset);
    for (size_t i = 1; i < places_.size(); ++i) {
      const Place &left = places_[i - 1], &right = places_[i];
      if (left.offset + left.bytes <= right.offset) continue;
      fail("{}: the tensors '{}' and '{}' overlap.", path(), out_.tensors_[left.tensor].name,
           out_.tensors_[right.tensor].name);
    }
  }

  File out_;
  std::span<const std::byte> rest_;
  std::vector<Place> places_;
};

File File::open(const std::string& path) {
  constexpr const char* kCount = "split.count";
  File file = Parser(path).run();
  const int64_t count = file.integer(kCount, 1);
  if (count <= 1) return file;
  const std::vector<std::string> paths = part_paths(path);
  if (std::cmp_not_equal(paths.size(), count)) {
    fail(
        "{}: metadata '{}' says that it is one of {} parts, but a part is named "
        "NAME-00001-of-{:05}.gguf.",
        path, kCount, count, count);
  }
  const auto open_part = [&](int64_t i) {
    const std::string& name = paths[static_cast<size_t>(i)];
    File part = name == path ? std::move(file) : Parser(name).run();
    const int64_t no = part.integer("split.no", -1), of = part.integer(kCount, 1);
    if (no != i || of != count) {
      fail("{}: the metadata says part {} (from 0) of {}, but {} of {} is expected.", part.path(),
           no, of, i, count);
    }
    return part;
  };
  File whole = open_part(0);  // holds what the model is, the others only tensors
  for (int64_t i = 1; i < count; ++i) whole.append(open_part(i));
  const auto found = static_cast<int64_t>(whole.tensors_.size());
  if (const int64_t all = whole.integer("split.tensors.count", found); all != found) {
    fail("{}: metadata 'split.tensors.count' is {}, but the {} parts hold {} tensors.",
         whole.path(), all, count, found);
  }
  return whole;
}

void File::append(File part) {
  for (Tensor& tensor : part.tensors_) {
    if (!by_name_.emplace(tensor.name, tensors_.size()).second) {
      fail("{}: tensor '{}' is in an earlier part too.", part.path(), tensor.name);
    }
    tensors_.push_back(std::move(tensor));
  }
}

std::vector<std::string_view> File::keys() const {
  std::vector<std::string_view> keys;
  for (const auto& [key, value] : values_) keys.push_back(key);
  std::ranges::sort(keys);
  return keys;
}

const Value& File::value(std::string_view key) const {
  const auto at = values_.find(key);
  if (at == values_.end()) fail("{}: metadata '{}' is missing.", path(), key);
  return at->second;
}

void File::wrong_type(std::string_view key, std::string_view expected) const {
  fail("{}: metadata '{}' is no {}.", path(), key, expected);
}

int64_t File::integer(std::string_view key) const {
  const auto* found = std::get_if<int64_t>(&value(key));
  if (found == nullptr) wrong_type(key, "integer of 63 bits");
  return *found;
}
int64_t File::integer(std::string_view key, int64_t otherwise) const {
  return has(key) ? integer(key) : otherwise;
}

double File::real(std::string_view key) const {
  const auto* found = std::get_if<double>(&value(key));
  if (found == nullptr) wrong_type(key, "floating-point number");
  return *found;
}
double File::real(std::string_view key, double otherwise) const {
  return has(key) ? real(key) : otherwise;
}

bool File::boolean(std::string_view key, bool otherwise) const {
  if (!has(key)) return otherwise;
  const auto* found = std::get_if<bool>(&value(key));
  if (found == nullptr) wrong_type(key, "boolean");
  return *found;
}

std::string_view File::text(std::string_view key) const {
  const auto* found = std::get_if<std::string_view>(&value(key));
  if (found == nullptr) wrong_type(key, "string");
  return *found;
}
std::string_view File::text(std::string_view key, std::string_view otherwise) const {
  return has(key) ? text(key) : otherwise;
}

std::span<const std::string_view> File::texts(std::string_view key) const {
  const auto* found = std::get_if<Array>(&value(key));
  if (found == nullptr || found->type != ValueType::string) wrong_type(key, "list of strings");
  return found->strings;
}

std::vector<int64_t> File::integers(std::string_view key) const {
  const auto* found = std::get_if<Array>(&value(key));
  std::vector<int64_t> out;
  if (found == nullptr || found->type == ValueType::string) wrong_type(key, "list of integers");
  if (found->count > kMostIntegers) {
    fail("{}: metadata '{}' has {} integers, expected at most {}.", path(), key, found->count,
         kMostIntegers);
  }
  for (uint64_t i = 0; i < found->count; ++i) {
    const Value element = scalar(found->type, &found->bytes[i * scalar_bytes(found->type)]);
    if (const auto* flag = std::get_if<bool>(&element)) {
      out.push_back(*flag ? 1 : 0);
      continue;
    }
    const auto* number = std::get_if<int64_t>(&element);
    if (number == nullptr) wrong_type(key, "list of integers of 63 bits");
    out.push_back(*number);
  }
  return out;
}

std::vector<float> File::reals(std::string_view key) const {
  const auto* found = std::get_if<Array>(&value(key));
  std::vector<float> out;
  if (found == nullptr || found->type != ValueType::f32) wrong_type(key, "list of f32");
  out.resize(found->count);
  if (!out.empty()) std::memcpy(out.data(), found->bytes.data(), found->bytes.size());
  return out;
}

const Tensor* File::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

const Tensor& File::tensor(std::string_view name, std::span<const int64_t> shape) const {
  const Tensor* found = find(name);
  if (found == nullptr) fail("{}: tensor '{}' is missing.", path(), name);
  if (!std::ranges::equal(found->shape, shape)) {
    fail("{}: tensor '{}' has the shape [{}], expected [{}].", path(), name,
         fmt::join(found->shape, ", "), fmt::join(shape, ", "));
  }
  return *found;
}

}  // namespace nibble::frontends::gguf
