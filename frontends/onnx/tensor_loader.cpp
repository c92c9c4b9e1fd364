#include "frontends/onnx/tensor_loader.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "jit/error.h"

namespace nibble::frontends::onnx {
namespace {

namespace fs = std::filesystem;
using graph::DType;
using graph::TensorData;

struct DataTypeName {
  std::string_view name;
  std::optional<DType> dtype;
};

// TensorProto.DataType by number.
constexpr std::array<DataTypeName, 25> kDataTypes{
    {{"UNDEFINED", {}},        {"FLOAT", DType::f32},     {"UINT8", DType::u8},
     {"INT8", DType::i8},      {"UINT16", DType::u16},    {"INT16", DType::i16},
     {"INT32", DType::i32},    {"INT64", DType::i64},     {"STRING", {}},
     {"BOOL", DType::boolean}, {"FLOAT16", DType::f16},   {"DOUBLE", DType::f64},
     {"UINT32", DType::u32},   {"UINT64", DType::u64},    {"COMPLEX64", {}},
     {"COMPLEX128", {}},       {"BFLOAT16", DType::bf16}, {"FLOAT8E4M3FN", {}},
     {"FLOAT8E4M3FNUZ", {}},   {"FLOAT8E5M2", {}},        {"FLOAT8E5M2FNUZ", {}},
     {"UINT4", DType::u4},     {"INT4", DType::i4},       {"FLOAT4E2M1", {}},
     {"FLOAT8E8M0", {}}}};

// Bytes of a tensor of this type and shape. Throws Error instead of overflowing.
size_t expected_bytes(DType dtype, const graph::Shape& shape, const std::string& who) {
  int64_t bits = 0;
  try {
    if (__builtin_mul_overflow(graph::element_count(shape), graph::dtype_bits(dtype), &bits) ||
        bits > std::numeric_limits<int64_t>::max() - 7) {
      fail("The shape {} is larger than any file.", graph::to_string(shape));
    }
  } catch (const Error& error) {
    fail("{} is of no possible size: {}", who, error.what());
  }
  return static_cast<size_t>((bits + 7) / 8);
}

[[noreturn]] void wrong_size(const std::string& who, const TensorData& data, uint64_t found,
                             std::string_view unit) {
  fail("{} is {} {}, which takes {} bytes, but the file holds {} {}.", who,
       graph::dtype_name(data.dtype), graph::to_string(data.shape), data.bytes, found, unit);
}

// A tensor that owns its bytes.
void adopt(TensorData& data, std::vector<std::byte> bytes) {
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  data.data = owner->data();
  data.owner = std::move(owner);
}

// Varints, each stored as `element` bytes (an integer, or the bit pattern of a 16-bit float).
std::vector<std::byte> decode_varints(const std::vector<Bytes>& chunks, size_t element,
                                      bool is_signed, size_t limit, const std::string& who) {
  const int64_t top = element == 8 ? std::numeric_limits<int64_t>::max()
                                   : (int64_t{1} << (element * 8 - (is_signed ? 1 : 0))) - 1;
  const int64_t bottom = is_signed ? -top - 1 : 0;
  std::vector<std::byte> out;
  out.reserve(limit);
  for (Bytes chunk : chunks) {
    while (!chunk.empty()) {
      const auto bits = decode_varint(chunk);
      if (!bits) fail("{} is damaged: an integer in its data does not end.", who);
      const auto value = static_cast<int64_t>(*bits);
      if (element < 8 && (value < bottom || value > top)) {
        fail("{} holds the value {}, but its type ranges from {} to {}.", who, value, bottom, top);
      }
      const auto* raw = reinterpret_cast<const std::byte*>(&*bits);
      out.insert(out.end(), raw, raw + element);
      // Stop early: a damaged file must not make this larger than the tensor it claims to be.
      if (out.size() > limit) return out;
    }
  }
  return out;
}

struct TypedField {
  std::string_view name;
  const std::vector<Bytes>* chunks;
};

std::array<TypedField, 5> typed_fields(const TensorProto& tensor) {
  return {{{"float_data", &tensor.float_data},
           {"double_data", &tensor.double_data},
           {"int32_data", &tensor.int32_data},
           {"int64_data", &tensor.int64_data},
           {"uint64_data", &tensor.uint64_data}}};
}

// The field that onnx.proto prescribes for a type.
std::string_view field_for(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float_data";
    case DType::f64:
      return "double_data";
    case DType::i64:
      return "int64_data";
    case DType::u32:
    case DType::u64:
      return "uint64_data";
    default:
      return "int32_data";
  }
}

bool is_signed_integer(DType dtype) {
  return dtype == DType::i8 || dtype == DType::i16 || dtype == DType::i32 || dtype == DType::i64;
}

void load_typed(const TypedField& field, TensorData& data,
                const std::shared_ptr<const runtime::MappedFile>& model, const std::string& who) {
  if (field.name == "float_data" || field.name == "double_data") {
    size_t total = 0;
    for (const Bytes chunk : *field.chunks) total += chunk.size();
    if (total != data.bytes) wrong_size(who, data, total, "bytes");
    if (field.chunks->size() == 1) {  // packed: these are the tensor's very bytes
      data.data = field.chunks->front().data();
      data.owner = model;
      return;
    }
    std::vector<std::byte> bytes;
    bytes.reserve(total);
    for (const Bytes chunk : *field.chunks) bytes.insert(bytes.end(), chunk.begin(), chunk.end());
    adopt(data, std::move(bytes));
    return;
  }
  const size_t element =
      std::max<size_t>(1, static_cast<size_t>(graph::dtype_bits(data.dtype)) / 8);
  // Each element takes a byte of the file at least.
  size_t encoded = 0;
  for (const Bytes chunk : *field.chunks) encoded += chunk.size();
  if (data.bytes / element > encoded) wrong_size(who, data, encoded, "bytes of varints");
  auto bytes =
      decode_varints(*field.chunks, element, is_signed_integer(data.dtype), data.bytes, who);
  if (bytes.size() != data.bytes) {
    wrong_size(who, data, bytes.size() / element,
               bytes.size() > data.bytes ? "elements or more" : "elements");
  }
  adopt(data, std::move(bytes));
}

// The contents of external_data. Unknown keys are refused: a damaged "offset" must not read as 0.
struct Location {
  std::string_view path;
  uint64_t offset = 0;
  std::optional<uint64_t> length;
};

uint64_t decimal(std::string_view text, std::string_view key, const std::string& who) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    fail("{} has external data with the {} \"{}\", but a decimal number is expected.", who, key,
         text);
  }
  return value;
}

