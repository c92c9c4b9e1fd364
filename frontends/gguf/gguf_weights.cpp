#include "frontends/gguf/gguf_weights.h"

#include <optional>
#include <string>
#include <utility>

#include "frontends/gguf/ggml_numbers.h"
#include "graph/matrix_source.h"
#include "jit/error.h"

namespace nibble::frontends::gguf {
namespace {

using graph::DType;
using graph::TensorData;

// Rows of blocks: a row of the file is a column of the matrix.
class QuantizedColumns : public graph::ColumnReader {
 public:
  explicit QuantizedColumns(const Tensor& tensor)
      : ColumnReader(tensor.shape[0], tensor.shape[1]),
        type_(tensor.type),
        data_(tensor.data),
        owner_(tensor.file) {}

  void read_column(int64_t c, std::span<float> out) const override {
    dequantize(type_, row(c), out);
  }
  std::optional<jit::WeightFormat> packed_format() const override {
    return gguf::packed_format(type_);
  }
  void read_numbers(int64_t c, graph::QuantizedColumn& out) const override {
    gguf::read_numbers(type_, row(c),
                       {out.q, out.scales, out.offsets, out.super_scales, out.super_offsets});
  }
  std::string_view type() const override { return ggml_block(type_).name; }
  void release() const noexcept override { runtime::release_pages(data_); }

 private:
  std::span<const std::byte> row(int64_t c) const {
    const GgmlBlock& block = ggml_block(type_);
    const auto bytes = static_cast<size_t>(k() / block.elements * block.bytes);
    return data_.subspan(static_cast<size_t>(c) * bytes, bytes);
  }

  GgmlType type_;
  std::span<const std::byte> data_;
  std::shared_ptr<const void> owner_;
};

TensorData view(DType dtype, graph::Shape shape, std::span<const std::byte> data,
                const std::shared_ptr<const void>& owner) {
  return {dtype, std::move(shape), data.data(), data.size(), owner};
}

void add(const File& file, const Tensor& tensor, decoder::Checkpoint& out) {
  const std::string name(tensor.name);
  const std::shared_ptr<const void> owner = tensor.file;
  if (!is_weight(tensor.type)) {
    fail("{}: the tensor '{}' is {}, but weights are expected.", file.path(), name,
         ggml_block(tensor.type).name);
  }
  switch (tensor.type) {
    case GgmlType::f32:
      return out.add(name, view(DType::f32, tensor.shape, tensor.data, owner));
    case GgmlType::f16:
      return out.add(name, view(DType::f16, tensor.shape, tensor.data, owner));
    case GgmlType::bf16:
      return out.add(name, view(DType::bf16, tensor.shape, tensor.data, owner));
    default:
      break;
  }
  if (tensor.shape.size() != 2) {
    fail("{}: the tensor '{}' is {} of {} dimensions, but quantized tensors have 2.", file.path(),
         name, ggml_block(tensor.type).name, tensor.shape.size());
  }
  const auto columns = std::make_shared<QuantizedColumns>(tensor);
  out.add(name, graph::MatrixSource::whole(std::shared_ptr<const graph::ColumnReader>(columns)));
}

}  // namespace

decoder::Checkpoint read_weights(const File& file) {
  decoder::Checkpoint checkpoint(file.path());
  for (const Tensor& tensor : file.tensors()) add(file, tensor, checkpoint);
  return checkpoint;
}

}  // namespace nibble::frontends::gguf
