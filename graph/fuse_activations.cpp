// The elementwise region between Linears: an activation becomes the epilogue of the Linear before
// it, a gate becomes one Linear over gate and up columns side by side. The function is recognised
// by its values.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "graph/interpreter.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/probe.h"
#include "graph/rewrite.h"
#include "jit/error.h"
#include "jit/packed_layout.h"

namespace nibble::graph {
namespace {

constexpr int64_t kTokens = 2;
constexpr double kSameActivation = 1e-5;
constexpr const char* kActivations[] = {"silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2"};

double evaluate(std::string_view activation, double x) {
  if (activation == "silu") return x / (1 + std::exp(-x));
  if (activation == "gelu") return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  if (activation == "gelu_tanh") {
    return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
  }
  if (activation == "quick_gelu") return x / (1 + std::exp(-1.702 * x));
  const double positive = std::max(x, 0.0);
  return activation == "relu2" ? positive * positive : positive;
}

// A region that ends in `out` and starts from one or two Linears.
struct Region {
  ValueId out = kNoValue;
  std::vector<ValueId> sources;
  std::vector<int32_t> nodes;
};

// What the region computes: act(a), or act(a[gate]) * b[up], times a factor, which belongs to the
// Linears that multiply it.
struct Meaning {
  std::string activation;
  bool gated = false;
  // Gated: where gate and up are: source index and first column.
  size_t gate_source = 0, up_source = 0;
  int64_t gate_column = 0, up_column = 0;
  float factor = 1;
};

// found / expected where that is most certain; a fraction of small numbers where it is close to
// one.
float factor_between(std::span<const float> found, std::span<const float> expected) {
  if (found.size() != expected.size() || found.empty()) return 1;
  const auto largest = std::max_element(expected.begin(), expected.end(), [](float a, float b) {
    return std::fabs(a) < std::fabs(b);
  });
  const double ratio = static_cast<double>(found[static_cast<size_t>(largest - expected.begin())]) /
                       static_cast<double>(*largest);
  if (!std::isfinite(ratio) || ratio == 0) return 1;
  const double simple = std::round(ratio * 64) / 64;
  const bool close =
      simple != 0 && std::fabs(ratio - simple) <= kSameActivation * std::fabs(simple);
  return static_cast<float>(close ? simple : ratio);
}

class ActivationFuser {
 public:
  ActivationFuser(Graph& graph, FusionReport& report)
      : graph_(graph), report_(report), links_(graph), widths_(hidden_widths(graph)) {}

  int run() {
    std::vector<std::pair<Region, Meaning>> found;
    {
      const Interpreter interpreter(graph_, probe_limits(graph_));
      for (const Node& node : graph_.nodes) {
        if (!node.is("Linear", kNibbleDomain)) continue;
        const Node* before = links_.producer(node.inputs[0]);
        if (before == nullptr || before->domain == kNibbleDomain) continue;
        const bool known = std::any_of(found.begin(), found.end(), [&](const auto& f) {
          return f.first.out == node.inputs[0];
        });
        auto region = known ? std::nullopt : region_of(node.inputs[0]);
        if (!region) continue;
        auto meaning = meaning_of(interpreter, *region);
        if (meaning) {
          found.emplace_back(std::move(*region), std::move(*meaning));
        } else {
          report_.entries.push_back({layer_of_name(node.name), "mlp", false,
                                     "the function between the projections is no known activation",
                                     before->name});
        }
      }
    }
    for (const auto& [region, meaning] : found) apply(region, meaning);
    sort_nodes(graph_);
    eliminate_dead(graph_);
    return static_cast<int>(found.size());
  }

 private:
  std::optional<Region> region_of(ValueId out) const {
    const ValueId wanted[] = {out};
    const Slice slice = backward_slice(graph_, wanted, fused_values(graph_));
    if (slice.frontier.empty() || slice.frontier.size() > 2) return std::nullopt;
    for (ValueId input : slice.graph_inputs) {
      if (input != graph_.io.input_ids) return std::nullopt;
    }
    for (ValueId source : slice.frontier) {
      const Node* linear = links_.producer(source);
      if (!linear->is("Linear", kNibbleDomain)) return std::nullopt;
      if (linear->has("activation") || widths_[static_cast<size_t>(source)] == 0)
        return std::nullopt;
    }
    return Region{out, slice.frontier, slice.nodes};
  }