Location parse_location(const TensorProto& tensor, const std::string& who) {
  Location location;
  std::vector<std::string_view> seen;
  for (const auto& [key, value] : tensor.external_data) {
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      fail("{} has external data with two entries \"{}\", but one is expected.", who, key);
    }
    seen.push_back(key);
    if (key == "location") {
      location.path = value;
    } else if (key == "offset") {
      location.offset = decimal(value, key, who);
    } else if (key == "length") {
      location.length = decimal(value, key, who);
    } else if (key != "checksum") {
      fail(
          "{} has external data with an entry \"{}\", but location, offset, length and checksum "
          "are known.",
          who, key);
    }
  }
  if (location.path.empty()) fail("{} has external data without a location.", who);
  return location;
}

bool is_inside(const fs::path& file, const fs::path& folder) {
  const auto [at, ignored] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
  return at == folder.end();
}

}  // namespace

DType dtype_of(int64_t data_type, const std::string& who) {
  const bool known = data_type >= 0 && data_type < static_cast<int64_t>(kDataTypes.size());
  if (!known || !kDataTypes[static_cast<size_t>(data_type)].dtype) {
    fail("{} has the element type {} ({}), which is not supported.", who,
         known ? kDataTypes[static_cast<size_t>(data_type)].name : "unknown", data_type);
  }
  return *kDataTypes[static_cast<size_t>(data_type)].dtype;
}

TensorLoader::TensorLoader(std::string path, std::shared_ptr<const runtime::MappedFile> model)
    : path_(std::move(path)), model_(std::move(model)) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path_, error);
  if (!error) given_folder_ = fs::canonical(absolute.parent_path(), error);
  if (!error) real_folder_ = fs::canonical(absolute, error).parent_path();
  if (error) fail("{}: its folder cannot be resolved: {}.", path_, error.message());
}

