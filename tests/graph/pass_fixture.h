// Small decoder-like graphs to run passes on: values are named, nodes are named after their output.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "graph/graph.h"

namespace nibble::test {

class GraphMaker {
 public:
  GraphMaker() {
    graph.origin = "test.onnx";
    graph.opset = 17;
    graph.io.input_ids = graph.add_value("input_ids", graph::DType::i64);
    graph.inputs = {graph.io.input_ids};
  }

  graph::ValueId constant(const std::string& name, graph::Shape shape, std::vector<float> values) {
    return graph.add_constant(name, graph::make_f32(std::move(shape), std::move(values)));
  }
  // A matrix with values that differ from place to place.
  graph::ValueId matrix(const std::string& name, int64_t rows, int64_t columns) {
    std::vector<float> values(static_cast<size_t>(rows * columns));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>((i * 7 + name.size()) % 13) / 13.0F - 0.4F;
    }
    return constant(name, {rows, columns}, std::move(values));
  }
  graph::ValueId ints(const std::string& name, std::vector<int64_t> values) {
    const auto count = static_cast<int64_t>(values.size());
    return graph.add_constant(name, graph::make_i64({count}, std::move(values)));
  }
  graph::ValueId scalar(const std::string& name, float value) {
    return constant(name, {}, {value});
  }

  graph::ValueId node(const std::string& op, const std::string& out,
                      std::vector<graph::ValueId> inputs,
                      std::map<std::string, graph::Attribute> attributes = {},
                      const std::string& domain = "") {
    const graph::ValueId id = graph.add_value(out);
    graph.nodes.push_back({op, domain, out, std::move(inputs), {id}, std::move(attributes)});
    return id;
  }

  // Ends the graph: `logits` is its output.
  graph::Graph& finish(graph::ValueId logits) {
    graph.io.logits = logits;
    graph.outputs.insert(graph.outputs.begin(), logits);
    graph::verify(graph);
    return graph;
  }

  // The token embedding as exporters write it: [B, S, width].
  graph::ValueId embedding(int64_t vocabulary, int64_t width) {
    return node("Gather", "x", {matrix("table", vocabulary, width), graph.io.input_ids});
  }

  graph::Graph graph;
};

// The operators of the nodes, in order, "nibble." before fused ones.
inline std::vector<std::string> operators(const graph::Graph& graph) {
  std::vector<std::string> names;
  for (const graph::Node& node : graph.nodes) {
    names.push_back(node.domain.empty() ? node.op : node.domain + "." + node.op);
  }
  return names;
}

}  // namespace nibble::test