  // The candidate that agrees at every scale: near zero, where activations bend, and far out, where
  // a clamp would show.
  std::optional<Meaning> meaning_of(const Interpreter& interpreter, const Region& region) const {
    std::vector<Meaning> left = candidates(region);
    bool first = true;
    for (const float scale : {6.0F, 0.1F, 1000.0F}) {
      Feeds feeds = decoder_feeds(graph_, {.tokens = kTokens, .past = 0, .thin_cache = true});
      std::vector<std::vector<float>> inputs;
      for (size_t s = 0; s < region.sources.size(); ++s) {
        const int64_t width = widths_[static_cast<size_t>(region.sources[s])];
        auto values =
            probe_values(static_cast<size_t>(kTokens * width), 5 + static_cast<uint32_t>(s));
        for (float& value : values) value *= scale;
        feeds[region.sources[s]] = Array::of({1, kTokens, width}, values);
        inputs.push_back(std::move(values));
      }
      Array result;
      try {
        result = interpreter.run_one(feeds, region.out);
      } catch (const Error&) {
        return std::nullopt;  // depends on what a probe does not feed
      }
      for (Meaning& candidate : left) {
        if (!first) break;
        const auto expected = predict(candidate, inputs, result.size() / kTokens);
        candidate.factor = factor_between(result.floats(), expected);
      }
      first = false;
      std::erase_if(left, [&](const Meaning& candidate) {
        auto expected = predict(candidate, inputs, result.size() / kTokens);
        for (float& value : expected) value *= candidate.factor;
        return !(relative_difference(result.floats(), expected) < kSameActivation);
      });
    }
    std::erase_if(left, [&](const Meaning& candidate) {
      return candidate.factor != 1 && !feeds_linears_alone(region.out);
    });
    return left.empty() ? std::nullopt : std::optional<Meaning>(left.front());
  }

  // Whether all that use a value are Linears whose weights can be scaled.
  bool feeds_linears_alone(ValueId id) const {
    const auto& users = links_.consumers(id);
    return !links_.is_output(id) && std::all_of(users.begin(), users.end(), [&](int32_t user) {
      const Node& node = graph_.nodes[static_cast<size_t>(user)];
      if (!node.is("Linear", kNibbleDomain) || node.inputs[0] != id || node.input(3) == id) {
        return false;
      }
      const auto& constant = graph_.values[static_cast<size_t>(node.inputs[1])].constant;
      return constant && std::holds_alternative<MatrixSource>(*constant);
    });
  }

  void scale_users(ValueId id, float factor) {
    for (int32_t user : links_.consumers(id)) {
      Node& linear = graph_.nodes[static_cast<size_t>(user)];
      MatrixSource source = weight(linear);
      for (MatrixPart& part : source.parts) part.factor *= factor;
      linear.inputs[1] =
          graph_.add_constant(graph_.value_name(linear.inputs[1]), Constant(std::move(source)));
    }
  }

  std::vector<Meaning> candidates(const Region& region) const {
    std::vector<Meaning> all;
    for (const char* activation : kActivations) {
      if (region.sources.size() == 2) {
        all.push_back({activation, true, 0, 1, 0, 0});
        all.push_back({activation, true, 1, 0, 0, 0});
        continue;
      }
      const int64_t half = widths_[static_cast<size_t>(region.sources[0])] / 2;
      all.push_back({activation, false, 0, 0, 0, 0});
      all.push_back({activation, true, 0, 0, 0, half});
      all.push_back({activation, true, 0, 0, half, 0});
    }
    return all;
  }

  // Empty when the meaning gives rows of another width.
  static std::vector<float> predict(const Meaning& meaning,
                                    const std::vector<std::vector<float>>& inputs, int64_t width) {
    std::vector<float> out;
    const bool halves = meaning.gated && inputs.size() == 1;
    for (const auto& input : inputs) {
      if (static_cast<int64_t>(input.size()) != kTokens * width * (halves ? 2 : 1)) return {};
    }
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t c = 0; c < width; ++c) {
        const auto& gate = inputs[meaning.gate_source];
        const auto& up = inputs[meaning.up_source];
        const int64_t gate_width = static_cast<int64_t>(gate.size()) / kTokens;
        const int64_t up_width = static_cast<int64_t>(up.size()) / kTokens;
        const int64_t g = meaning.gate_column + c, u = meaning.up_column + c;
        double y = evaluate(meaning.activation, gate[static_cast<size_t>(t * gate_width + g)]);
        if (meaning.gated) y *= up[static_cast<size_t>(t * up_width + u)];
        out.push_back(static_cast<float>(y));
      }
    }
    return out;
  }

