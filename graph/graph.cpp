#include "graph/graph.h"

#include <array>
#include <utility>

#include "jit/error.h"

namespace nibble::graph {
namespace {

std::string describe(const Node& node) {
  return fmt::format("Node \"{}\" ({}{}{})", node.name, node.domain, node.domain.empty() ? "" : ".",
                     node.op);
}

template <typename T>
const T* find_attribute(const Node& node, const std::string& key, const char* expected) {
  const auto found = node.attributes.find(key);
  if (found == node.attributes.end()) return nullptr;
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) {
    constexpr std::array kKinds = {"an integer",         "a float",          "a string",
                                   "a list of integers", "a list of floats", "a tensor"};
    fail("{} has {} as attribute \"{}\" where {} is expected.", describe(node),
         kKinds[found->second.index()], key, expected);
  }
  return value;
}

template <typename T>
const T& need_attribute(const Node& node, const std::string& key, const char* expected) {
  const T* value = find_attribute<T>(node, key, expected);
  if (value == nullptr) fail("{} lacks the attribute \"{}\".", describe(node), key);
  return *value;
}

template <typename T>
const T* find_constant(const Graph& graph, ValueId id) {
  if (id < 0 || id >= static_cast<ValueId>(graph.values.size())) return nullptr;
  const auto& constant = graph.values[static_cast<size_t>(id)].constant;
  return constant ? std::get_if<T>(&*constant) : nullptr;
}

}  // namespace

int64_t Node::get_int(const std::string& key) const {
  return need_attribute<int64_t>(*this, key, "an integer");
}

int64_t Node::get_int(const std::string& key, int64_t fallback) const {
  const auto* value = find_attribute<int64_t>(*this, key, "an integer");
  return value != nullptr ? *value : fallback;
}

float Node::get_float(const std::string& key) const {
  return need_attribute<float>(*this, key, "a float");
}

float Node::get_float(const std::string& key, float fallback) const {
  const auto* value = find_attribute<float>(*this, key, "a float");
  return value != nullptr ? *value : fallback;
}

std::string Node::get_string(const std::string& key, const std::string& fallback) const {
  const auto* value = find_attribute<std::string>(*this, key, "a string");
  return value != nullptr ? *value : fallback;
}

std::vector<int64_t> Node::get_ints(const std::string& key) const {
  return need_attribute<std::vector<int64_t>>(*this, key, "a list of integers");
}

std::vector<int64_t> Node::get_ints(const std::string& key, std::vector<int64_t> fallback) const {
  const auto* value = find_attribute<std::vector<int64_t>>(*this, key, "a list of integers");
  if (value != nullptr) return *value;
  return fallback;
}

ValueId Graph::add_value(std::string name, DType dtype) {
  Value value;
  value.name = std::move(name);
  value.dtype = dtype;
  values.push_back(std::move(value));
  return static_cast<ValueId>(values.size() - 1);
}

ValueId Graph::add_constant(std::string name, Constant constant) {
  Value value;
  value.name = std::move(name);
  if (const auto* tensor = std::get_if<TensorData>(&constant)) {
    value.dtype = tensor->dtype;
    value.shape = tensor->shape;
  } else if (const auto* source = std::get_if<MatrixSource>(&constant)) {
    value.shape = Shape{source->n, source->k};
  } else {
    const auto& view = std::get<runtime::PackedMatrix>(constant).view;
    value.shape = Shape{view.n, view.k};
  }
  value.constant = std::move(constant);
  values.push_back(std::move(value));
  return static_cast<ValueId>(values.size() - 1);
}

const TensorData* Graph::tensor(ValueId id) const { return find_constant<TensorData>(*this, id); }

const MatrixSource* Graph::matrix(ValueId id) const {
  return find_constant<MatrixSource>(*this, id);
}

std::string Graph::value_name(ValueId id) const {
  if (id == kNoValue) return "-";
  if (id < 0 || id >= static_cast<ValueId>(values.size())) return fmt::format("%{}?", id);
  const std::string& name = values[static_cast<size_t>(id)].name;
  return name.empty() ? fmt::format("%{}", id) : name;
}

std::vector<int32_t> producers(const Graph& graph) {
  std::vector<int32_t> result(graph.values.size(), -1);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const ValueId id : graph.nodes[i].outputs) {
      if (id != kNoValue) result.at(static_cast<size_t>(id)) = static_cast<int32_t>(i);
    }
  }
  return result;
}

std::vector<std::vector<int32_t>> consumers(const Graph& graph) {
  std::vector<std::vector<int32_t>> result(graph.values.size());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const ValueId id : graph.nodes[i].inputs) {
      if (id == kNoValue) continue;
      auto& users = result.at(static_cast<size_t>(id));
      const auto node = static_cast<int32_t>(i);
      if (users.empty() || users.back() != node) users.push_back(node);
    }
  }
  return result;
}

}  // namespace nibble::graph
