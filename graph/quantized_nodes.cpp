#include "graph/quantized_nodes.h"

#include <fmt/format.h>

#include <algorithm>

#include "jit/error.h"

namespace nibble::graph {
namespace {

constexpr int64_t kMostSide = int64_t{1} << 28;  // of a matrix: products of two fit 64 bits

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

const Node* producer_of(const Graph& graph, ValueId id) {
  for (const Node& node : graph.nodes) {
    if (std::find(node.outputs.begin(), node.outputs.end(), id) != node.outputs.end()) return &node;
  }
  return nullptr;
}

TensorData need_constant(const Graph& graph, const Node& node, size_t i, const char* what) {
  auto tensor = constant_behind(graph, node.input(i));
  if (!tensor) {
    fail("{}: the {} of node '{}' ({}) are computed, but constants are expected.", graph.origin,
         what, node.name, node.op);
  }
  return *std::move(tensor);
}

std::string who(const Graph& graph, const Node& node) {
  return fmt::format("{}: the weight of node '{}' ({})", graph.origin, node.name, node.op);
}

bool runs_of(const TensorData& k_group, int64_t k, int64_t group) {
  const std::vector<int64_t> groups = to_i64(k_group);
  if (static_cast<int64_t>(groups.size()) < k) return false;
  for (int64_t kk = 0; kk < k; ++kk) {
    if (groups[static_cast<size_t>(kk)] != kk / group) return false;
  }
  return true;
}

int bits_of(const Graph& graph, const Node& node) {
  const int64_t bits = node.get_int("bits", 4);
  if (bits != 2 && bits != 4 && bits != 8) {
    fail("{}: node '{}' ({}) has weights of {} bits, but 2, 4 and 8 are supported.", graph.origin,
         node.name, node.op, bits);
  }
  return static_cast<int>(bits);
}

int64_t block_size_of(const Graph& graph, const Node& node, int64_t fallback) {
  const int64_t block = node.get_int("block_size", fallback);
  if (block < 16 || block > kMostSide || (block & (block - 1)) != 0) {
    fail("{}: node '{}' ({}) has blocks of {}, but a power of 2 from 16 on is expected.",
         graph.origin, node.name, node.op, block);
  }
  return block;
}

}  // namespace

std::optional<TensorData> constant_behind(const Graph& graph, ValueId id) {
  if (id == kNoValue) return std::nullopt;
  if (const TensorData* tensor = graph.tensor(id)) return *tensor;
  const Node* maker = producer_of(graph, id);
  if (maker == nullptr || !maker->is("Reshape")) return std::nullopt;
  const TensorData* data = graph.tensor(maker->inputs[0]);
  const TensorData* target = graph.tensor(maker->input(1));
  if (data == nullptr || target == nullptr) return std::nullopt;
  TensorData result = *data;
  result.shape = to_i64(*target);
  const int64_t count = element_count(data->shape);
  int64_t known = 1, open = -1;
  for (size_t i = 0; i < result.shape.size(); ++i) {
    if (result.shape[i] > count || known > count) return std::nullopt;
    if (result.shape[i] == 0 && i < data->shape.size()) result.shape[i] = data->shape[i];
    if (result.shape[i] < 0) {
      open = static_cast<int64_t>(i);
    } else {
      known *= std::max<int64_t>(1, result.shape[i]);
    }
  }
  if (open >= 0) result.shape[static_cast<size_t>(open)] = count / known;
  if (element_count(result.shape) != count) return std::nullopt;
  return result;
}

SharedMatrix matmul_nbits_weight(const Graph& graph, const Node& node) {
  auto matrix = std::make_shared<QuantizedMatrix>();
  QuantizedMatrix& m = *matrix;
  m.n = node.get_int("N");
  m.k = node.get_int("K");
  m.bits = bits_of(graph, node);
  m.group = block_size_of(graph, node, 0);
  if (m.n < 1 || m.k < 1 || m.n > kMostSide || m.k > kMostSide) {
    fail("{}: node '{}' (MatMulNBits) has N = {} and K = {}.", graph.origin, node.name, m.n, m.k);
  }
  if (node.get_int("weight_prepacked", 0) != 0) {
    fail(
        "{}: the weight of node '{}' (MatMulNBits) is packed for one machine (weight_prepacked = "
        "{}): export the model without prepacking.",
        graph.origin, node.name, node.get_int("weight_prepacked", 0));
  }
  const int64_t blocks = m.groups();
  m.values = need_constant(graph, node, 1, "weights");
  if (m.values.dtype != DType::u8) {
    fail("{} is of type {}, but u8 is expected.", who(graph, node), dtype_name(m.values.dtype));
  }
  m.value_at = {blocks * m.group, 1};
  m.scales = need_constant(graph, node, 2, "scales");
  m.scale_at = {blocks, 1};
  m.default_zero = int64_t{1} << (m.bits - 1);
  if (node.input(3) != kNoValue) {
    m.zeros = need_constant(graph, node, 3, "zero points");
    const int64_t bytes = ceil_divide(blocks * m.bits, 8);
    m.zero_at = {is_float(m.zeros->dtype) ? blocks : bytes * 8 / m.bits, 1};
  }
  if (node.input(4) != kNoValue) {
    TensorData k_group = need_constant(graph, node, 4, "group numbers");
    if (!runs_of(k_group, m.k, m.group)) m.k_group = std::move(k_group);
  }
  m.check(who(graph, node));
  const int64_t expected = m.n * blocks * m.group * m.bits / 8;
  if (static_cast<int64_t>(m.values.bytes) != expected) {
    fail("{} of N = {}, K = {} in blocks of {} takes {} bytes, but the tensor is {}.",
         who(graph, node), m.n, m.k, m.group, expected, to_string(m.values.shape));
  }
  return matrix;
}

SharedMatrix gather_block_table(const Graph& graph, const Node& node) {
  auto matrix = std::make_shared<QuantizedMatrix>();
  QuantizedMatrix& m = *matrix;
  m.values = need_constant(graph, node, 0, "weights");
  m.scales = need_constant(graph, node, 2, "scales");
  const DType dtype = m.values.dtype;
  const bool bytes = dtype == DType::u8;
  m.bits = bytes ? bits_of(graph, node) : 4;
  if (!bytes && dtype != DType::u4 && dtype != DType::i4) {
    fail("{} is of type {}, but u8, u4 or i4 is expected.", who(graph, node), dtype_name(dtype));
  }
  const int64_t gather_axis = node.get_int("gather_axis", 0);
  const int64_t quantize_axis = node.get_int("quantize_axis", 1);
  if (m.values.shape.size() != 2 || gather_axis != 0 ||
      (quantize_axis != 1 && quantize_axis != -1)) {
    fail(
        "{} is {}, gathered along axis {} and quantized along axis {}, but a matrix, gathered by "
        "rows and quantized along them, is expected.",
        who(graph, node), to_string(m.values.shape), gather_axis, quantize_axis);
  }
  m.is_signed = dtype == DType::i4;
  m.n = m.values.shape[0];
  m.k = m.values.shape[1] * (bytes ? 8 / m.bits : 1);
  m.group = block_size_of(graph, node, 128);
  m.value_at = {m.k, 1};
  m.scale_at = {m.groups(), 1};
  m.default_zero = bytes ? 1 << (m.bits - 1) : 0;
  if (node.input(3) != kNoValue) {
    m.zeros = need_constant(graph, node, 3, "zero points");
    // In bytes each row begins anew; 4-bit types pack in one run.
    m.zero_at = {bytes ? ceil_divide(m.groups() * m.bits, 8) * 8 / m.bits : m.groups(), 1};
  }
  m.check(who(graph, node));
  return matrix;
}

SharedMatrix dequantized_weight(const Graph& graph, const Node& node, bool k_major) {
  auto values = constant_behind(graph, node.input(0)),
       scales = constant_behind(graph, node.input(1));
  if (!values || !scales || values->shape.size() != 2) return nullptr;
  const DType dtype = values->dtype;
  const bool nibbles = dtype == DType::u4 || dtype == DType::i4;
  if (!nibbles && dtype != DType::u8 && dtype != DType::i8) return nullptr;
  auto matrix = std::make_shared<QuantizedMatrix>();
  QuantizedMatrix& m = *matrix;
  const size_t k_axis = k_major ? 0 : 1;
  m.n = values->shape[1 - k_axis];
  m.k = values->shape[k_axis];
  m.bits = nibbles ? 4 : 8;
  m.is_signed = dtype == DType::i4 || dtype == DType::i8;
  m.value_at = k_major ? Strides{1, m.n} : Strides{m.k, 1};
  const int64_t given_axis = node.get_int("axis", 1), block = node.get_int("block_size", 0);
  if (m.n < 1 || m.k < 1 || given_axis < -2 || given_axis > 1) return nullptr;
  const int64_t axis = (given_axis + 2) % 2;
  if (block > 0) {
    if (axis != static_cast<int64_t>(k_axis) || scales->shape.size() != 2) return nullptr;
    m.group = std::min(block, m.k);
    m.scale_at = k_major ? Strides{1, m.n} : Strides{m.groups(), 1};
  } else {
    m.group = m.k;
    const bool one = element_count(scales->shape) == 1;
    if (!one && axis == static_cast<int64_t>(k_axis)) return nullptr;
    m.scale_at = {one ? 0 : 1, 0};
  }
  m.values = *std::move(values);
  m.scales = *std::move(scales);
  m.zero_at = m.scale_at;
  if (node.input(2) != kNoValue) {
    m.zeros = constant_behind(graph, node.input(2));
    if (!m.zeros) return nullptr;
  }
  m.check(who(graph, node));
  return matrix;
}

namespace {

// The node of this kind that makes `id`, or null.
const Node* maker_of(const Links& links, ValueId id, const char* op) {
  const Node* node = links.producer(id);
  return node != nullptr && node->is(op) ? node : nullptr;
}

// A [k][n] matrix of 8-bit integers with one scale and zero point, or one a column.
SharedMatrix integer_matrix(const Graph& graph, const Node& product, ValueId scales) {
  auto values = constant_behind(graph, product.input(1)), scale = constant_behind(graph, scales);
  if (!values || !scale || values->shape.size() != 2) return nullptr;
  if (values->dtype != DType::u8 && values->dtype != DType::i8) return nullptr;
  auto matrix = std::make_shared<QuantizedMatrix>();
  QuantizedMatrix& m = *matrix;
  m.k = m.group = values->shape[0];
  m.n = values->shape[1];
  m.bits = 8;
  m.is_signed = values->dtype == DType::i8;
  m.value_at = {1, m.n};
  m.scale_at = {element_count(scale->shape) == 1 ? 0 : 1, 0};
  m.values = *std::move(values);
  m.scales = *std::move(scale);
  if (product.input(3) != kNoValue) {
    m.zeros = constant_behind(graph, product.input(3));
    if (!m.zeros) return nullptr;
    m.zero_at = {element_count(m.zeros->shape) == 1 ? 0 : 1, 0};
  }
  m.check(who(graph, product));
  return matrix;
}

}  // namespace

std::optional<IntegerProduct> integer_product(const Graph& graph, const Links& links,
                                              const Node& scaled) {
  if (!scaled.is("Mul")) return std::nullopt;
  for (size_t side = 0; side < 2; ++side) {
    const Node* cast = maker_of(links, scaled.inputs[side], "Cast");
    const Node* scales = maker_of(links, scaled.inputs[1 - side], "Mul");
    if (cast == nullptr || scales == nullptr) continue;
    const Node* product = maker_of(links, cast->inputs[0], "MatMulInteger");
    if (product == nullptr) continue;
    const Node* quantize = maker_of(links, product->inputs[0], "DynamicQuantizeLinear");
    if (quantize == nullptr || quantize->outputs.size() != 3 ||
        product->inputs[0] != quantize->outputs[0] || product->input(2) != quantize->outputs[2]) {
      continue;
    }
    const bool first = scales->inputs[0] == quantize->outputs[1];
    if (!first && scales->inputs[1] != quantize->outputs[1]) continue;
    if (auto matrix = integer_matrix(graph, *product, scales->inputs[first ? 1 : 0])) {
      return IntegerProduct{quantize->inputs[0], product->inputs[1], std::move(matrix)};
    }
  }
  return std::nullopt;
}

}  // namespace nibble::graph
