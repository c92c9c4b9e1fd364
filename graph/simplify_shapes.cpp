// Expresses the shape of every hidden state [B, S, width] by the shape of input_ids, so that no
// shape arithmetic hangs on the residual stream and attention can be cut out of the graph.
#include <algorithm>

#include "graph/interpreter.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/probe.h"
#include "graph/rewrite.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

int replace_shapes(Graph& graph) {
  const std::vector<int64_t> widths = hidden_widths(graph);
  std::vector<Node> rebuilt;
  int changed = 0;
  for (Node& node : graph.nodes) {
    const int64_t width =
        node.is("Shape") ? widths[static_cast<size_t>(node.inputs[0])] : int64_t{0};
    if (width == 0) {
      rebuilt.push_back(std::move(node));
      continue;
    }
    const int64_t start = node.get_int("start", 0), end = node.get_int("end", 3);
    if (start == 0 && end == 3) {
      const ValueId ids_shape = graph.add_value(node.name + "/ids_shape", DType::i64);
      const ValueId columns = graph.add_constant(node.name + "/width", make_i64({1}, {width}));
      rebuilt.push_back({"Shape", "", node.name, {graph.io.input_ids}, {ids_shape}, {}});
      rebuilt.push_back({"Concat",
                         "",
                         node.name + "/shape",
                         {ids_shape, columns},
                         node.outputs,
                         {{"axis", int64_t{0}}}});
      ++changed;
      continue;
    }
    if (start >= 0 && end >= 0 && end <= 2) {
      node.inputs[0] = graph.io.input_ids;
      ++changed;
    }
    rebuilt.push_back(std::move(node));
  }
  graph.nodes = std::move(rebuilt);
  return changed;
}

// Whether `target`, a Reshape's shape, means `wanted` for every probed number of tokens (-1 in
// wanted stands for the tokens).
bool means(const Graph& graph, const Interpreter& interpreter, ValueId target,
           const Shape& wanted) {
  for (const ProbeCall& call : {ProbeCall{3, 0}, ProbeCall{2, 4}}) {
    Array array;
    try {
      array = interpreter.run_one(decoder_feeds(graph, call), target);
    } catch (const Error&) {
      return false;  // depends on what a probe does not feed
    }
    if (array.kind != Array::Kind::i64 || array.size() != static_cast<int64_t>(wanted.size())) {
      return false;
    }
    const auto found = array.ints();
    if (std::count(found.begin(), found.end(), -1) > 1) return false;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const int64_t expected = wanted[i] == -1 ? rows_of_call(graph, call) : wanted[i];
      if (found[i] != -1 && found[i] != expected) return false;
    }
  }
  return true;
}

bool row_wise(const Node& node) {
  static constexpr const char* kElementwise[] = {"Add",  "Sub",     "Mul",     "Div", "Pow",
                                                 "Tanh", "Sigmoid", "Erf",     "Neg", "Exp",
                                                 "Abs",  "Relu",    "Identity"};
  return node.domain == kNibbleDomain ||
         (node.domain.empty() && std::any_of(std::begin(kElementwise), std::end(kElementwise),
                                             [&](const char* op) { return node.op == op; }));
}

// Whether all that is computed from `id` works on its last dimension alone until a Reshape gives it
// a shape again, so that its rows may stay [batch, tokens].
bool row_wise_until_reshape(const Graph& graph, const Links& links, ValueId id) {
  std::vector<ValueId> left = {id};
  std::vector<bool> seen(graph.values.size(), false);
  while (!left.empty()) {
    const ValueId at = left.back();
    left.pop_back();
    if (seen[static_cast<size_t>(at)]) continue;
    seen[static_cast<size_t>(at)] = true;
    if (links.is_output(at)) return false;
    for (int32_t user : links.consumers(at)) {
      const Node& node = graph.nodes[static_cast<size_t>(user)];
      if (node.is("Reshape") && node.inputs[0] == at) continue;
      if (!row_wise(node)) return false;
      left.insert(left.end(), node.outputs.begin(), node.outputs.end());
    }
  }
  return true;
}

// Reshapes of a hidden state to the shape it has already, and to rows [tokens, width] for operators
// that work on rows anyway (the way back is then a reshape to the shape it has).
int drop_reshapes(Graph& graph) {
  const std::vector<int64_t> widths = hidden_widths(graph);
  std::vector<std::pair<ValueId, ValueId>> same;
  {
    const Interpreter interpreter(graph, probe_limits(graph));
    const Links links(graph);
    for (const Node& node : graph.nodes) {
      if (!node.is("Reshape") || node.get_int("allowzero", 0) != 0) continue;
      const int64_t width = widths[static_cast<size_t>(node.inputs[0])];
      if (width == 0) continue;
      if (means(graph, interpreter, node.inputs[1], {1, -1, width}) ||
          (row_wise_until_reshape(graph, links, node.outputs[0]) &&
           means(graph, interpreter, node.inputs[1], {-1, width}))) {
        same.emplace_back(node.outputs[0], node.inputs[0]);
      }
    }
  }
  for (const auto& [from, to] : same) replace_uses(graph, from, to);
  return static_cast<int>(same.size());
}

}  // namespace

int simplify_shapes(Graph& graph) {
  int total = 0;
  // What one round makes a hidden state shows the next round more of them.
  for (;;) {
    const int changed = replace_shapes(graph) + drop_reshapes(graph);
    if (changed == 0) return total;
    total += changed;
    eliminate_dead(graph);
  }
}

}  // namespace nibble::graph
