// The pipeline: passes in order, the graph verified after each.
#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "graph/check_fused.h"
#include "graph/describe_fused.h"
#include "graph/free_length.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

struct Pass {
  const char* name;
  int (*run)(Graph&, FusionReport&);
};

template <int (*Function)(Graph&)>
int plain(Graph& graph, FusionReport&) {
  return Function(graph);
}

constexpr Pass kPasses[] = {
    {"fold-constants", plain<fold_constants>},
    {"expand-operators", expand_operators},
    {"form-softmax", plain<form_softmax>},
    {"form-linears", plain<form_linears>},
    {"form-norms", plain<form_norms>},
    {"free-length", free_length},
    {"form-embeddings", plain<form_embeddings>},
    {"form-clips", plain<form_clips>},
    {"simplify-shapes", plain<simplify_shapes>},
    {"eliminate-dead", plain<eliminate_dead>},
    {"fuse-activations", fuse_activations},
    {"fuse-attention", fuse_attention},
    {"fuse-residuals", plain<fuse_residuals>},
    {"fuse-logits", fuse_logits},
    {"eliminate-dead-end", plain<eliminate_dead>},
};

// What passes fused is told of the graph they left; of them stay what they could not fuse, and
// what left no operator.
void complete_report(const Graph& graph, FusionReport& report) {
  report.nodes_after = static_cast<int64_t>(graph.nodes.size());
  std::vector<FusionEntry> entries = describe_fused(graph);
  for (FusionEntry& entry : report.entries) {
    const bool described = std::any_of(entries.begin(), entries.end(), [&](const FusionEntry& e) {
      return e.fused && e.what == entry.what;
    });
    if (!entry.fused || !described) entries.push_back(std::move(entry));
  }
  for (const Node& node : graph.nodes) {
    if (node.domain == kNibbleDomain) continue;
    ++report.nodes_unfused;
    entries.push_back({layer_of_name(node.name), node.op, false, kLeftOver, node.name});
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const FusionEntry& a, const FusionEntry& b) { return a.layer < b.layer; });
  report.entries = std::move(entries);
}

FusionEntry first_unfused(const FusionReport& report) {
  for (const FusionEntry& entry : report.entries) {
    if (!entry.fused && entry.detail != kLeftOver) return entry;
  }
  for (const FusionEntry& entry : report.entries) {
    if (!entry.fused) return entry;
  }
  return {};
}

void run_pass(const Pass& pass, Graph& graph, FusionReport& report, const PassObserver& observer) {
  const int changes = pass.run(graph, report);
  verify(graph);
  if (observer) observer(pass.name, graph, changes);
}

}  // namespace

double FusionReport::coverage() const {
  if (nodes_after == 0) return 0;
  return static_cast<double>(nodes_after - nodes_unfused) / static_cast<double>(nodes_after);
}

std::vector<std::string> pass_names() {
  std::vector<std::string> names;
  for (const Pass& pass : kPasses) names.emplace_back(pass.name);
  return names;
}

FusionReport fuse(Graph& graph, const PassObserver& observer) {
  FusionReport report;
  report.nodes_before = static_cast<int64_t>(graph.nodes.size());
  std::optional<std::pair<Graph, FusionReport>> fixed;  // before its length was freed
  for (const Pass& pass : kPasses) {
    if (pass.run == free_length && fixed_length(graph) > 0) fixed.emplace(graph, report);
    run_pass(pass, graph, report, observer);
  }
  complete_report(graph, report);
  if (fixed && !report.complete() && fixed_length(graph) == 0) {
    const FusionEntry first = first_unfused(report);
    std::tie(graph, report) = std::move(*fixed);
    report.entries.push_back(
        {-1, "length", false,
         "made to fit any number of tokens, but that does not fuse: " + first.detail, first.node});
    bool after = false;
    for (const Pass& pass : kPasses) {
      if (after) run_pass(pass, graph, report, observer);
      after = after || pass.run == free_length;
    }
    complete_report(graph, report);
  }
  check_fused(graph);
  return report;
}

}  // namespace nibble::graph
