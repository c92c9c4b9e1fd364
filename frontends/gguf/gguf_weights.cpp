#include "frontends/gguf/gguf_weights.h"

#include <string>
#include <utility>

#include "graph/matrix_source.h"
#include "jit/error.h"

namespace nibble::frontends::gguf {
namespace {

using graph::DType;
using graph::QuantizedMatrix;
using graph::TensorData;

// Rows of blocks: a row of the file is a column of the matrix.
class DequantizedColumns : public graph::ColumnReader {
 public:
  explicit DequantizedColumns(const Tensor& tensor)
      : ColumnReader(tensor.shape[0], tensor.shape[1]),
        type_(tensor.type),
        data_(tensor.data),
        owner_(tensor.file) {}

  void read_column(int64_t c, std::span<float> out) const override {
    const GgmlBlock& block = ggml_block(type_);
    const auto bytes = static_cast<size_t>(k() / block.elements * block.bytes);
    dequantize(type_, data_.subspan(static_cast<size_t>(c) * bytes, bytes), out);
  }
  std::string_view type() const override { return ggml_block(type_).name; }
  bool is_dequantized() const override { return true; }
  void release() const noexcept override { runtime::release_pages(data_); }

 private:
  GgmlType type_;
  std::span<const std::byte> data_;
  std::shared_ptr<const void> owner_;
};

TensorData view(DType dtype, graph::Shape shape, std::span<const std::byte> data,
                const std::shared_ptr<const void>& owner) {
  return {dtype, std::move(shape), data.data(), data.size(), owner};
}

// Q4_0: 18 bytes of 32 weights: a scale, then bytes whose low nibbles are the first 16 weights and
// whose high nibbles the last 16. Q8_0: 34 bytes: a scale, then signed bytes.
std::shared_ptr<const QuantizedMatrix> quantized(const Tensor& tensor,
                                                 const std::shared_ptr<const void>& owner) {
  constexpr int64_t kScale = sizeof(uint16_t);  // bytes in front of a block's weights
  const GgmlBlock& block = ggml_block(tensor.type);
  const bool nibbles = tensor.type == GgmlType::q4_0;
  auto m = std::make_shared<QuantizedMatrix>();
  m->n = tensor.shape[0];
  m->k = tensor.shape[1];
  m->group = block.elements;
  m->bits = nibbles ? 4 : 8;
  m->is_signed = !nibbles;
  m->default_zero = nibbles ? 8 : 0;
  const int64_t blocks = m->k / block.elements, bytes = static_cast<int64_t>(tensor.data.size());
  m->values = view(nibbles ? DType::u4 : DType::i8, {(bytes - kScale) * 8 / m->bits},
                   tensor.data.subspan(kScale), owner);
  const int64_t step = block.bytes * 8 / m->bits;  // in weights
  m->value_at = {.column = blocks * step,
                 .step = nibbles ? 2 : 1,
                 .block = block.elements,
                 .block_step = step,
                 .run = nibbles ? 16 : 0,
                 .run_step = nibbles ? 1 : 0};
  m->scales = view(DType::f16, {bytes / kScale}, tensor.data, owner);
  m->scale_at = {.column = blocks * block.bytes / kScale, .step = block.bytes / kScale};
  m->check(std::string(tensor.name));
  return m;
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
  if (tensor.type == GgmlType::q4_0 || tensor.type == GgmlType::q8_0) {
    return out.add(name, graph::MatrixSource::whole(quantized(tensor, owner)));
  }
  const auto columns = std::make_shared<DequantizedColumns>(tensor);
  out.add(name, graph::MatrixSource::whole(std::shared_ptr<const graph::ColumnReader>(columns)));
}

}  // namespace

decoder::Checkpoint read_weights(const File& file) {
  decoder::Checkpoint checkpoint(file.path());
  for (const Tensor& tensor : file.tensors()) add(file, tensor, checkpoint);
  return checkpoint;
}

}  // namespace nibble::frontends::gguf
