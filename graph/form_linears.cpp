// MatMul or Gemm by a constant matrix, with the bias that follows, becomes Linear.
#include <algorithm>

#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/quantized_nodes.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

bool is_float_matrix(const TensorData* tensor) {
  return tensor != nullptr && tensor->shape.size() == 2 && element_count(tensor->shape) > 0 &&
         (tensor->dtype == DType::f32 || tensor->dtype == DType::f16 ||
          tensor->dtype == DType::bf16);
}

// The weight matrix behind `id`: a constant, or a Transpose of one.
std::optional<MatrixSource> weight_of(const Graph& graph, const Links& links, ValueId id,
                                      bool k_major) {
  const Node* maker = links.producer(id);
  if (maker != nullptr && maker->is("Transpose") &&
      maker->get_ints("perm", {1, 0}) == std::vector<int64_t>{1, 0}) {
    id = maker->inputs[0];
    k_major = !k_major;
  }
  maker = links.producer(id);
  if (maker != nullptr && maker->op == "DequantizeLinear") {
    if (auto matrix = dequantized_weight(graph, *maker, k_major)) {
      return MatrixSource::whole(std::move(matrix));
    }
  }
  const TensorData* tensor = id == kNoValue ? nullptr : graph.tensor(id);
  if (!is_float_matrix(tensor)) return std::nullopt;
  return MatrixSource::whole(*tensor, k_major);
}

// A constant vector of n floats (leading dimensions of 1 allowed).
bool is_bias(const Graph& graph, ValueId id, int64_t n) {
  const TensorData* tensor = id == kNoValue ? nullptr : graph.tensor(id);
  return tensor != nullptr && !tensor->shape.empty() && tensor->shape.back() == n &&
         element_count(tensor->shape) == n && tensor->dtype != DType::i64;
}

struct Candidate {
  MatrixSource source;
  ValueId bias = kNoValue;
  ValueId x = kNoValue, weight = kNoValue;  // when they are not inputs 0 and 1 of the node
};

std::optional<Candidate> candidate_of(const Graph& graph, const Links& links, const Node& node) {
  const bool fused = node.is("FusedMatMul", kMicrosoftDomain) && node.get_int("transA", 0) == 0 &&
                     node.get_int("transBatchA", 0) == 0 && node.get_int("transBatchB", 0) == 0;
  if (node.is("MatMul") || fused) {
    auto source = weight_of(graph, links, node.inputs[1], node.get_int("transB", 0) == 0);
    if (!source) return std::nullopt;
    if (fused) source->parts[0].factor *= node.get_float("alpha", 1);
    return Candidate{std::move(*source), kNoValue, kNoValue, kNoValue};
  }
  if (node.is("MatMulNBits", kMicrosoftDomain)) {
    auto source = MatrixSource::whole(matmul_nbits_weight(graph, node));
    const ValueId bias = node.input(5);
    if (bias != kNoValue && !is_bias(graph, bias, source.n)) return std::nullopt;
    return Candidate{std::move(source), bias, kNoValue, kNoValue};
  }
  if (auto product = integer_product(graph, links, node)) {
    return Candidate{MatrixSource::whole(std::move(product->matrix)), kNoValue, product->x,
                     product->weight};
  }
  if (!node.is("Gemm") || node.get_int("transA", 0) != 0 || node.get_float("alpha", 1) != 1 ||
      (node.input(2) != kNoValue && node.get_float("beta", 1) != 1)) {
    return std::nullopt;
  }
  auto source = weight_of(graph, links, node.inputs[1], node.get_int("transB", 0) == 0);
  if (!source) return std::nullopt;
  const ValueId bias = node.input(2);
  if (bias != kNoValue && !is_bias(graph, bias, source->n)) return std::nullopt;
  return Candidate{std::move(*source), bias, kNoValue, kNoValue};
}

int replace_matmuls(Graph& graph) {
  const Links links(graph);
  std::vector<ValueId> weights;  // tied matrices stay one constant
  int changed = 0;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    auto candidate = candidate_of(graph, links, graph.nodes[i]);
    if (!candidate) continue;
    const MatrixPart& part = candidate->source.parts[0];
    auto known = std::find_if(weights.begin(), weights.end(), [&](ValueId id) {
      return std::get<MatrixSource>(*graph.values[static_cast<size_t>(id)].constant)
          .parts[0]
          .same_as(part);
    });
    if (known == weights.end()) {
      const std::string name = graph.value_name(
          candidate->weight != kNoValue ? candidate->weight : graph.nodes[i].inputs[1]);
      weights.push_back(graph.add_constant(name, Constant(std::move(candidate->source))));
      known = weights.end() - 1;
    }
    Node& node = graph.nodes[i];
    node.op = "Linear";
    node.domain = kNibbleDomain;
    const ValueId x = candidate->x != kNoValue ? candidate->x : node.inputs[0];
    node.inputs = {x, *known, candidate->bias};
    node.attributes.clear();
    ++changed;
  }
  return changed;
}

