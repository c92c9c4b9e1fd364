#include "tools/cli/npy.h"

#include <fmt/ranges.h>

#include <charconv>
#include <cstring>
#include <string_view>

#include "jit/error.h"
#include "runtime/mapped_file.h"

namespace nibble::cli {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";

// What follows `key` in the header's Python dictionary, which writers spell alike but for spaces.
std::string_view entry(std::string_view header, std::string_view key, const std::string& path) {
  const std::string quoted = fmt::format("'{}':", key);
  const size_t at = header.find(quoted);
  if (at == std::string_view::npos) fail("{}: its header has no {}.", path, key);
  std::string_view rest = header.substr(at + quoted.size());
  while (rest.starts_with(' ')) rest.remove_prefix(1);
  return rest;
}

std::vector<int64_t> parse_shape(std::string_view text, const std::string& path) {
  const size_t close = text.find(')');
  if (!text.starts_with('(') || close == std::string_view::npos) {
    fail("{}: its shape is no tuple.", path);
  }
  text = text.substr(1, close - 1);
  std::vector<int64_t> shape;
  while (!text.empty()) {
    if (text.front() == ' ' || text.front() == ',') {
      text.remove_prefix(1);
      continue;
    }
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || value < 0) fail("{}: its shape is no tuple of sizes.", path);
    shape.push_back(value);
    text.remove_prefix(static_cast<size_t>(end - text.data()));
  }
  return shape;
}

struct Parts {
  std::string_view header, data;
};

Parts split(std::string_view file, const std::string& path) {
  if (!file.starts_with(kMagic) || file.size() < 10) fail("{}: this is no .npy file.", path);
  const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(file[i])); };
  const size_t version = byte(6);
  if (version < 1 || version > 3) {
    fail("{}: it has format version {}, expected 1 to 3.", path, version);
  }
  const size_t start = version == 1 ? 10 : 12;
  if (file.size() < start) fail("{}: it ends within its header.", path);
  size_t length = byte(8) | byte(9) << 8;
  if (version > 1) length |= byte(10) << 16 | byte(11) << 24;
  if (file.size() - start < length) fail("{}: it ends within its header.", path);
  return {file.substr(start, length), file.substr(start + length)};
}

}  // namespace

IdMatrix read_ids(const std::string& path) {
  const auto file = runtime::MappedFile::open(path);
  const auto bytes = file->bytes();
  const auto [header, data] =
      split({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
  const std::string_view type = entry(header, "descr", path);
  if (!type.starts_with("'<i8'")) {
    fail("{}: its values should be '<i8' (little-endian int64), found {}.", path,
         type.substr(0, type.find(',')));
  }
  const std::string_view order = entry(header, "fortran_order", path);
  if (!order.starts_with("False")) fail("{}: its values should be in C order.", path);
  const std::vector<int64_t> shape = parse_shape(entry(header, "shape", path), path);
  if (shape.size() != 2) {
    fail("{}: its shape should be [batch, length], found [{}].", path, fmt::join(shape, ", "));
  }
  IdMatrix ids{shape[0], shape[1], {}};
  if (ids.rows == 0 || ids.columns == 0) {
    fail("{}: it holds no ids, its shape is [{}].", path, fmt::join(shape, ", "));
  }
  const size_t values = data.size() / sizeof(int64_t);
  const auto rows = static_cast<size_t>(ids.rows), columns = static_cast<size_t>(ids.columns);
  // By division, as the product of two sizes from a file may overflow.
  if (data.size() % sizeof(int64_t) != 0 || values % rows != 0 || values / rows != columns) {
    fail("{}: its shape is [{}], but it holds {} bytes of values.", path, fmt::join(shape, ", "),
         data.size());
  }
  ids.values.resize(values);
  std::memcpy(ids.values.data(), data.data(), data.size());
  return ids;
}

FloatFile::FloatFile(const std::string& path, std::span<const int64_t> shape)
    : path_(path), file_(path) {
  for (const int64_t size : shape) left_ *= size;
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}",
                                   fmt::join(shape, ", "));
  // The values start at a multiple of 64.
  header.resize((10 + header.size()) / 64 * 64 + 64 - 10 - 1, ' ');
  header += '\n';
  std::string front(kMagic);
  front += '\1';
  front += '\0';
  front += static_cast<char>(header.size() & 0xFF);
  front += static_cast<char>(header.size() >> 8);
  front += header;
  file_.append(std::as_bytes(std::span(front)));
}

void FloatFile::append(std::span<const float> values) {
  left_ -= static_cast<int64_t>(values.size());
  file_.append(std::as_bytes(values));
}

void FloatFile::commit() {
  if (left_ != 0) fail("{}: {} values of it were never written.", path_, left_);
  file_.commit();
}

}  // namespace nibble::cli
