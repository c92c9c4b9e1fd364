// Expresses the shape of every hidden state [B, S, width] by the shape of input_ids, so that no
// shape arithmetic hangs on the residual stream and attention can be cut out of the graph.
#include "graph/passes.h"
#include "graph/rewrite.h"

namespace nibble::graph {

int simplify_shapes(Graph& graph) {
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

}  // namespace nibble::graph
