// nibble inspect: what a model became, as a graph, as fusions and as memory.
#include <algorithm>

#include "jit/error.h"
#include "tools/cli/commands.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

struct InspectOptions {
  std::string model, after;
  bool graph = false, fusion = false, memory = false, json = false;
  WeightOptions weights;
  RunOptions run;
};

// The graph as text after the pass, or at the end.
int show_graph(const InspectOptions& options) {
  std::string text;
  if (options.after.empty()) {
    runtime::ThreadPool pool(1);
    text = graph::to_text(prepare_graph(options.model, "", options.weights, pool).graph);
  } else {
    const ModelPath found = find_model(options.model);
    if (found.nib) {
      throw UsageError(
          fmt::format("{} is compiled already; --after needs its source.", found.path));
    }
    graph::Graph graph = load_source(found).graph;
    graph::fuse(graph, [&](const std::string& pass, const graph::Graph& state, int) {
      if (pass == options.after) text = graph::to_text(state);
    });
  }
  if (options.json) {
    print_json({{"after", options.after.empty() ? Json() : Json(options.after)}, {"graph", text}});
  } else {
    print(text);
  }
  return 0;
}

Json fusion_json(const graph::FusionReport& report) {
  Json entries = Json::array();
  for (const graph::FusionEntry& entry : report.entries) {
    entries.push_back({{"layer", entry.layer},
                       {"what", entry.what},
                       {"fused", entry.fused},
                       {"detail", entry.detail},
                       {"node", entry.node}});
  }
  return {{"coverage", report.coverage()},         {"complete", report.complete()},
          {"nodes_before", report.nodes_before},   {"nodes_after", report.nodes_after},
          {"nodes_unfused", report.nodes_unfused}, {"entries", entries}};
}

int show_fusion(const InspectOptions& options) {
  runtime::ThreadPool pool(1);
  const PreparedGraph prepared = prepare_graph(options.model, "", options.weights, pool);
  const graph::FusionReport& report = prepared.report;
  if (options.json) {
    print_json(fusion_json(report));
    return 0;
  }
  std::vector<graph::FusionEntry> entries = report.entries;
  std::stable_sort(entries.begin(), entries.end(),
                   [](const auto& a, const auto& b) { return a.layer < b.layer; });
  int64_t layer = -2;
  for (const graph::FusionEntry& entry : entries) {
    if (entry.layer != layer) {
      layer = entry.layer;
      print_line(layer < 0 ? "outside the layers" : fmt::format("layer {}", layer));
    }
    print_line(fmt::format("  {:<9} {:<12} {}  ({})", entry.fused ? "fused" : "NOT fused",
                           entry.what, entry.detail, entry.node));
  }
  print_line(fmt::format("{:.0f}% fused: {} nodes before, {} after, {} of them not fused",
                         report.coverage() * 100, report.nodes_before, report.nodes_after,
                         report.nodes_unfused));
  return 0;
}

int show_memory(const InspectOptions& options) {
  const LoadedModel model = load_model(options.model, "", options.weights, options.run);
  if (!model.session) {
    fail("{}: only a fully fused model has a plan of its memory; see 'nibble inspect --fusion'.",
         options.model);
  }
  const runtime::SessionMemory memory = model.session->memory();
  const runtime::Plan& plan = model.session->plan();
  const int64_t context = model.decoder->context_length();
  const int64_t total =
      memory.weight_bytes + memory.kv_bytes + memory.arena_bytes + memory.scratch_bytes;
  if (options.json) {
    print_json({{"weight_bytes", memory.weight_bytes},
                {"kv_bytes", memory.kv_bytes},
                {"arena_bytes", memory.arena_bytes},
                {"scratch_bytes", memory.scratch_bytes},
                {"total_bytes", total},
                {"context", context},
                {"weight_bytes_per_token", plan.weight_bytes_per_token},
                {"macs_per_token", plan.macs_per_token},
                {"steps", plan.steps.size()},
                {"tuned", plan.tuned},
                {"peak_rss_mb", peak_rss_mb()}});
    return 0;
  }
  const auto line = [](const char* what, int64_t bytes, const std::string& remark) {
    print_line(
        fmt::format("{:<12} {:>12.3f} MB  {}", what, static_cast<double>(bytes) / 1e6, remark));
  };
  line("weights", memory.weight_bytes,
       fmt::format("{:.3f} MB read a token",
                   static_cast<double>(plan.weight_bytes_per_token) / 1e6));
  line("KV cache", memory.kv_bytes, fmt::format("{} positions, touched as they come", context));
  line("activations", memory.arena_bytes, fmt::format("{} rows a pass", options.run.chunk));
  line("scratch", memory.scratch_bytes, fmt::format("{} threads", model.pool->size()));
  line("together", total, "");
  print_line(fmt::format("tilings      {} by the tuning database, the others are the default",
                         plan.tuned));
  return 0;
}

}  // namespace

void add_inspect(CLI::App& program, Action& action) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = program.add_subcommand("inspect", "Show what a model became");
  command
      ->add_option("MODEL", options->model,
                   "An .onnx, a .nib, .safetensors, a .gguf or a folder holding one")
      ->required();
  CLI::Option* graph = command->add_flag("--graph", options->graph, "Its nodes, one a line");
  CLI::Option* fusion =
      command->add_flag("--fusion", options->fusion, "What was fused in each layer, and what not")
          ->excludes(graph);
  command->add_flag("--memory", options->memory, "Where its memory goes")
      ->excludes(graph)
      ->excludes(fusion);
  command->add_option("--after", options->after, "The graph as it is after this pass")
      ->check(CLI::IsMember(graph::pass_names()))
      ->needs(graph);
  command->add_flag("--json", options->json, "Print a JSON object");
  options->run.add_to(*command);
  options->weights.add_to(*command);
  command->callback([options, &action] {
    if (!options->graph && !options->fusion && !options->memory) {
      throw CLI::RequiredError("--graph, --fusion or --memory");
    }
    action = [options] {
      if (options->graph) return show_graph(*options);
      return options->fusion ? show_fusion(*options) : show_memory(*options);
    };
  });
}

}  // namespace nibble::cli
