// Sums of hidden states: each Linear among the terms adds the rest in its epilogue, one after
// another, so that serial and parallel residuals alike need no pass over memory of their own. What
// is left becomes Add.
#include <fmt/format.h>

#include <algorithm>

#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

class ResidualFuser {
 public:
  explicit ResidualFuser(Graph& graph)
      : graph_(graph), links_(graph), widths_(hidden_widths(graph)) {}

  int run() {
    const size_t count = graph_.nodes.size();
    absorbed_.assign(count, false);
    int changed = 0;
    // Roots last to first: a sum takes the sums below it that nobody else uses.
    for (size_t i = count; i-- > 0;) {
      if (absorbed_[i] || !is_sum(graph_.nodes[i])) continue;
      rewrite(i, terms_of(i));
      ++changed;
    }
    sort_nodes(graph_);
    eliminate_dead(graph_);
    return changed;
  }

 private:
  bool is_sum(const Node& node) const {
    return node.is("Add") && widths_[static_cast<size_t>(node.inputs[0])] > 0 &&
           widths_[static_cast<size_t>(node.inputs[0])] ==
               widths_[static_cast<size_t>(node.inputs[1])];
  }

  // The terms of a sum from left to right, those of the sums below it in their place.
  std::vector<ValueId> terms_of(size_t root) {
    std::vector<ValueId> terms;
    const auto& inputs = graph_.nodes[root].inputs;
    std::vector<ValueId> left(inputs.rbegin(), inputs.rend());  // the next one last
    while (!left.empty()) {
      const ValueId input = left.back();
      left.pop_back();
      const int32_t maker = links_.producer_index(input);
      if (maker < 0 || !is_sum(graph_.nodes[static_cast<size_t>(maker)]) ||
          !links_.single_use(input)) {
        terms.push_back(input);
        continue;
      }
      absorbed_[static_cast<size_t>(maker)] = true;
      const auto& below = graph_.nodes[static_cast<size_t>(maker)].inputs;
      left.insert(left.end(), below.rbegin(), below.rend());
    }
    return terms;
  }

  // Whether this term is a Linear that can take a residual.
  bool can_add(ValueId term) const {
    const Node* node = links_.producer(term);
    return node != nullptr && node->is("Linear", kNibbleDomain) && node->input(3) == kNoValue &&
           links_.single_use(term);
  }

  void rewrite(size_t root, const std::vector<ValueId>& terms) {
    std::vector<ValueId> linears, others;
    for (ValueId term : terms) (can_add(term) ? linears : others).push_back(term);
    const ValueId out = graph_.nodes[root].outputs[0];
    const std::string name = graph_.nodes[root].name;
    absorbed_[root] = true;
    if (others.empty()) {
      others.push_back(linears.back());
      linears.pop_back();
    }
    std::vector<Node> made;
    ValueId sum = others[0];
    for (size_t i = 1; i < others.size(); ++i) {
      const ValueId next = graph_.add_value(fmt::format("{}/sum{}", name, i));
      made.push_back({"Add", "nibble", name, {sum, others[i]}, {next}, {}});
      sum = next;
    }
    // Linears in their order in the graph: each waits only for what came before it.
    std::sort(linears.begin(), linears.end(), [&](ValueId a, ValueId b) {
      return links_.producer_index(a) < links_.producer_index(b);
    });
    for (ValueId term : linears) {
      Node& linear = graph_.nodes[static_cast<size_t>(links_.producer_index(term))];
      linear.inputs.resize(4, kNoValue);
      linear.inputs[3] = sum;
      sum = term;
    }
    // The root's node now holds nothing; its users read the last term.
    graph_.nodes[root] = Node{"Identity", "", name, {sum}, {}, {}};
    replace_uses(graph_, out, sum);
    for (Node& node : made) {
      if (node.outputs[0] == out) node.outputs[0] = sum;
      graph_.nodes.push_back(std::move(node));
    }
  }

  Graph& graph_;
  Links links_;
  std::vector<int64_t> widths_;
  std::vector<bool> absorbed_;
};

}  // namespace

int fuse_residuals(Graph& graph) { return ResidualFuser(graph).run(); }

}  // namespace nibble::graph
