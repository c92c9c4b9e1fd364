#include "frontends/onnx/export_weights.h"

#include <algorithm>
#include <numeric>

#include "graph/ops.h"
#include "jit/error.h"
#include "jit/packed_layout.h"
#include "jit/packed_numbers.h"

namespace nibble::frontends::onnx {
namespace {

using jit::PackedView;
using jit::WeightType;

constexpr int64_t kLeastBlock = 16, kMostBlock = 256;
constexpr const char* kMicrosoft = "com.microsoft";

std::vector<int64_t> all_columns(int64_t n) {
  std::vector<int64_t> columns(static_cast<size_t>(n));
  std::iota(columns.begin(), columns.end(), int64_t{0});
  return columns;
}

// Numbers of `bits` bits one after another, the low nibble first; begun anew by a row.
void append_row(const std::vector<uint8_t>& row, int64_t bits, std::vector<uint8_t>& out) {
  if (bits == 8) {
    out.insert(out.end(), row.begin(), row.end());
    return;
  }
  for (size_t i = 0; i < row.size(); i += 2) {
    const int high = i + 1 < row.size() ? row[i + 1] : 0;
    out.push_back(static_cast<uint8_t>(row[i] | high << 4));
  }
}

std::vector<float> columns_of_f32(const PackedView& view, const std::vector<int64_t>& columns) {
  const auto k = static_cast<size_t>(view.k);
  std::vector<float> values(columns.size() * k);
  for (size_t c = 0; c < columns.size(); ++c) {
    jit::unpack_column(view, columns[c], std::span(values).subspan(c * k, k));
  }
  return values;
}

// [n][k] to [k][n], a few columns at a time so that lines are used whole.
std::vector<float> transposed(const std::vector<float>& values, size_t n, size_t k) {
  constexpr size_t kAtOnce = 16;
  std::vector<float> out(values.size());
  for (size_t c0 = 0; c0 < n; c0 += kAtOnce) {
    const size_t end = std::min(n, c0 + kAtOnce);
    for (size_t kk = 0; kk < k; ++kk) {
      for (size_t c = c0; c < end; ++c) out[kk * n + c] = values[c * k + kk];
    }
  }
  return out;
}

}  // namespace

int64_t block_of_group(int64_t group, int64_t k, const std::string& matrix) {
  if (group == 0 || group >= k) {
    int64_t block = kLeastBlock;
    while (block < k && block < kMostBlock) block *= 2;
    return block;
  }
  const int64_t block = std::min(group & -group, kMostBlock);
  if (block < kLeastBlock) {
    fail(
        "The weight '{}' has groups of {}, but MatMulNBits takes groups of {} and its multiples: "
        "quantize it anew.",
        matrix, group, kLeastBlock);
  }
  return block;
}

WeightWriter::WeightWriter(const graph::Graph& graph, ModelWriter& writer)
    : graph_(graph), writer_(writer) {
  for (const graph::Node& node : graph.nodes) {
    if (node.is("Embedding", graph::kNibbleDomain)) tables_.insert(matrix(node).data);
    if (node.is("Linear", graph::kNibbleDomain)) heads_.insert(matrix(node).data);
  }
}

const PackedView& WeightWriter::matrix(const graph::Node& node) const {
  const auto& constant = graph_.values[static_cast<size_t>(node.inputs[1])].constant;
  const auto* packed = constant ? std::get_if<runtime::PackedMatrix>(&*constant) : nullptr;
  if (packed == nullptr) {
    fail("{}: the weight '{}' is not packed yet, so it cannot be exported.", graph_.origin,
         graph_.value_name(node.inputs[1]));
  }
  return packed->view;
}

bool WeightWriter::is_shared(const PackedView& view) const {
  return tables_.contains(view.data) && heads_.contains(view.data);
}

WeightWriter::Tensors WeightWriter::write(const PackedView& view, const std::string& name,
                                          const std::vector<int64_t>& columns, bool flat) {
  const jit::PackedShape shape = jit::packed_shape(view.format, view.n, view.k);
  if (view.format.minimum) {
    fail(
        "The weight '{}' has minimums, but MatMulNBits holds zero points: compile the model's "
        "floats (not a file whose groups have minimums) for it.",
        name);
  }
  const auto n = static_cast<int64_t>(columns.size());
  Tensors tensors;
  tensors.bits = view.format.type == WeightType::u4 ? 4 : 8;
  const int shift = view.format.type == WeightType::u6 ? 128 - 32 : 0;  // six bits as eight
  const int64_t block = tensors.block = block_of_group(view.format.group, view.k, name);
  const int64_t blocks = tensors.blocks = (view.k + block - 1) / block;
  const auto width = static_cast<size_t>(flat ? view.k : blocks * block);
  std::vector<uint8_t> q(static_cast<size_t>(view.k)), row(width);
  std::vector<uint8_t> zero(static_cast<size_t>(shape.groups)),
      block_zeros(static_cast<size_t>(blocks)), values, zeros;
  std::vector<float> scale(zero.size()), scales;
  values.reserve(static_cast<size_t>(n) * width * static_cast<size_t>(tensors.bits) / 8);
  scales.reserve(static_cast<size_t>(n * blocks));
  for (const int64_t column : columns) {
    jit::unpack_quantized(view, column, q, scale, zero);
    for (uint8_t& value : q) value = static_cast<uint8_t>(value + shift);
    for (uint8_t& value : zero) value = static_cast<uint8_t>(value + shift);
    std::fill(std::copy(q.begin(), q.end(), row.begin()), row.end(), zero.back());
    append_row(row, tensors.bits, values);
    for (int64_t b = 0; b < blocks; ++b) {
      const auto group = static_cast<size_t>(b * block / shape.group);
      scales.push_back(scale[group]);
      block_zeros[static_cast<size_t>(b)] = zero[group];
    }
    append_row(block_zeros, tensors.bits, zeros);
  }
  const int64_t row_bytes = static_cast<int64_t>(width) * tensors.bits / 8;
  const graph::Shape values_shape =
      flat ? graph::Shape{n, row_bytes} : graph::Shape{n, blocks, block * tensors.bits / 8};
  tensors.values = writer_.bytes(name + "_q", values_shape, values);
  tensors.scales = writer_.floats(name + "_scales", {n, blocks}, scales);
  if (view.format.asym) {
    const int64_t zero_bytes = (blocks * tensors.bits + 7) / 8;
    tensors.zeros = writer_.bytes(name + "_zeros", {n, zero_bytes}, zeros);
  }
  return tensors;
}

WeightWriter::Tensors WeightWriter::shared(const PackedView& view, const std::string& name,
                                           bool flat) {
  // Rows of whole blocks are the same bytes in both forms.
  if (!is_shared(view) || view.k % block_of_group(view.format.group, view.k, name) != 0) {
    return write(view, name, all_columns(view.n), flat);
  }
  auto known = written_.find(view.data);
  if (known == written_.end()) {
    known = written_.emplace(view.data, write(view, name, all_columns(view.n), false)).first;
  }
  Tensors tensors = known->second;
  if (flat) {
    const int64_t row_bytes = view.k * tensors.bits / 8;
    tensors.values = writer_.node("Reshape", name + "/Reshape",
                                  {tensors.values, writer_.integers({view.n, row_bytes})});
  }
  return tensors;
}

std::string WeightWriter::shared_floats(const PackedView& view, const std::string& name) {
  std::string& known = written_floats_[view.data];
  if (known.empty()) {
    known = writer_.floats(name, {view.n, view.k}, columns_of_f32(view, all_columns(view.n)));
  }
  return known;
}

std::string WeightWriter::multiply(const graph::Node& linear, const std::string& x,
                                   const std::vector<int64_t>& columns, const std::string& part) {
  const PackedView& view = matrix(linear);
  const std::string name = graph_.value_name(linear.inputs[1]) + part;
  const std::string node = linear.name + part + "/MatMul";
  const bool whole = columns == all_columns(view.n);
  if (view.format.type == WeightType::f32) {
    if (whole && is_shared(view)) {
      const std::string weight =
          writer_.node("Transpose", linear.name + "/Transpose", {shared_floats(view, name)},
                       {{"perm", std::vector<int64_t>{1, 0}}});
      return writer_.node("MatMul", node, {x, weight});
    }
    const auto n = static_cast<int64_t>(columns.size());
    const std::vector<float> values =
        transposed(columns_of_f32(view, columns), columns.size(), static_cast<size_t>(view.k));
    return writer_.node("MatMul", node, {x, writer_.floats(name, {view.k, n}, values)});
  }
  const Tensors tensors = whole ? shared(view, name, false) : write(view, name, columns, false);
  // The numbers that onnxruntime has for them.
  const std::string compute = linear.get_string("compute", "int8");
  const int64_t accuracy = compute == "f32" ? 1 : compute == "bf16" ? 3 : 4;
  return writer_.node("MatMulNBits", node, {x, tensors.values, tensors.scales, tensors.zeros},
                      {{"K", view.k},
                       {"N", static_cast<int64_t>(columns.size())},
                       {"bits", tensors.bits},
                       {"block_size", tensors.block},
                       {"accuracy_level", accuracy}},
                      kMicrosoft);
}

std::string WeightWriter::look_up(const graph::Node& embedding, const std::string& ids) {
  const PackedView& view = matrix(embedding);
  const std::string name = graph_.value_name(embedding.inputs[1]);
  const int64_t bits = view.format.type == WeightType::u4 ? 4 : 8;
  if (view.format.type == WeightType::f32 || view.k * bits % 8 != 0) {
    return writer_.node("Gather", embedding.name + "/Gather", {shared_floats(view, name), ids},
                        {{"axis", int64_t{0}}});
  }
  const Tensors tensors = shared(view, name, true);
  return writer_.node("GatherBlockQuantized", embedding.name + "/Gather",
                      {tensors.values, ids, tensors.scales, tensors.zeros},
                      {{"bits", tensors.bits},
                       {"block_size", tensors.block},
                       {"gather_axis", int64_t{0}},
                       {"quantize_axis", int64_t{1}}},
                      kMicrosoft);
}

}  // namespace nibble::frontends::onnx
