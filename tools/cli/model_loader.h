// From a path (or the name of a shape) to something that decodes: read, fuse, quantize, compile.
// The one pipeline that run, logits, bench and inspect share; compile uses its first half.
#pragma once

#include <memory>
#include <string>

#include "graph/graph.h"
#include "graph/passes.h"
#include "runtime/decoder.h"
#include "runtime/plan.h"
#include "runtime/session.h"
#include "runtime/thread_pool.h"
#include "tools/cli/model_options.h"
#include "tools/cli/model_path.h"

namespace nibble::cli {

// A graph read and (unless no_fuse) fused, with its weights not yet packed unless from a .nib.
struct PreparedGraph {
  graph::Graph graph;
  graph::FusionReport report;  // of a .nib: only the number of nodes
  bool from_nib = false;
};
PreparedGraph prepare_graph(const std::string& model, const std::string& shape,
                            const WeightOptions& weights, runtime::ThreadPool& pool);
// Marks how the Linear nodes compute; kept in a .nib.
void set_compute(graph::Graph& graph, const std::string& compute);
// The warning that a model is not fully fused: how many nodes, and the first reason. "" when it is.
std::string unfused_warning(const graph::FusionReport& report);

struct LoadedModel {
  std::shared_ptr<runtime::ThreadPool> pool;
  std::shared_ptr<const graph::Graph> graph;  // documents, eos and bos ids
  std::shared_ptr<runtime::Session> session;  // null when interpreted
  std::shared_ptr<runtime::Decoder> decoder;  // the session, or the interpreter
  graph::FusionReport report;
  std::string compute;  // "int8", "bf16", "f32"
  double load_s = 0, jit_ms = 0;

  std::string isa() const;
};
// Exactly one of `model` and `shape` is not empty. Warns on standard error when the model is not
// fully fused, or when reference kernels stand in for machine code. `pool`: of a model to run in
// turns with, as waiting threads of two pools would take each other's processors; null: its own.
LoadedModel load_model(const std::string& model, const std::string& shape,
                       const WeightOptions& weights, const RunOptions& run,
                       std::shared_ptr<runtime::ThreadPool> pool = nullptr);

// The plan of a model whose weights are described but not there: what it multiplies, not with what.
// It cannot be run. Throws Error when the model is not fully fused.
std::shared_ptr<const runtime::Plan> plan_without_weights(const std::string& model,
                                                          const std::string& shape,
                                                          const WeightOptions& weights,
                                                          jit::Isa isa, runtime::ThreadPool& pool);

}  // namespace nibble::cli