  bool used_elsewhere(ValueId source, const Region& region) const {
    const auto& users = links_.consumers(source);
    return links_.is_output(source) || std::any_of(users.begin(), users.end(), [&](int32_t user) {
             return !std::binary_search(region.nodes.begin(), region.nodes.end(), user);
           });
  }

  void apply(const Region& region, const Meaning& meaning) {
    const int32_t maker = producers(graph_)[static_cast<size_t>(region.out)];
    Node& last = graph_.nodes[static_cast<size_t>(maker)];
    const Node first = *links_.producer(region.sources[meaning.gate_source]);
    FusionEntry entry{layer_of_name(first.name), "mlp", true, "", first.name};
    if (!meaning.gated) {
      Node node = first;
      if (used_elsewhere(region.sources[0], region)) {
        node = Node{"Activation", "nibble", last.name, {region.sources[0]}, {}, {}};
      }
      node.attributes["activation"] = meaning.activation;
      node.outputs = {region.out};
      last = std::move(node);
    } else {
      const Node second = *links_.producer(region.sources[meaning.up_source]);
      Node node;
      if (first.inputs[0] == second.inputs[0]) {
        node = gate_linear(first, second, region, meaning);
      } else {
        node = Node{"Gate", "nibble", last.name, {first.outputs[0], second.outputs[0]}, {}, {}};
      }
      node.attributes["activation"] = meaning.activation;
      node.outputs = {region.out};
      graph_.nodes[static_cast<size_t>(maker)] = std::move(node);
    }
    if (meaning.factor != 1) scale_users(region.out, meaning.factor);
    report_.entries.push_back(std::move(entry));
  }

  const MatrixSource& weight(const Node& linear) const {
    return std::get<MatrixSource>(*graph_.values[static_cast<size_t>(linear.inputs[1])].constant);
  }

  // One Linear whose column blocks alternate 16 gate and 16 up columns.
  Node gate_linear(const Node& gate, const Node& up, const Region& region, const Meaning& meaning) {
    const int64_t columns = meaning.gate_source == meaning.up_source
                                ? widths_[static_cast<size_t>(region.sources[0])] / 2
                                : widths_[static_cast<size_t>(region.sources[meaning.gate_source])];
    const MatrixSource parts[] = {weight(gate), weight(up)};
    const MatrixSource both = concatenate(parts);
    std::vector<float> biases = bias_of(gate);
    const std::vector<float> up_bias = bias_of(up);
    biases.insert(biases.end(), up_bias.begin(), up_bias.end());
    std::vector<ColumnSegment> segments;
    std::vector<float> ordered;
    for (int64_t begin = 0; begin < columns; begin += jit::kColumnBlock) {
      const int64_t count = std::min(jit::kColumnBlock, columns - begin);
      for (int64_t start : {meaning.gate_column, parts[0].n + meaning.up_column}) {
        segments.push_back({0, start + begin, count});
        if (count < jit::kColumnBlock) segments.push_back({-1, 0, jit::kColumnBlock - count});
        const auto from = biases.begin() + start + begin;
        ordered.insert(ordered.end(), from, from + count);
        ordered.resize(ordered.size() + static_cast<size_t>(jit::kColumnBlock - count), 0.0F);
      }
    }
    Node node{"Linear", "nibble", gate.name + "+up", {gate.inputs[0], kNoValue, kNoValue}, {}, {}};
    node.inputs[1] = graph_.add_constant(graph_.value_name(gate.inputs[1]) + "+up",
                                         Constant(select_columns(both, segments)));
    if (gate.input(2) != kNoValue || up.input(2) != kNoValue) {
      const auto n = static_cast<int64_t>(ordered.size());
      node.inputs[2] =
          graph_.add_constant(gate.name + "+up/bias", make_f32({n}, std::move(ordered)));
    }
    node.attributes["gate"] = int64_t{1};
    node.attributes["columns"] = columns;
    return node;
  }

  std::vector<float> bias_of(const Node& linear) const {
    if (linear.input(2) != kNoValue) return to_f32(*graph_.tensor(linear.inputs[2]));
    return std::vector<float>(static_cast<size_t>(weight(linear).n), 0.0F);
  }

  Graph& graph_;
  FusionReport& report_;
  Links links_;
  std::vector<int64_t> widths_;
};

}  // namespace

int fuse_activations(Graph& graph, FusionReport& report) {
  return ActivationFuser(graph, report).run();
}

}  // namespace nibble::graph
