// From a path (or the name of a shape) to something that decodes: read, fuse, quantize, compile.
// The one pipeline that run, logits, bench and inspect share; compile uses its first half.
#pragma once

#include <CLI/CLI.hpp>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "frontends/tokenizer/gguf_vocabulary.h"
#include "frontends/tokenizer/tokenizer.h"
#include "graph/graph.h"
#include "graph/passes.h"
#include "quant/quantize.h"
#include "runtime/decoder.h"
#include "runtime/plan.h"
#include "runtime/session.h"
#include "runtime/thread_pool.h"

namespace nibble::cli {

// How weights are stored and multiplied: the same options for every command that meets an .onnx.
struct WeightOptions {
  std::string weights = "int4";
  int64_t group = 32;
  bool asym = false;
  std::string scale = "f16";
  std::string head, embedding;  // "int4", "int8", "f32"; empty: as default_options chooses
  std::string compute;          // "int8", "f32"; empty: int8, or what the .nib says
  bool no_fuse = false;
  std::vector<const CLI::Option*> flags;  // those that only apply to what is not yet quantized

  void add_to(CLI::App& command);
  quant::QuantizeOptions quantize_options() const;
};

// How a model is run.
struct RunOptions {
  int threads = 0;      // 0: one a physical core
  int64_t context = 0;  // 0: the model's own
  int64_t chunk = 512;  // rows of a prefill pass
  std::string kv;       // a KvType's name; empty: f32 when all computes in f32

  void add_to(CLI::App& command, bool with_context = true);
};

// Where MODEL lies: an .onnx, a .nib, .safetensors or a .gguf, given itself or by the folder
// that holds it.
struct ModelPath {
  std::string path;
  bool nib = false;
  bool safetensors = false;
  bool gguf = false;
};
// Throws Error when there is none, or more than one. An .onnx goes before .safetensors beside it,
// and these before a .gguf.
ModelPath find_model(const std::string& model);

// The graph of a model that is no .nib, and the description that it was built by (empty for an
// .onnx, which describes itself).
struct SourceGraph {
  graph::Graph graph;
  std::string description;
};
SourceGraph load_source(const ModelPath& model);

// A graph read and (unless no_fuse) fused, with its weights not yet packed unless from a .nib.
struct PreparedGraph {
  graph::Graph graph;
  graph::FusionReport report;  // of a .nib: only the number of nodes
  bool from_nib = false;
};
PreparedGraph prepare_graph(const std::string& model, const std::string& shape,
                            const WeightOptions& weights, runtime::ThreadPool& pool);
// Weights that the model's file holds quantized keep their numbers. Throws UsageError when an
// option that was given asks for something else; warns when no packed format holds them.
void respect_quantized(const graph::Graph& graph, const WeightOptions& weights);
// Marks how the Linear nodes compute; kept in a .nib.
void set_compute(graph::Graph& graph, const std::string& compute);
// Packs one weight of `graph`; random values for shapes.
runtime::PackedMatrix pack_weight(const graph::Graph& graph, graph::ValueId id,
                                  const jit::WeightFormat& format, quant::RtnRange range,
                                  runtime::ThreadPool& pool);
// The warning that a model is not fully fused: how many nodes, and the first reason. "" when it is.
std::string unfused_warning(const graph::FusionReport& report);

struct LoadedModel {
  std::shared_ptr<runtime::ThreadPool> pool;
  std::shared_ptr<const graph::Graph> graph;  // documents, eos and bos ids
  std::shared_ptr<runtime::Session> session;  // null when interpreted
  std::shared_ptr<runtime::Decoder> decoder;  // the session, or the interpreter
  graph::FusionReport report;
  std::string compute;  // "int8", "f32"
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

// What a tokenizer is looked for in, in this order.
constexpr std::array<const char*, 3> kTokenizerFiles = {"tokenizer.json", "tokenizer.model",
                                                        frontends::kGgufVocabularyDocument};
// From the contents of a file: a name that ends in .model is SentencePiece's,
// kGgufVocabularyDocument a GGUF's vocabulary, any other JSON.
frontends::Tokenizer make_tokenizer(const std::string& name, const std::string& bytes,
                                    const std::string& origin);
// The tokenizer among the documents of a graph; nullopt when there is none.
std::optional<frontends::Tokenizer> tokenizer_of(const graph::Graph& graph);

}  // namespace nibble::cli