const MatrixSource& source_of(const Graph& graph, const Node& linear) {
  return std::get<MatrixSource>(*graph.values[static_cast<size_t>(linear.inputs[1])].constant);
}

int absorb_biases(Graph& graph) {
  const Links links(graph);
  std::vector<bool> dead(graph.nodes.size(), false);
  int changed = 0;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    Node& linear = graph.nodes[i];
    if (!linear.is("Linear", kNibbleDomain) || linear.input(2) != kNoValue) continue;
    if (!links.single_use(linear.outputs[0])) continue;
    const auto user = static_cast<size_t>(links.consumers(linear.outputs[0])[0]);
    const Node& add = graph.nodes[user];
    if (!add.is("Add")) continue;
    const ValueId other = add.inputs[0] == linear.outputs[0] ? add.inputs[1] : add.inputs[0];
    if (!is_bias(graph, other, source_of(graph, linear).n)) continue;
    linear.inputs[2] = other;
    linear.outputs = add.outputs;
    dead[user] = true;
    ++changed;
  }
  erase_nodes(graph, dead);
  return changed;
}

// The factor of a node that multiplies `id` by a constant number; nullopt when it does not.
std::optional<float> factor_of(const Graph& graph, const Node& node, ValueId id) {
  if (node.is("Mul")) {
    return scalar_constant(graph, node.inputs[0] == id ? node.inputs[1] : node.inputs[0]);
  }
  if (!node.is("Div") || node.inputs[0] != id) return std::nullopt;
  const auto divisor = scalar_constant(graph, node.inputs[1]);
  return divisor && *divisor != 0 ? std::optional<float>(1 / *divisor) : std::nullopt;
}

// Whether a value is one term of a sum of computed values: a branch of a residual stream.
bool is_residual_term(const Graph& graph, const Links& links, ValueId id) {
  if (!links.single_use(id)) return false;
  const Node& add = graph.nodes[static_cast<size_t>(links.consumers(id)[0])];
  if (!add.is("Add")) return false;
  const ValueId other = add.inputs[0] == id ? add.inputs[1] : add.inputs[0];
  return links.producer(other) != nullptr;
}

// A factor on a branch of the residual stream (Granite) becomes part of the matrix and its bias.
int absorb_factors(Graph& graph) {
  const Links links(graph);
  std::vector<bool> dead(graph.nodes.size(), false);
  int changed = 0;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    Node& linear = graph.nodes[i];
    if (!linear.is("Linear", kNibbleDomain) || !links.single_use(linear.outputs[0])) continue;
    const auto user = static_cast<size_t>(links.consumers(linear.outputs[0])[0]);
    const Node& scaled = graph.nodes[user];
    const auto factor = factor_of(graph, scaled, linear.outputs[0]);
    if (!factor || !is_residual_term(graph, links, scaled.outputs[0])) continue;
    MatrixSource source = source_of(graph, linear);
    for (MatrixPart& part : source.parts) part.factor *= *factor;
    const std::string name = graph.value_name(linear.inputs[1]);
    linear.inputs[1] = graph.add_constant(name, Constant(std::move(source)));
    if (linear.input(2) != kNoValue) {
      std::vector<float> bias = to_f32(*graph.tensor(linear.inputs[2]));
      for (float& value : bias) value *= *factor;
      const auto n = static_cast<int64_t>(bias.size());
      linear.inputs[2] = graph.add_constant(name + "/bias", make_f32({n}, std::move(bias)));
    }
    linear.outputs = scaled.outputs;
    dead[user] = true;
    ++changed;
  }
  erase_nodes(graph, dead);
  return changed;
}

}  // namespace

int form_linears(Graph& graph) {
  int changed = replace_matmuls(graph);
  if (changed > 0) eliminate_dead(graph);
  changed += absorb_biases(graph);
  changed += absorb_factors(graph);
  return changed;
}

}  // namespace nibble::graph
