#include "quant/blocks/block_split.h"

#include <algorithm>

#include "graph/check_fused.h"
#include "graph/ops.h"
#include "jit/error.h"

namespace nibble::quant {
namespace {

using graph::Graph;
using graph::kNibbleDomain;
using graph::kNoValue;
using graph::Node;
using graph::ValueId;

// Where each activation is made and needed for the last time, as numbers of nodes. The logits are
// needed behind the last node.
class Lives {
 public:
  explicit Lives(const Graph& graph)
      : made_(graph::producers(graph)), last_(graph.values.size(), -1), alive_at_(cuts(graph), 0) {
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      for (const ValueId id : graph.nodes[i].inputs) use(id, static_cast<int32_t>(i));
    }
    for (const ValueId id : graph.outputs) use(id, static_cast<int32_t>(graph.nodes.size()));
    for (size_t id = 0; id < last_.size(); ++id) {
      for (int32_t cut = made_[id] + 1; made_[id] >= 0 && cut <= last_[id]; ++cut) {
        ++alive_at_[static_cast<size_t>(cut)];
      }
    }
  }

  // Whether the value crosses the cut before node `cut`.
  bool alive(size_t id, size_t cut) const {
    return made_[id] >= 0 && made_[id] < static_cast<int32_t>(cut) &&
           last_[id] >= static_cast<int32_t>(cut);
  }
  std::vector<ValueId> alive_at(size_t cut) const {
    std::vector<ValueId> ids;
    for (size_t id = 0; id < made_.size(); ++id) {
      if (alive(id, cut)) ids.push_back(static_cast<ValueId>(id));
    }
    return ids;
  }
  // The last of the cuts [first, last] with the fewest activations.
  size_t narrowest(size_t first, size_t last) const {
    size_t best = last;
    for (size_t cut = last; cut-- > first;) {
      if (alive_at_[cut] < alive_at_[best]) best = cut;
    }
    return best;
  }
  int32_t maker(ValueId id) const { return made_[static_cast<size_t>(id)]; }

 private:
  static size_t cuts(const Graph& graph) { return graph.nodes.size() + 1; }
  void use(ValueId id, int32_t node) {
    if (id != kNoValue) last_[static_cast<size_t>(id)] = node;
  }

  std::vector<int32_t> made_, last_;
  std::vector<int32_t> alive_at_;  // number of activations, by cut
};

bool is_norm(const Node& node) { return node.op == "RMSNorm" || node.op == "LayerNorm"; }

// Where the tail begins: from the logits back over their scale, the head (and a projection before
// it) and the last norm, which is the layer's own where the layers end in norms.
size_t tail_begin(const Graph& graph, const Lives& lives, size_t first, bool layers_end_in_norms) {
  size_t begin = graph.nodes.size();
  ValueId value = graph.io.logits;
  bool normed = layers_end_in_norms;
  while (value != kNoValue) {
    const int32_t maker = lives.maker(value);
    if (maker < static_cast<int32_t>(first)) break;
    const Node& node = graph.nodes[static_cast<size_t>(maker)];
    const bool plain_linear = node.op == "Linear" && node.input(3) == kNoValue &&
                              node.get_string("activation", "none") == "none";
    if (is_norm(node) && !normed) {
      normed = true;
      begin = static_cast<size_t>(maker);
      break;
    }
    if (node.op != "LogitScale" && !plain_linear) break;
    begin = static_cast<size_t>(maker);
    value = node.inputs[0];
  }
  return begin;
}

void expect_fused(const Graph& graph) {
  for (const Node& node : graph.nodes) {
    if (node.domain == kNibbleDomain) continue;
    fail("{}: node '{}' ({}) is no fused operator: the model cannot be calibrated layer by layer.",
         graph.origin, node.name, node.op);
  }
  graph::check_fused(graph);
}

// First nodes of all blocks but the first.
std::vector<size_t> find_cuts(const Graph& graph, const Lives& lives) {
  std::vector<size_t> cuts;
  size_t after = 0;  // the attention before
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (graph.nodes[i].op != "Attention") continue;
    cuts.push_back(lives.narrowest(after + 1, i));
    after = i;
  }
  // The first of the cuts follows the embeddings, and says nothing about how layers end.
  bool norms = cuts.size() > 1;
  for (size_t i = 1; i < cuts.size(); ++i) {
    const auto ids = lives.alive_at(cuts[i]);
    norms = norms && ids.size() == 1 &&
            is_norm(graph.nodes[static_cast<size_t>(lives.maker(ids.front()))]);
  }
  cuts.push_back(tail_begin(graph, lives, after + 1, norms));
  return cuts;
}

}  // namespace

std::vector<Block> split_blocks(const Graph& graph) {
  expect_fused(graph);
  if (graph.nodes.empty()) fail("{}: the graph has no nodes.", graph.origin);
  const Lives lives(graph);
  std::vector<size_t> cuts = find_cuts(graph, lives);
  cuts.push_back(graph.nodes.size());
  std::vector<Block> blocks;
  size_t begin = 0;
  for (const size_t end : cuts) {
    Block block;
    block.layer = static_cast<int64_t>(blocks.size()) - 1;
    block.first_node = begin;
    block.end_node = end;
    block.inputs = lives.alive_at(begin);
    block.outputs = lives.alive_at(end);
    blocks.push_back(std::move(block));
    begin = end;
  }
  return blocks;
}

std::vector<std::vector<ValueId>> last_uses(const Graph& graph, const Block& block) {
  const auto makers = graph::producers(graph);
  std::vector<std::vector<ValueId>> out(block.end_node - block.first_node);
  std::vector<bool> kept(graph.values.size(), false);
  for (const ValueId id : block.outputs) kept[static_cast<size_t>(id)] = true;
  for (size_t i = block.end_node; i-- > block.first_node;) {
    const Node& node = graph.nodes[i];
    for (const auto* ids : {&node.inputs, &node.outputs}) {
      for (const ValueId id : *ids) {
        if (id == kNoValue || makers[static_cast<size_t>(id)] < 0) continue;
        if (kept[static_cast<size_t>(id)]) continue;
        kept[static_cast<size_t>(id)] = true;
        out[i - block.first_node].push_back(id);
      }
    }
  }
  return out;
}

}  // namespace nibble::quant
