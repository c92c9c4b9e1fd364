#include "graph/operands.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "graph/ops.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

struct Needs {
  size_t inputs = 0, outputs = 1;  // the first ones, which are not optional
  bool all = false;                // any number of inputs, none absent
};

using Name = std::pair<std::string_view, std::string_view>;  // domain, operator

const std::map<Name, Needs>& table() {
  static const std::map<Name, Needs> needs = [] {
    std::map<Name, Needs> all;
    const auto add = [&](std::string_view domain, Needs each,
                         std::initializer_list<std::string_view> operators) {
      for (const std::string_view op : operators) all.emplace(Name{domain, op}, each);
    };
    constexpr std::string_view kOnnx;
    add(kOnnx, {.inputs = 1},
        {"Abs",       "Cast",      "Ceil",       "Clip",       "ConstantOfShape",
         "Cos",       "Dropout",   "Erf",        "Exp",        "Flatten",
         "Floor",     "Gelu",      "Identity",   "IsInf",      "IsNaN",
         "Log",       "Neg",       "Not",        "Reciprocal", "ReduceL2",
         "ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum",  "ReduceSumSquare",
         "Relu",      "Round",     "Shape",      "Sigmoid",    "Sign",
         "Sin",       "Size",      "Softmax",    "Softplus",   "Split",
         "Sqrt",      "Squeeze",   "Swish",      "Tanh",       "Transpose",
         "Trilu"});
    add(kOnnx, {.inputs = 2},
        {"Add",
         "And",
         "CumSum",
         "DequantizeLinear",
         "Div",
         "Equal",
         "Expand",
         "Gather",
         "GatherElements",
         "GatherND",
         "Gemm",
         "Greater",
         "GreaterOrEqual",
         "LayerNormalization",
         "Less",
         "LessOrEqual",
         "MatMul",
         "MatMulInteger",
         "Mod",
         "Mul",
         "Or",
         "Pow",
         "RMSNormalization",
         "Reshape",
         "SimplifiedLayerNormalization",
         "Sub",
         "Tile",
         "Unsqueeze",
         "Xor"});
    add(kOnnx, {.inputs = 3},
        {"Attention", "Range", "RotaryEmbedding", "ScatterND", "Slice", "Where"});
    add(kOnnx, {.inputs = 1, .all = true}, {"Concat", "Einsum", "Max", "Min", "Sum"});
    add(kOnnx, {.inputs = 1, .outputs = 3}, {"DynamicQuantizeLinear"});
    add(kMicrosoftDomain, {.inputs = 1},
        {"BiasGelu", "FastGelu", "Gelu", "GroupQueryAttention", "QuickGelu"});
    add(kMicrosoftDomain, {.inputs = 2}, {"DequantizeLinear", "FusedGemm", "FusedMatMul"});
    add(kMicrosoftDomain, {.inputs = 3},
        {"GatherBlockQuantized", "MatMulNBits", "SkipLayerNormalization",
         "SkipSimplifiedLayerNormalization"});
    add(kMicrosoftDomain, {.inputs = 4}, {"RotaryEmbedding"});
    add(kNibbleDomain, {.inputs = 1}, {"Activation", "Attention", "Clip", "LogitScale"});
    add(kNibbleDomain, {.inputs = 2},
        {"Add", "Embedding", "Gate", "HeadNorm", "LayerNorm", "Linear", "RMSNorm"});
    return all;
  }();
  return needs;
}

[[noreturn]] void missing(const Graph& graph, const Node& node, const char* what, size_t index) {
  fail("Node \"{}\" ({}) of {} has no {} {}, which this operator must have.", node.name, node.op,
       graph.origin, what, index);
}

}  // namespace

void check_operands(const Graph& graph) {
  for (const Node& node : graph.nodes) {
    const auto found = table().find({node.domain, node.op});
    if (found == table().end()) continue;
    const Needs& needs = found->second;
    for (size_t i = 0; i < (needs.all ? std::max(needs.inputs, node.inputs.size()) : needs.inputs);
         ++i) {
      if (node.input(i) == kNoValue) missing(graph, node, "input", i);
    }
    for (size_t i = 0; i < needs.outputs; ++i) {
      if (i >= node.outputs.size() || node.outputs[i] == kNoValue) {
        missing(graph, node, "output", i);
      }
    }
  }
}

}  // namespace nibble::graph
