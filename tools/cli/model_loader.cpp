#include "tools/cli/model_loader.h"

#include <fmt/format.h>

#include <algorithm>

#include "graph/describe_fused.h"
#include "graph/interpreted_decoder.h"
#include "graph/interpreter.h"
#include "graph/lower.h"
#include "graph/model_shapes.h"
#include "graph/nib_model.h"
#include "graph/ops.h"
#include "jit/error.h"
#include "runtime/clock.h"
#include "runtime/tuning_db.h"
#include "tools/cli/commands.h"
#include "tools/cli/output.h"
#include "tools/cli/pack_weights.h"

namespace nibble::cli {
namespace {

void refuse_weight_flags(const std::string& path, const WeightOptions& weights) {
  for (const CLI::Option* flag : weights.flags) {
    if (flag->count() == 0) continue;
    throw UsageError(
        fmt::format("{} is compiled already, so {} does not apply to it.", path, flag->get_name()));
  }
}

// Read from a .nib the fusing is history: what there is to tell is what the graph holds.
graph::FusionReport count_nodes(const graph::Graph& graph) {
  graph::FusionReport report;
  report.nodes_before = report.nodes_after = static_cast<int64_t>(graph.nodes.size());
  report.entries = graph::describe_fused(graph);
  for (const graph::Node& node : graph.nodes) {
    if (node.domain == graph::kNibbleDomain) continue;
    ++report.nodes_unfused;
    report.entries.push_back({-1, node.op, false, "it was compiled unfused", node.name});
  }
  return report;
}

// What the interpreter will have to run it must know; better said before hours of quantizing.
void refuse_unknown_operators(const graph::Graph& graph) {
  for (const graph::Node& node : graph.nodes) {
    if (graph::interpreter_knows(node)) continue;
    fail("{}: node '{}' is a {}{}{}, an operator that is not known.", graph.origin, node.name,
         node.domain, node.domain.empty() ? "" : ".", node.op);
  }
}

// --compute, else what the file says, else int8.
std::string choose_compute(const graph::Graph& graph, const WeightOptions& weights) {
  if (!weights.compute.empty()) return weights.compute;
  for (const graph::Node& node : graph.nodes) {
    if (node.is("Linear", graph::kNibbleDomain) && node.has("compute")) {
      const std::string compute = node.get_string("compute", "int8");
      if (!graph::parse_compute(compute)) {
        fail("{}: node '{}' computes in '{}', expected int8, bf16 or f32.", graph.origin, node.name,
             compute);
      }
      return compute;
    }
  }
  return "int8";
}

bool has_quantized_weights(const graph::Graph& graph) {
  return std::any_of(graph.values.begin(), graph.values.end(), [](const graph::Value& value) {
    const auto* packed =
        value.constant ? std::get_if<runtime::PackedMatrix>(&*value.constant) : nullptr;
    return packed != nullptr && packed->view.format.type != jit::WeightType::f32;
  });
}

jit::KvType choose_kv(const RunOptions& run, bool exact) {
  if (run.kv.empty()) return exact ? jit::KvType::f32 : jit::KvType::int16;
  return *jit::parse_kv_type(run.kv);
}

}  // namespace

PreparedGraph prepare_graph(const std::string& model, const std::string& shape,
                            const WeightOptions& weights, runtime::ThreadPool& pool) {
  PreparedGraph out;
  if (!shape.empty()) {
    if (weights.no_fuse) throw UsageError("A shape is fused by nature: --no-fuse does not apply.");
    out.graph = graph::shape_graph(shape);
    out.report = count_nodes(out.graph);
    return out;
  }
  const ModelPath found = find_model(model);
  if (found.nib) {
    refuse_weight_flags(found.path, weights);
    out.graph = graph::read_nib_model(found.path, &pool);
    out.report = count_nodes(out.graph);
    out.from_nib = true;
    return out;
  }
  SourceGraph source = load_source(found);
  out.graph = std::move(source.graph);
  if (!weights.no_fuse) {
    out.report = graph::fuse(out.graph);
  } else {
    // Quantized weights need their matmuls as Linear nodes; everything else stays as it is.
    if (weights.weights != "f32") graph::form_linears(out.graph);
    out.report = count_nodes(out.graph);
  }
  if (!source.description.empty()) {
    out.report.entries.insert(out.report.entries.begin(),
                              {-1, "description", true, source.description, out.graph.origin});
  }
  if (!out.report.complete()) refuse_unknown_operators(out.graph);
  return out;
}

void set_compute(graph::Graph& graph, const std::string& compute) {
  for (graph::Node& node : graph.nodes) {
    if (node.is("Linear", graph::kNibbleDomain)) node.attributes["compute"] = compute;
  }
}

std::string unfused_warning(const graph::FusionReport& report) {
  if (report.complete()) return "";
  // A reason that a pass gave says more than that a node was left over.
  const graph::FusionEntry* first = nullptr;
  for (const graph::FusionEntry& entry : report.entries) {
    if (entry.fused) continue;
    if (first == nullptr) first = &entry;
    if (entry.detail == graph::kLeftOver) continue;
    first = &entry;
    break;
  }
  std::string reason;
  if (first != nullptr) {
    reason = fmt::format(" First: {} at node '{}': {}.", first->what, first->node, first->detail);
  }
  return fmt::format(
      "{} of {} nodes are not fused, so this model runs slowly, by the reference interpreter.{}",
      report.nodes_unfused, report.nodes_after, reason);
}

std::string LoadedModel::isa() const {
  return std::string(jit::isa_name(session ? session->plan().isa : jit::selected_isa()));
}

LoadedModel load_model(const std::string& model, const std::string& shape,
                       const WeightOptions& weights, const RunOptions& run,
                       std::shared_ptr<runtime::ThreadPool> pool) {
  const double start = runtime::seconds_now();
  LoadedModel out;
  const jit::Isa isa = jit::selected_isa();  // first: refuses machines that cannot run anything
  out.pool = std::move(pool);
  if (!out.pool) {
    out.pool = std::make_shared<runtime::ThreadPool>(run.threads > 0 ? run.threads
                                                                     : runtime::default_threads());
  }
  PreparedGraph prepared = prepare_graph(model, shape, weights, *out.pool);
  const bool interpreted = weights.no_fuse || !prepared.report.complete();
  out.compute = choose_compute(prepared.graph, weights);
  set_compute(prepared.graph, out.compute);
  if (!prepared.from_nib) pack_all(prepared.graph, weights, interpreted, *out.pool);
  if (!has_quantized_weights(prepared.graph)) out.compute = "f32";
  out.report = std::move(prepared.report);
  out.graph = std::make_shared<graph::Graph>(std::move(prepared.graph));
  const int64_t most = out.graph->context_length;
  if (most > 0 && run.context > most) {
    fail("--context asks for {} positions, but the context length of {} is {}.", run.context,
         out.graph->origin, most);
  }
  if (interpreted) {
    if (!weights.no_fuse) warn(unfused_warning(out.report));
    out.decoder = std::make_shared<graph::InterpretedDecoder>(out.graph, run.context);
  } else {
    const bool exact = out.compute == "f32";
    const runtime::TuningDb& tunings = runtime::shared_tuning_db();
    if (!tunings.warning.empty()) warn(tunings.warning);
    auto plan = graph::lower(*out.graph, {.compute = *graph::parse_compute(out.compute),
                                          .isa = isa,
                                          .tunings = &tunings,
                                          .threads = out.pool->size()});
    out.session = std::make_shared<runtime::Session>(
        std::move(plan), out.pool,
        runtime::SessionOptions{run.context, run.chunk, choose_kv(run, exact)});
    out.decoder = out.session;
  }
  out.jit_ms = jit::CodeCache::instance().generate_ms();
  out.load_s = runtime::seconds_now() - start;
  if (std::string reason = jit::CodeCache::instance().fallback_reason(); !reason.empty()) {
    warn(fmt::format("No machine code can be run here, so slow reference kernels are used: {}",
                     reason));
  }
  return out;
}

std::shared_ptr<const runtime::Plan> plan_without_weights(const std::string& model,
                                                          const std::string& shape,
                                                          const WeightOptions& weights,
                                                          jit::Isa isa, runtime::ThreadPool& pool) {
  PreparedGraph prepared = prepare_graph(model, shape, weights, pool);
  graph::Graph& graph = prepared.graph;
  if (weights.no_fuse || !prepared.report.complete()) {
    fail("{}: only a fully fused model has matmuls to tune; see 'nibble inspect --fusion'.",
         graph.origin);
  }
  const std::string compute = choose_compute(graph, weights);
  if (!prepared.from_nib) {
    for (const auto& [id, format] : quant::choose_formats(graph, weights.quantize_options())) {
      auto& constant = graph.values[static_cast<size_t>(id)].constant;
      const auto* source = std::get_if<graph::MatrixSource>(&*constant);
      if (source == nullptr) continue;
      runtime::PackedMatrix described;
      described.view = {.format = format, .n = source->n, .k = source->k};
      constant = std::move(described);
    }
  }
  return graph::lower(graph, {.compute = *graph::parse_compute(compute), .isa = isa});
}

}  // namespace nibble::cli
