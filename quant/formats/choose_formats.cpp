// Which constant of a graph gets which weight format.

#include <algorithm>
#include <array>
#include <string_view>

#include "graph/ops.h"
#include "jit/error.h"
#include "quant/formats/nested_scales.h"
#include "quant/formats/quantize.h"

namespace nibble::quant {
namespace {

using graph::Graph;
using graph::MatrixSource;
using graph::Node;
using graph::ValueId;
using jit::WeightFormat;
using jit::WeightType;

// Operators that may stand between the head and the logits: a logit scale, a softcap, a cast.
bool passes_logits_on(const Node& node) {
  if (node.is("LogitScale", graph::kNibbleDomain)) return true;
  static constexpr std::array<std::string_view, 7> kOps = {"Cast", "Identity", "Mul",    "Div",
                                                           "Tanh", "Add",      "Reshape"};
  return node.domain.empty() && std::find(kOps.begin(), kOps.end(), node.op) != kOps.end();
}

// The weight of the Linear that makes the logits; kNoValue when there is none.
ValueId head_weight(const Graph& graph) {
  const auto makers = graph::producers(graph);
  ValueId value = graph.io.logits;
  while (value >= 0 && static_cast<size_t>(value) < makers.size()) {
    const int32_t maker = makers[static_cast<size_t>(value)];
    if (maker < 0) break;
    const Node& node = graph.nodes[static_cast<size_t>(maker)];
    if (node.is("Linear", graph::kNibbleDomain)) return node.input(1);
    if (!passes_logits_on(node)) break;
    // Upstream is the one input that a node computes.
    const auto upstream = std::find_if(node.inputs.begin(), node.inputs.end(), [&](ValueId id) {
      return id >= 0 && makers[static_cast<size_t>(id)] >= 0;
    });
    if (upstream == node.inputs.end()) break;
    value = *upstream;
  }
  return graph::kNoValue;
}

// Whether two weights are stretches of the same bytes of the model.
bool tied(const MatrixSource& a, const MatrixSource& b) {
  if (a.parts.size() != 1 || b.parts.size() != 1) return false;
  if (!a.parts[0].is_tensor() || !b.parts[0].is_tensor()) return a.parts[0].same_as(b.parts[0]);
  return a.parts[0].tensor.data == b.parts[0].tensor.data;
}

}  // namespace

QuantizeOptions default_options(const std::string& weights, int64_t group, bool asym,
                                jit::ScaleType scale) {
  if (weights == "f32") {
    const WeightFormat f32{WeightType::f32, 0, false, jit::ScaleType::f32};
    return {f32, f32, f32, RtnRange::full};
  }
  if (group < 0 || group % 8 != 0) {
    fail("The weight group must be 0 (the whole of k) or a multiple of 8, found {}.", group);
  }
  const WeightFormat u4{WeightType::u4, group, asym, scale};
  const WeightFormat u6{WeightType::u6, group, asym, scale};
  const WeightFormat u8{WeightType::u8, group, asym, scale};
  if (weights == "int4") return {u4, u8, u8, RtnRange::full};
  if (weights == "int6") return {u6, u6, u6, RtnRange::full};
  if (weights == "int8") return {u8, u8, u8, RtnRange::full};
  fail("The weights can be int4, int6, int8 or f32, found '{}'.", weights);
}

namespace {

// What the options give to each weight.
std::map<ValueId, WeightFormat> wanted_formats(const Graph& graph, const QuantizeOptions& options) {
  std::map<ValueId, WeightFormat> formats;
  const ValueId head = head_weight(graph);
  const MatrixSource* head_source = graph.matrix(head);
  const auto give = [&](ValueId id, const WeightFormat& format) {
    if (graph.matrix(id) == nullptr || id == head) return;
    formats.emplace(id, with_fitting_scales(format, graph.matrix(id)->k));
  };
  if (head_source != nullptr) {
    formats.emplace(head, with_fitting_scales(options.head, head_source->k));
  }
  for (const Node& node : graph.nodes) {
    if (node.is("Linear", graph::kNibbleDomain)) {
      give(node.input(1), options.linear);
    } else if (node.is("Embedding", graph::kNibbleDomain)) {
      const MatrixSource* table = graph.matrix(node.input(1));
      const bool shared = table != nullptr && head_source != nullptr && tied(*table, *head_source);
      give(node.input(1), shared ? options.head : options.embedding);
    }
  }
  return formats;
}

// What takes numbers that are rounded already, at no loss to speak of.
constexpr WeightFormat kRounded{WeightType::u8, 32, false, jit::ScaleType::f16};

// What a weight that is quantized already gets: its own format, unless fp32 is asked for.
WeightFormat format_of_quantized(const MatrixSource& source, const WeightFormat& wanted,
                                 std::string& why_not) {
  if (wanted.type == WeightType::f32) return wanted;
  auto own = source.packed_format(why_not);
  if (!own) return kRounded;
  if (wanted.scale == jit::ScaleType::f32) own->scale = wanted.scale;
  return *own;
}

// A matrix of floats that only an Embedding uses.
bool is_table_alone(const Graph& graph, ValueId id) {
  const auto& parts = graph.matrix(id)->parts;
  const auto is_tensor = [](const graph::MatrixPart& part) { return part.is_tensor(); };
  if (!std::all_of(parts.begin(), parts.end(), is_tensor)) return false;
  return std::all_of(graph.nodes.begin(), graph.nodes.end(), [&](const Node& node) {
    return node.input(1) != id || node.is("Embedding", graph::kNibbleDomain);
  });
}

QuantizedWeight::Part weight_part(const Graph& graph, ValueId id) {
  if (id == head_weight(graph)) return QuantizedWeight::Part::head;
  for (const Node& node : graph.nodes) {
    if (node.is("Embedding", graph::kNibbleDomain) && node.input(1) == id) {
      return QuantizedWeight::Part::embedding;
    }
  }
  return QuantizedWeight::Part::linear;
}

std::string text_of(const WeightFormat& format) {
  if (format.type == WeightType::f32) return "f32";
  return fmt::format("int{}{}{} with {} scales", jit::weight_bits(format.type),
                     format.group > 0 ? fmt::format(" in groups of {}", format.group) : "",
                     format.minimum ? " and minimums,"
                     : format.asym  ? " and zero points,"
                                    : ",",
                     jit::scale_type_name(format.scale));
}

}  // namespace

std::map<ValueId, WeightFormat> choose_formats(const Graph& graph, const QuantizeOptions& options) {
  auto formats = wanted_formats(graph, options);
  std::string why_not;
  const bool checkpoint = std::any_of(formats.begin(), formats.end(), [&](const auto& entry) {
    return graph.matrix(entry.first)->has_quantized();
  });
  for (auto& [id, format] : formats) {
    if (checkpoint && !options.embedding_chosen && is_table_alone(graph, id)) {
      format = WeightFormat{WeightType::f32, 0, false, jit::ScaleType::f32};
    }
    const MatrixSource* source = graph.matrix(id);
    if (source->has_quantized()) format = format_of_quantized(*source, format, why_not);
  }
  return formats;
}

std::vector<QuantizedWeight> quantized_weights(const Graph& graph, const QuantizeOptions& options) {
  std::vector<QuantizedWeight> found;
  for (const auto& [id, wanted] : wanted_formats(graph, options)) {
    const MatrixSource* source = graph.matrix(id);
    if (!source->has_quantized()) continue;
    QuantizedWeight weight{graph.value_name(id), weight_part(graph, id), wanted, std::nullopt, ""};
    weight.own = source->packed_format(weight.why_not);
    found.push_back(std::move(weight));
  }
  return found;
}

std::string format_text(const WeightFormat& format) { return text_of(format); }

}  // namespace nibble::quant
