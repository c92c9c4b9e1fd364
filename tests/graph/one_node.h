// A graph of one node, to run one operator: inputs are fed arrays, constants or absent.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "graph/interpreter.h"

namespace nibble::test {

inline graph::Array floats(graph::Shape shape, std::vector<float> values) {
  return graph::Array::of(std::move(shape), std::move(values));
}
inline graph::Array ints(graph::Shape shape, std::vector<int64_t> values) {
  return graph::Array::of(std::move(shape), std::move(values));
}
inline graph::Array bools(graph::Shape shape, std::vector<int64_t> values) {
  return graph::Array::of_bool(std::move(shape), std::move(values));
}
inline std::vector<float> values_f(const graph::Array& x) {
  return {x.floats().begin(), x.floats().end()};
}
inline std::vector<int64_t> values_i(const graph::Array& x) {
  return {x.ints().begin(), x.ints().end()};
}

inline void expect_near(std::span<const float> values, const std::vector<float>& wanted,
                        float tolerance = 1e-6F) {
  ASSERT_EQ(values.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(values[i], wanted[i], tolerance) << i;
}
inline void expect_near(const graph::Array& found, const std::vector<float>& wanted,
                        float tolerance = 1e-6F) {
  expect_near(found.floats(), wanted, tolerance);
}

class OneNode {
 public:
  explicit OneNode(std::string op, std::string domain = "") {
    graph_.origin = "test.onnx";
    graph_.opset = 18;
    node_.op = std::move(op);
    node_.domain = std::move(domain);
    node_.name = "the_node";
  }

  OneNode& in(graph::Array array) {
    const graph::ValueId id = graph_.add_value("in" + std::to_string(node_.inputs.size()));
    feeds_[id] = std::move(array);
    node_.inputs.push_back(id);
    return *this;
  }
  OneNode& absent() {
    node_.inputs.push_back(graph::kNoValue);
    return *this;
  }
  OneNode& constant(graph::Constant constant) {
    node_.inputs.push_back(graph_.add_constant("weight", std::move(constant)));
    return *this;
  }
  OneNode& attr(const std::string& key, graph::Attribute value) {
    node_.attributes[key] = std::move(value);
    return *this;
  }

  std::vector<graph::Array> run(size_t outputs = 1) {
    graph::Graph graph = graph_;
    graph.nodes.push_back(node_);
    for (size_t i = 0; i < outputs; ++i) {
      graph.nodes[0].outputs.push_back(graph.add_value("out" + std::to_string(i)));
    }
    const graph::Interpreter interpreter(graph);
    return interpreter.run(feeds_, graph.nodes[0].outputs);
  }
  graph::Array one() { return run().front(); }

  // The error's text, or "" when there is none.
  std::string error(size_t outputs = 1) {
    try {
      run(outputs);
    } catch (const std::exception& caught) {
      return caught.what();
    }
    return "";
  }

 private:
  graph::Graph graph_;
  graph::Node node_;
  graph::Feeds feeds_;
};

}  // namespace nibble::test
