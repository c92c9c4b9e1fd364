// Drops nodes that no graph output needs, and the bytes of constants that no node uses.
#include "graph/passes.h"

namespace nibble::graph {

int eliminate_dead(Graph& graph) {
  std::vector<bool> needed(graph.values.size(), false);
  for (ValueId id : graph.outputs) needed[static_cast<size_t>(id)] = true;
  std::vector<Node> kept;
  int dropped = 0;
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    Node& node = graph.nodes[i];
    bool alive = false;
    for (ValueId output : node.outputs) {
      alive = alive || (output != kNoValue && needed[static_cast<size_t>(output)]);
    }
    if (!alive) {
      ++dropped;
      continue;
    }
    for (ValueId input : node.inputs) {
      if (input != kNoValue) needed[static_cast<size_t>(input)] = true;
    }
    kept.push_back(std::move(node));
  }
  graph.nodes.assign(std::make_move_iterator(kept.rbegin()), std::make_move_iterator(kept.rend()));
  for (size_t id = 0; id < graph.values.size(); ++id) {
    if (!needed[id] && graph.values[id].constant) {
      graph.values[id].constant.reset();
      ++dropped;
    }
  }
  return dropped;
}

}  // namespace nibble::graph
