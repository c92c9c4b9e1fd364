#include <algorithm>
#include <filesystem>
#include <numeric>
#include <unordered_map>

#include "frontends/documents/documents.h"
#include "frontends/onnx/export_attention.h"
#include "frontends/onnx/export_head_norm.h"
#include "frontends/onnx/export_onnx.h"
#include "frontends/onnx/export_weights.h"
#include "frontends/onnx/model_writer.h"
#include "graph/ops.h"
#include "graph/rewrite.h"
#include "jit/error.h"
#include "jit/packed_layout.h"

namespace nibble::frontends {
namespace onnx {
namespace {

using graph::Graph;
using graph::kNoValue;
using graph::Node;
using graph::ValueId;

class GraphWriter {
 public:
  GraphWriter(const Graph& graph, ModelWriter& writer)
      : graph_(graph), writer_(writer), weights_(graph, writer), attention_(graph, writer) {}

  void write() {
    add_inputs();
    for (const Node& node : graph_.nodes) write_node(node);
    const std::string logits = name_of(graph_.io.logits);
    writer_.rename(logits, "logits");
    writer_.output("logits", ElementType::f32, {"batch_size", "sequence_length", vocabulary()});
  }

 private:
  void add_inputs() {
    names_[graph_.io.input_ids] = "input_ids";
    writer_.input("input_ids", ElementType::i64, {"batch_size", "sequence_length"});
    writer_.input("attention_mask", ElementType::i64, {"batch_size", "total_length"});
    const bool positions = std::any_of(graph_.nodes.begin(), graph_.nodes.end(), [](const Node& n) {
      return (n.is("Attention", graph::kNibbleDomain) && n.get_int("rotary", 0) > 0) ||
             (n.is("Embedding", graph::kNibbleDomain) && n.input(2) != kNoValue);
    });
    if (positions) {
      writer_.input("position_ids", ElementType::i64, {"batch_size", "sequence_length"});
    }
  }

  int64_t vocabulary() const {
    return graph::hidden_widths(graph_)[static_cast<size_t>(graph_.io.logits)];
  }

  void write_node(const Node& node) {
    if (node.domain != graph::kNibbleDomain) {
      fail("{}: node '{}' ({}) is not fused, so this model cannot be exported.", graph_.origin,
           node.name, node.op);
    }
    if (node.op == "RMSNorm") return write_norm(node, false);
    if (node.op == "LayerNorm") return write_norm(node, true);
    if (node.op == "Embedding") return give(node, embedding(node));
    if (node.op == "Linear") return give(node, linear(node));
    if (node.op == "Attention") return give(node, attention_.write(node, parts_of(node)));
    if (node.op == "Activation") return give(node, activated(node, in(node, 0), node.name));
    if (node.op == "Gate") {
      const std::string gate = activated(node, in(node, 0), node.name);
      return give(node, writer_.node("Mul", node.name + "/Mul", {gate, in(node, 1)}));
    }
    if (node.op == "Add") {
      return give(node, writer_.node("Add", node.name + "/Add", {in(node, 0), in(node, 1)}));
    }
    if (node.op == "LogitScale") return give(node, scaled_logits(node));
    if (node.op == "HeadNorm") {
      parts_[node.outputs[0]] = write_head_norm(graph_, writer_, node, parts_of(node));
      return;
    }
    if (node.op == "Clip") return write_clip(node);
    fail("{}: node '{}' ({}) has no form in ONNX.", graph_.origin, node.name, node.op);
  }

  QkvParts parts_of(const Node& node) {
    const auto known = parts_.find(node.inputs[0]);
    return known != parts_.end() ? known->second : split_qkv(writer_, node, in(node, 0));
  }

  void write_clip(const Node& node) {
    const float limit = node.get_float("limit");
    const auto clipped = [&](const std::string& x) {
      return writer_.node("Clip", node.name + "/Clip",
                          {x, writer_.number(-limit), writer_.number(limit)});
    };
    const auto known = parts_.find(node.inputs[0]);
    if (known == parts_.end()) return give(node, clipped(in(node, 0)));
    const QkvParts rows = known->second;
    parts_[node.outputs[0]] = {clipped(rows[0]), clipped(rows[1]), clipped(rows[2])};
  }

  const std::string& name_of(ValueId id) const {
    const auto found = names_.find(id);
    if (found != names_.end()) return found->second;
    fail("{}: the value '{}' is used, but nothing makes it.", graph_.origin, graph_.value_name(id));
  }
  const std::string& in(const Node& node, size_t i) const { return name_of(node.inputs.at(i)); }
  void give(const Node& node, const std::string& name) { names_[node.outputs[0]] = name; }

  std::string vector(ValueId id) {
    std::string& known = vectors_[id];
    if (!known.empty()) return known;
    const graph::TensorData* tensor = graph_.tensor(id);
    if (tensor == nullptr) {
      fail("{}: '{}' is computed, but a constant is expected.", graph_.origin,
           graph_.value_name(id));
    }
    return known = writer_.floats(graph_.value_name(id), tensor->shape, graph::to_f32(*tensor));
  }

  // Norms take a residual along, and may give out the sum.
  void write_norm(const Node& node, bool layer) {
    const ValueId residual = node.input(layer ? 3 : 2);
    std::string x = in(node, 0);
    if (residual != kNoValue) x = writer_.node("Add", node.name + "/sum", {x, name_of(residual)});
    if (node.outputs.size() > 1 && node.outputs[1] != kNoValue) names_[node.outputs[1]] = x;
    const std::string weight = vector(node.inputs[1]);
    const float epsilon = node.get_float("epsilon");
    if (!layer) return give(node, write_rms_norm(writer_, x, weight, epsilon, node.name));
    const std::string bias = node.input(2) != kNoValue ? vector(node.inputs[2]) : "";
    give(node, writer_.node("LayerNormalization", node.name + "/LayerNormalization",
                            {x, weight, bias}, {{"axis", int64_t{-1}}, {"epsilon", epsilon}}));
  }

