#include "tests/support/npy.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

#include "jit/error.h"

namespace nibble::test {
namespace {

constexpr std::string_view kMagic("\x93NUMPY\x01\x00", 8);

// The text after "'key': " in the header's dictionary, from its first character on.
std::string_view entry(const std::string& path, std::string_view header, std::string_view key) {
  const size_t at = header.find(fmt::format("'{}': ", key));
  if (at == std::string_view::npos) fail("{} has no \"{}\" in its npy header.", path, key);
  return header.substr(at + key.size() + 4);
}

std::vector<int64_t> parse_shape(const std::string& path, std::string_view text) {
  const size_t close = text.find(')');
  if (text.empty() || text[0] != '(' || close == std::string_view::npos) {
    fail("{} has no shape in its npy header.", path);
  }
  std::vector<int64_t> shape;
  int64_t dim = -1;
  for (const char c : text.substr(1, close)) {  // up to and with the bracket, which ends a number
    if (c >= '0' && c <= '9') {
      dim = (dim < 0 ? 0 : dim) * 10 + (c - '0');
      if (dim > (int64_t{1} << 32)) fail("{} has a dimension of {} or more.", path, dim);
    } else if (dim >= 0) {
      shape.push_back(dim);
      dim = -1;
    }
  }
  return shape;
}

template <typename T>
Npy<T> read(const std::string& path, std::string_view descr) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("{} cannot be opened.", path);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (bytes.size() < 10 || std::string_view(bytes).substr(0, 8) != kMagic) {
    fail("{} does not begin as an npy file of version 1.0.", path);
  }
  const size_t length =
      static_cast<uint8_t>(bytes[8]) + size_t{256} * static_cast<uint8_t>(bytes[9]);
  if (bytes.size() < 10 + length) fail("{} ends inside its npy header.", path);
  const std::string_view header = std::string_view(bytes).substr(10, length);
  if (!entry(path, header, "descr").starts_with(fmt::format("'{}'", descr))) {
    fail("{} is not of the type {}.", path, descr);
  }
  if (!entry(path, header, "fortran_order").starts_with("False")) {
    fail("{} is not in C order.", path);
  }
  Npy<T> array{parse_shape(path, entry(path, header, "shape")), {}};
  size_t count = 1;
  for (const int64_t dim : array.shape) {
    if (__builtin_mul_overflow(count, static_cast<size_t>(dim), &count)) {
      fail("{} has too many elements to count.", path);
    }
  }
  const size_t data = bytes.size() - 10 - length;
  if (data % sizeof(T) != 0 || data / sizeof(T) != count) {
    fail("{} holds {} bytes of data where {} elements of {} bytes are expected.", path, data, count,
         sizeof(T));
  }
  array.values.resize(count);
  if (count > 0) std::memcpy(array.values.data(), bytes.data() + 10 + length, data);
  return array;
}

template <typename T>
void write(const std::string& path, std::string_view descr, const Npy<T>& array) {
  std::string shape;
  for (const int64_t dim : array.shape) shape += fmt::format("{}, ", dim);
  if (array.shape.size() > 1) shape.resize(shape.size() - 2);
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr, shape);
  header.resize((header.size() + 10 + 64) / 64 * 64 - 10 - 1, ' ');  // data begins 64-byte aligned
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  file << kMagic << static_cast<char>(header.size() & 255) << static_cast<char>(header.size() >> 8)
       << header;
  file.write(reinterpret_cast<const char*>(array.values.data()),
             static_cast<std::streamsize>(array.values.size() * sizeof(T)));
  file.close();
  if (!file) fail("{} cannot be written.", path);
}

}  // namespace

Npy<float> read_npy_f32(const std::string& path) { return read<float>(path, "<f4"); }
Npy<int64_t> read_npy_i64(const std::string& path) { return read<int64_t>(path, "<i8"); }
void write_npy(const std::string& path, const Npy<float>& array) { write(path, "<f4", array); }
void write_npy(const std::string& path, const Npy<int64_t>& array) { write(path, "<i8", array); }

}  // namespace nibble::test
