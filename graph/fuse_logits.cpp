// What stands between the output matrix and the logits: a factor (Cohere, Granite), a softcap
// (Gemma 2), or nothing but a cast. Found by evaluating it.
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

namespace nibble::graph {
namespace {

struct LogitMeaning {
  double scale = 1, cap = 0;

  double operator()(double x) const {
    return cap == 0 ? scale * x : cap * std::tanh(scale * x / cap);
  }
};

// The region as a function of one logit, evaluated for many at once.
class LogitProbe {
 public:
  LogitProbe(const Graph& graph, ValueId source, int64_t width)
      : graph_(graph), interpreter_(graph, probe_limits(graph)), source_(source), width_(width) {}

  // f(x) for logits that are x in a vocabulary of that value alone.
  double at(float x) const {
    return run(std::vector<float>(static_cast<size_t>(width_), x)).front();
  }

  std::vector<float> run(std::vector<float> logits) const {
    Feeds feeds;
    feeds[source_] = Array::of({1, 1, width_}, std::move(logits));
    const Array out = interpreter_.run_one(feeds, graph_.io.logits);
    if (out.size() != width_) fail("{} logits become {}.", width_, out.size());
    return {out.floats().begin(), out.floats().end()};
  }

 private:
  const Graph& graph_;
  Interpreter interpreter_;
  ValueId source_;
  int64_t width_;
};

std::optional<LogitMeaning> meaning_of(const LogitProbe& probe, int64_t width) {
  LogitMeaning meaning;
  meaning.scale = probe.at(1e-3F) / 1e-3;
  // A cap shows far out, where tanh is 1.
  const double far = 1e9, capped = probe.at(static_cast<float>(far));
  if (std::fabs(capped) < 0.5 * std::fabs(meaning.scale * far)) meaning.cap = capped;
  if (meaning.cap < 0 || meaning.scale == 0) return std::nullopt;
  if (meaning.cap == 0) meaning.scale = probe.at(1.0F);
  for (const float reach : {0.1F, 10.0F, 1000.0F}) {
    auto logits = probe_values(static_cast<size_t>(width), 9);
    for (float& x : logits) x *= reach;
    std::vector<float> expected;
    for (const float x : logits) expected.push_back(static_cast<float>(meaning(x)));
    if (!(relative_difference(probe.run(logits), expected) < 1e-5)) return std::nullopt;
  }
  return meaning;
}

struct LogitRegion {
  ValueId source = kNoValue;
  int64_t width = 0;
  std::string node;  // the last one
};

// The nodes between one Linear and the logits; nullopt when there are none, or more is mixed in.
std::optional<LogitRegion> region_of(const Graph& graph) {
  const Links links(graph);
  const Node* last = links.producer(graph.io.logits);
  if (last == nullptr || last->domain == kNibbleDomain) return std::nullopt;
  const ValueId wanted[] = {graph.io.logits};
  const Slice slice = backward_slice(graph, wanted, fused_values(graph));
  if (slice.frontier.size() != 1 || !slice.graph_inputs.empty()) return std::nullopt;
  const ValueId source = slice.frontier[0];
  if (!links.producer(source)->is("Linear", kNibbleDomain) || links.is_output(source)) {
    return std::nullopt;
  }
  const auto& users = links.consumers(source);
  if (std::any_of(users.begin(), users.end(), [&](int32_t user) {
        return !std::binary_search(slice.nodes.begin(), slice.nodes.end(), user);
      })) {
    return std::nullopt;
  }
  const int64_t width = hidden_widths(graph)[static_cast<size_t>(source)];
  if (width == 0) return std::nullopt;
  return LogitRegion{source, width, last->name};
}

}  // namespace

int fuse_logits(Graph& graph, FusionReport& report) {
  const auto region = region_of(graph);
  if (!region) return 0;
  FusionEntry entry{-1, "logits", false, "", region->node};
  std::optional<LogitMeaning> meaning;
  try {
    meaning = meaning_of(LogitProbe(graph, region->source, region->width), region->width);
  } catch (const Error& error) {
    entry.detail = error.what();
  }
  if (!meaning) {
    if (entry.detail.empty())
      entry.detail = "what is done to the logits is no factor and no softcap";
    report.entries.push_back(std::move(entry));
    return 0;
  }
  entry.fused = true;
  const auto logits = static_cast<size_t>(graph.io.logits);
  if (meaning->cap == 0 && meaning->scale == 1) {
    entry.detail = "passed on as they are";
    graph.values[static_cast<size_t>(region->source)].shape = graph.values[logits].shape;
    replace_uses(graph, graph.io.logits, region->source);
  } else {
    const auto maker = static_cast<size_t>(producers(graph)[logits]);
    graph.nodes[maker] = Node{"LogitScale",
                              "nibble",
                              graph.nodes[maker].name,
                              {region->source},
                              {graph.io.logits},
                              {{"scale", static_cast<float>(meaning->scale)},
                               {"softcap", static_cast<float>(meaning->cap)}}};
  }
  report.entries.push_back(std::move(entry));
  sort_nodes(graph);
  eliminate_dead(graph);
  return 1;
}

}  // namespace nibble::graph