fs::path TensorLoader::resolve(std::string_view location, const std::string& who) const {
  const fs::path relative(location);
  if (relative.is_absolute()) {
    fail("{} has external data at \"{}\", but a path relative to the model is expected.", who,
         location);
  }
  if (std::find(relative.begin(), relative.end(), "..") != relative.end()) {
    fail("{} has external data at \"{}\", which may leave the model's folder.", who, location);
  }
  std::error_code error;
  fs::path file = fs::canonical(given_folder_ / relative, error);
  if (error) file = fs::canonical(real_folder_ / relative, error);
  if (error) {
    fail("{} has external data in \"{}\", but that file cannot be opened: {}.", who,
         (given_folder_ / relative).string(), error.message());
  }
  if (!is_inside(file, given_folder_) && !is_inside(file, real_folder_)) {
    fail("{} has external data at \"{}\", which is really \"{}\", outside the model's folder.", who,
         location, file.string());
  }
  if (!fs::is_regular_file(file, error)) {
    fail("{} has external data at \"{}\", which is not a regular file.", who, location);
  }
  return file;
}

std::shared_ptr<const runtime::MappedFile> TensorLoader::open_external(std::string_view location,
                                                                       const std::string& who) {
  const fs::path file = resolve(location, who);
  auto& mapped = files_[file];
  if (!mapped) mapped = runtime::MappedFile::open(file.string());
  return mapped;
}

TensorData TensorLoader::load_external(const TensorProto& tensor, TensorData data,
                                       const std::string& who) {
  const Location location = parse_location(tensor, who);
  if (location.length && *location.length != data.bytes) {
    fail("{} is {} {}, which takes {} bytes, but its external data has length {}.", who,
         graph::dtype_name(data.dtype), graph::to_string(data.shape), data.bytes, *location.length);
  }
  const auto file = open_external(location.path, who);
  const uint64_t size = file->bytes().size();
  if (location.offset > size || data.bytes > size - location.offset) {
    fail("{} has external data at bytes {} to {} + {} of \"{}\", but that file has {} bytes.", who,
         location.offset, location.offset, data.bytes, file->path(), size);
  }
  data.data = file->bytes().data() + location.offset;
  data.owner = file;
  return data;
}

TensorData TensorLoader::load(const TensorProto& tensor, const std::string& what) {
  const std::string who = fmt::format("{}: {}", path_, what);
  TensorData data;
  data.dtype = dtype_of(tensor.data_type, who);
  data.shape = tensor.dims;
  data.bytes = expected_bytes(data.dtype, data.shape, who);
  if (tensor.has_segment) fail("{} is one segment of a tensor, which is not supported.", who);
  if (tensor.has_string_data) {
    fail("{} has string data, but its type is {}.", who, graph::dtype_name(data.dtype));
  }
  if (tensor.data_location != 0 && tensor.data_location != 1) {
    fail("{} has the data location {}, but 0 (inside) or 1 (external) is expected.", who,
         tensor.data_location);
  }

  const TypedField* typed = nullptr;
  const auto fields = typed_fields(tensor);
  for (const TypedField& field : fields) {
    if (field.chunks->empty()) continue;
    if (tensor.raw_data || tensor.data_location == 1 || typed != nullptr) {
      fail("{} has its data twice: in {} and elsewhere.", who, field.name);
    }
    if (field.name != field_for(data.dtype)) {
      fail("{} is of type {}, whose data should be in {}, but it is in {}.", who,
           graph::dtype_name(data.dtype), field_for(data.dtype), field.name);
    }
    typed = &field;
  }
  if (tensor.data_location == 1) {
    if (tensor.raw_data) fail("{} has its data twice: in raw_data and external.", who);
    return load_external(tensor, std::move(data), who);
  }
  if (typed != nullptr) {
    // Eight bytes of one: real weights are stored as they are.
    constexpr size_t kMost = size_t{1} << 25;
    if (graph::dtype_bits(data.dtype) == 64 && typed->name != "double_data") {
      if (data.bytes > kMost - varint_bytes_) {
        fail("{} has {} bytes as varints, but more than {} in a model are expected in raw_data.",
             who, data.bytes, kMost);
      }
      varint_bytes_ += data.bytes;
    }
    load_typed(*typed, data, model_, who);
    return data;
  }
  const Bytes raw = tensor.raw_data.value_or(Bytes{});
  if (raw.size() != data.bytes) wrong_size(who, data, raw.size(), "bytes");
  data.data = raw.data();
  data.owner = model_;
  return data;
}

}  // namespace nibble::frontends::onnx
