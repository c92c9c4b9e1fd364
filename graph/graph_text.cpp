#include "graph/graph.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

std::string shape_text(const std::optional<Shape>& shape) {
  if (!shape) return "";
  std::string text = "[";
  for (size_t i = 0; i < shape->size(); ++i) {
    if (i > 0) text += ",";
    text += (*shape)[i] < 0 ? "?" : fmt::format("{}", (*shape)[i]);
  }
  return text + "]";
}

constexpr int64_t kMostPrinted = 8;  // elements of a constant that is printed in full

std::string tensor_text(const TensorData& tensor) {
  std::string type = fmt::format("{}{}", dtype_name(tensor.dtype), to_string(tensor.shape));
  if (element_count(tensor.shape) > kMostPrinted) return type;
  const bool is_float = tensor.dtype == DType::f32 || tensor.dtype == DType::f16 ||
                        tensor.dtype == DType::bf16 || tensor.dtype == DType::f64;
  const std::string values = is_float ? fmt::format("{}", fmt::join(to_f32(tensor), ","))
                                      : fmt::format("{}", fmt::join(to_i64(tensor), ","));
  return fmt::format("{}{{{}}}", type, values);
}

std::string constant_text(const Constant& constant) {
  if (const auto* tensor = std::get_if<TensorData>(&constant)) return tensor_text(*tensor);
  if (const auto* source = std::get_if<MatrixSource>(&constant)) {
    return fmt::format("matrix n={} k={} parts={} segments={}", source->n, source->k,
                       source->parts.size(), source->segments.size());
  }
  const jit::PackedView& view = std::get<runtime::PackedMatrix>(constant).view;
  const std::string_view type = jit::weight_type_name(view.format.type);
  if (view.format.type == jit::WeightType::f32) {
    return fmt::format("packed {} n={} k={}", type, view.n, view.k);
  }
  return fmt::format("packed {} g{} {} {} n={} k={}", type, view.format.group,
                     view.format.minimum ? "min"
                     : view.format.asym  ? "asym"
                                         : "sym",
                     jit::scale_type_name(view.format.scale), view.n, view.k);
}

std::string attribute_text(const Attribute& attribute) {
  if (const auto* i = std::get_if<int64_t>(&attribute)) return fmt::format("{}", *i);
  if (const auto* f = std::get_if<float>(&attribute)) return fmt::format("{:#}", *f);
  if (const auto* s = std::get_if<std::string>(&attribute)) return fmt::format("\"{}\"", *s);
  if (const auto* is = std::get_if<std::vector<int64_t>>(&attribute)) {
    return fmt::format("[{}]", fmt::join(*is, ","));
  }
  if (const auto* fs = std::get_if<std::vector<float>>(&attribute)) {
    return fmt::format("[{:#}]", fmt::join(*fs, ","));
  }
  return tensor_text(std::get<TensorData>(attribute));
}

// A used value: constants with their content, once where they are used.
std::string operand_text(const Graph& graph, ValueId id) {
  std::string name = graph.value_name(id);
  if (id < 0 || id >= static_cast<ValueId>(graph.values.size())) return name;
  const auto& constant = graph.values[static_cast<size_t>(id)].constant;
  return constant ? fmt::format("{}: {}", name, constant_text(*constant)) : name;
}

std::string node_text(const Graph& graph, const Node& node) {
  std::string text;
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    text += (i > 0 ? ", " : "") + graph.value_name(node.outputs[i]);
  }
  text += " = ";
  if (!node.domain.empty()) text += node.domain + ".";
  text += node.op + "(";
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    text += (i > 0 ? ", " : "") + operand_text(graph, node.inputs[i]);
  }
  text += ")";
  for (const auto& [key, value] : node.attributes) {
    text += fmt::format(" {}={}", key, attribute_text(value));
  }
  return text + "\n";
}

}  // namespace

std::string to_text(const Graph& graph) {
  std::string text = fmt::format("opset {}\n", graph.opset);
  for (const ValueId id : graph.inputs) {
    const Value& value = graph.values.at(static_cast<size_t>(id));
    text += fmt::format("input {}: {}{}\n", graph.value_name(id), dtype_name(value.dtype),
                        shape_text(value.shape));
  }
  for (const Node& node : graph.nodes) text += node_text(graph, node);
  for (const ValueId id : graph.outputs) {
    text += fmt::format("output {}\n", operand_text(graph, id));
  }
  return text;
}

}  // namespace nibble::graph
