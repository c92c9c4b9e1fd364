#include <utility>

#include "graph/graph.h"
#include "graph/operands.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

class Verifier {
 public:
  explicit Verifier(const Graph& graph) : graph_(graph), made_(graph.values.size(), false) {}

  void run() {
    for (size_t i = 0; i < graph_.values.size(); ++i) {
      made_[i] = graph_.values[i].constant.has_value();
    }
    for (const ValueId id : graph_.inputs) make(id, "The list of graph inputs");
    for (const Node& node : graph_.nodes) check_node(node);
    for (const ValueId id : graph_.outputs) use(id, "The list of graph outputs");
    check_io();
  }

 private:
  bool valid(ValueId id) const {
    return id >= 0 && id < static_cast<ValueId>(graph_.values.size());
  }

  void need_valid(ValueId id, const std::string& user) const {
    if (!valid(id)) {
      fail("{} of {} refers to value {}, but the graph has values 0 to {}.", user, graph_.origin,
           id, static_cast<int64_t>(graph_.values.size()) - 1);
    }
  }

  void use(ValueId id, const std::string& user) const {
    need_valid(id, user);
    if (!made_[static_cast<size_t>(id)]) {
      fail("{} of {} uses the value \"{}\" before it is made.", user, graph_.origin,
           graph_.value_name(id));
    }
  }

  void make(ValueId id, const std::string& maker) {
    need_valid(id, maker);
    if (made_[static_cast<size_t>(id)]) {
      fail("{} of {} makes the value \"{}\", which is made already.", maker, graph_.origin,
           graph_.value_name(id));
    }
    made_[static_cast<size_t>(id)] = true;
  }

  void check_node(const Node& node) {
    const std::string who = fmt::format("Node \"{}\" ({})", node.name, node.op);
    for (const ValueId id : node.inputs) {
      if (id != kNoValue) use(id, who);
    }
    for (const ValueId id : node.outputs) {
      if (id != kNoValue) make(id, who);
    }
  }

  void check_io() const {
    const DecoderIo& io = graph_.io;
    for (const auto& [id, what] : {std::pair{io.input_ids, "The decoder's input_ids"},
                                   std::pair{io.attention_mask, "The decoder's attention_mask"},
                                   std::pair{io.position_ids, "The decoder's position_ids"},
                                   std::pair{io.logits, "The decoder's logits"}}) {
      if (id != kNoValue) use(id, what);
    }
    for (const LayerCache& layer : io.layers) {
      for (const ValueId id :
           {layer.past_key, layer.past_value, layer.present_key, layer.present_value}) {
        if (id != kNoValue) use(id, "A layer's cache");
      }
    }
  }

  const Graph& graph_;
  std::vector<bool> made_;
};

}  // namespace

void verify(const Graph& graph) {
  Verifier(graph).run();
  check_operands(graph);
}

}  // namespace nibble::graph
