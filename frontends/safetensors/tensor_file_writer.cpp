#include "frontends/safetensors/tensor_file_writer.h"

#include <fmt/format.h>

#include <cctype>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "jit/error.h"
#include "runtime/atomic_file.h"

namespace nibble::frontends::safetensors {
namespace {

constexpr uint64_t kAlignment = 64;  // of the data's beginning

std::string dtype_text(graph::DType dtype) {
  std::string text;
  for (const char c : graph::dtype_name(dtype)) text += static_cast<char>(std::toupper(c));
  return text;
}

uint64_t byte_count(const WrittenTensor& tensor) {
  return static_cast<uint64_t>(graph::element_count(tensor.shape) *
                               graph::dtype_bits(tensor.dtype) / 8);
}

std::string header_of(const std::vector<WrittenTensor>& tensors) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t at = 0;
  for (const WrittenTensor& tensor : tensors) {
    const uint64_t end = at + byte_count(tensor);
    header[tensor.name] = {
        {"dtype", dtype_text(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump();
  text.append((kAlignment - (text.size() + sizeof(uint64_t)) % kAlignment) % kAlignment, ' ');
  return text;
}

}  // namespace

void write_tensor_file(const std::string& path, const std::vector<WrittenTensor>& tensors) {
  runtime::AtomicFile file(path);
  const std::string header = header_of(tensors);
  const uint64_t length = header.size();
  file.append(std::as_bytes(std::span(&length, 1)));
  file.append(std::as_bytes(std::span(header)));
  for (const WrittenTensor& tensor : tensors) {
    const uint64_t begin = file.size();
    tensor.write([&](std::span<const std::byte> bytes) { file.append(bytes); });
    if (file.size() - begin != byte_count(tensor)) {
      fail("{}: the tensor '{}' was given {} bytes, but {} is {}.", path, tensor.name,
           file.size() - begin, graph::to_string(tensor.shape), byte_count(tensor));
    }
  }
  file.commit();
}

}  // namespace nibble::frontends::safetensors