  std::string embedding(const Node& node) {
    std::string x = weights_.look_up(node, in(node, 0));
    const float scale = node.get_float("scale", 1);
    if (scale != 1) x = writer_.node("Mul", node.name + "/Mul", {x, writer_.number(scale)});
    if (node.input(2) == kNoValue) return x;
    std::string index = "position_ids";
    if (const int64_t offset = node.get_int("position_offset", 0); offset != 0) {
      index = writer_.node("Add", node.name + "/offset", {index, writer_.integers({offset})});
    }
    const std::string rows =
        writer_.node("Gather", node.name + "/positions", {vector(node.inputs[2]), index});
    return writer_.node("Add", node.name + "/Add", {x, rows});
  }

  // The columns of a Linear as ONNX has them, and what is added to them.
  std::string product(const Node& node, const std::vector<int64_t>& columns,
                      const std::string& part) {
    std::string y = weights_.multiply(node, in(node, 0), columns, part);
    const ValueId bias = node.input(2);
    if (bias == kNoValue) return y;
    const std::vector<float> all = graph::to_f32(*graph_.tensor(bias));
    std::vector<float> ordered;
    for (const int64_t column : columns) ordered.push_back(all[static_cast<size_t>(column)]);
    const std::string by = writer_.floats(graph_.value_name(bias) + part,
                                          {static_cast<int64_t>(ordered.size())}, ordered);
    return writer_.node("Add", node.name + part + "/Add", {y, by});
  }

  std::string linear(const Node& node) {
    const int64_t count = graph::hidden_widths(graph_)[static_cast<size_t>(node.outputs[0])];
    std::vector<int64_t> columns(static_cast<size_t>(count));
    std::iota(columns.begin(), columns.end(), int64_t{0});
    std::string y;
    if (node.get_int("gate", 0) == 0) {
      y = activated(node, product(node, columns, ""), node.name);
    } else {
      // Blocks of 16 gate and 16 up columns alternate.
      for (int64_t& c : columns)
        c = c / jit::kColumnBlock * 2 * jit::kColumnBlock + c % jit::kColumnBlock;
      const std::string gate = activated(node, product(node, columns, "/gate"), node.name);
      for (int64_t& c : columns) c += jit::kColumnBlock;
      y = writer_.node("Mul", node.name + "/Mul", {gate, product(node, columns, "/up")});
    }
    const ValueId residual = node.input(3);
    if (residual == kNoValue) return y;
    return writer_.node("Add", node.name + "/residual/Add", {y, name_of(residual)});
  }

  std::string activated(const Node& node, const std::string& x, const std::string& prefix) {
    const std::string activation = node.get_string("activation", "none");
    const std::string name = prefix + "/act";
    const auto apply = [&](const char* op, const std::string& a, const std::string& b) {
      return writer_.node(op, name + "/" + op, {a, b});
    };
    const auto plain = [&](const char* op, const std::string& a) {
      return writer_.node(op, name + "/" + op, {a});
    };
    if (activation == "none") return x;
    if (activation == "relu") return plain("Relu", x);
    if (activation == "relu2") {
      const std::string positive = plain("Relu", x);
      return apply("Mul", positive, positive);
    }
    if (activation == "silu") return apply("Mul", x, plain("Sigmoid", x));
    if (activation == "quick_gelu") {
      return apply("Mul", x, plain("Sigmoid", apply("Mul", x, writer_.number(1.702F))));
    }
    std::string bend;
    if (activation == "gelu") {
      bend = plain("Erf", apply("Div", x, writer_.number(1.41421356237309504880F)));
    } else if (activation == "gelu_tanh") {
      const std::string cube = apply("Mul", apply("Mul", x, x), x);
      const std::string sum = apply("Add", x, apply("Mul", cube, writer_.number(0.044715F)));
      bend = plain("Tanh", apply("Mul", sum, writer_.number(0.79788456080286535588F)));
    } else {
      fail("{}: the activation {} of node '{}' has no form in ONNX.", graph_.origin, activation,
           node.name);
    }
    const std::string share = apply("Add", bend, writer_.number(1));
    return apply("Mul", apply("Mul", x, share), writer_.number(0.5F));
  }

  std::string scaled_logits(const Node& node) {
    std::string x = in(node, 0);
    const float scale = node.get_float("scale", 1), cap = node.get_float("softcap", 0);
    if (scale != 1) x = writer_.node("Mul", node.name + "/scale/Mul", {x, writer_.number(scale)});
    return cap == 0 ? x : write_softcap(writer_, x, cap, node.name);
  }

  const Graph& graph_;
  ModelWriter& writer_;
  WeightWriter weights_;
  AttentionWriter attention_;
  std::unordered_map<ValueId, std::string> names_, vectors_;
  std::unordered_map<ValueId, QkvParts> parts_;  // of what HeadNorms make
};

}  // namespace
}  // namespace onnx

void write_onnx(const graph::Graph& graph, const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail("{}: the folder cannot be made: {}.", folder, error.message());
  onnx::ModelWriter writer((std::filesystem::path(folder) / "model.onnx").string());
  onnx::GraphWriter(graph, writer).write();
  documents::write_documents(graph, documents::configuration_text(graph), folder);
  writer.commit();
}

}  // namespace nibble::frontends
