#include "tools/cli/model_loader.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "frontends/gguf/gguf_model.h"
#include "frontends/onnx/onnx.h"
#include "frontends/safetensors/safetensors.h"
#include "graph/interpreted_decoder.h"
#include "graph/interpreter.h"
#include "graph/lower.h"
#include "graph/model_shapes.h"
#include "graph/nib_model.h"
#include "graph/ops.h"
#include "jit/error.h"
#include "quant/random_weights.h"
#include "runtime/tuning_db.h"
#include "tools/cli/commands.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kRandomWeightSeed = 1;

std::vector<fs::path> files_ending(const std::string& folder, const std::string& extension) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(folder, error)) {
    if (item.path().extension() == extension && !item.is_directory()) files.push_back(item.path());
  }
  if (error) fail("{}: the folder cannot be read: {}.", folder, error.message());
  return files;
}

void refuse_weight_flags(const std::string& path, const WeightOptions& weights) {
  for (const CLI::Option* flag : weights.flags) {
    if (flag->count() == 0) continue;
    throw UsageError(
        fmt::format("{} is compiled already, so {} does not apply to it.", path, flag->get_name()));
  }
}

// Read from a .nib the fusing is history; what is left to count are the nodes.
graph::FusionReport count_nodes(const graph::Graph& graph) {
  graph::FusionReport report;
  report.nodes_before = report.nodes_after = static_cast<int64_t>(graph.nodes.size());
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

// An option that was given, and what it asks of the weights that it is about.
bool given(const WeightOptions& weights, const std::string& name) {
  return std::any_of(weights.flags.begin(), weights.flags.end(), [&](const CLI::Option* flag) {
    return flag->get_name() == name && flag->count() > 0;
  });
}

bool contradicts(const WeightOptions& weights, const quant::QuantizedWeight& weight) {
  using Part = quant::QuantizedWeight::Part;
  const jit::WeightFormat &wanted = weight.wanted, &own = *weight.own;
  const char* type = weight.part == Part::head        ? "--lm-head"
                     : weight.part == Part::embedding ? "--embedding"
                                                      : "--weights";
  return (given(weights, type) && wanted.type != own.type) ||
         (given(weights, "--group") && wanted.group != own.group) ||
         (given(weights, "--asym") && wanted.asym != own.asym) ||
         (given(weights, "--scale") && wanted.scale != own.scale);
}

// Columns that are dequantized when they are read are not kept as the file has them.
void warn_of_readers(const graph::Graph& graph, const WeightOptions& weights) {
  std::set<const graph::ColumnReader*> readers;
  std::map<std::string_view, int64_t> types;
  for (const auto& [id, format] : quant::choose_formats(graph, weights.quantize_options())) {
    const auto& constant = graph.values[static_cast<size_t>(id)].constant;
    const auto* source = constant ? std::get_if<graph::MatrixSource>(&*constant) : nullptr;
    if (source == nullptr || format.type == jit::WeightType::f32) continue;
    for (const graph::MatrixPart& part : source->parts) {
      if (part.reader && readers.insert(part.reader.get()).second) ++types[part.reader->type()];
    }
  }
  if (types.empty()) return;
  std::vector<std::string> counts;
  for (const auto& [type, count] : types) counts.push_back(fmt::format("{} of {}", count, type));
  warn(
      fmt::format("{} tensors of {} ({}) are quantized again, because their types are not computed "
                  "with (--weights f32 would keep their numbers).",
                  readers.size(), graph.origin, fmt::join(counts, ", ")));
}

}  // namespace

void respect_quantized(const graph::Graph& graph, const WeightOptions& weights) {
  int64_t lost = 0;
  std::string first;
  for (const auto& weight : quant::quantized_weights(graph, weights.quantize_options())) {
    if (weight.wanted.type == jit::WeightType::f32) continue;  // holds the very numbers
    if (!weight.own) {
      if (lost++ == 0) first = fmt::format("'{}', because {}", weight.name, weight.why_not);
    } else if (contradicts(weights, weight)) {
      throw UsageError(fmt::format(
          "{}: the weight '{}' is quantized already, as {}, but the options ask for {}. Leave them "
          "out to keep it as it is, or give --weights f32.",
          graph.origin, weight.name, quant::format_text(*weight.own),
          quant::format_text(weight.wanted)));
    }
  }
  warn_of_readers(graph, weights);
  if (lost == 0) return;
  warn(
      fmt::format("{} weights of {} that are quantized already are quantized again, as int8 in "
                  "groups of 32 (--weights f32 would keep their numbers). First: {}.",
                  lost, graph.origin, first));
}

namespace {

// All but f32 weights under the interpreter, which reads those where they are.
void pack_all(graph::Graph& graph, const WeightOptions& weights, bool interpreted,
              runtime::ThreadPool& pool) {
  const bool plain = weights.weights == "f32" && weights.head.empty() && weights.embedding.empty();
  if (interpreted && plain) return;
  respect_quantized(graph, weights);
  const quant::QuantizeOptions options = weights.quantize_options();
  for (const auto& [id, format] : quant::choose_formats(graph, options)) {
    auto& constant = graph.values[static_cast<size_t>(id)].constant;
    if (!std::get<graph::MatrixSource>(*constant).parts.empty()) continue;
    constant = pack_weight(graph, id, format, options.range, pool);
  }
  Progress progress("quantizing");
  quant::quantize_graph(graph, options, pool,
                        [&](int64_t done, int64_t total) { progress.update(done, total); });
}

// --compute, else what the file says, else int8.
std::string choose_compute(const graph::Graph& graph, const WeightOptions& weights) {
  if (!weights.compute.empty()) return weights.compute;
  for (const graph::Node& node : graph.nodes) {
    if (node.is("Linear", graph::kNibbleDomain) && node.has("compute")) {
      return node.get_string("compute", "int8");
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

void WeightOptions::add_to(CLI::App& command) {
  const char* title = "Weights";
  flags = {
      command.add_option("--weights", weights, "How weights are stored: int4, int8 or f32")
          ->check(CLI::IsMember({"int4", "int8", "f32"}))
          ->capture_default_str()
          ->group(title),
      command.add_option("--group", group, "Weights that share a scale; 0: a whole column")
          ->check(CLI::IsMember({0, 16, 32, 64, 128, 256, 512, 1024}))
          ->capture_default_str()
          ->group(title),
      command.add_flag("--asym", asym, "Store zero points")->group(title),
      command.add_option("--scale", scale, "Type of the scales: f16 or f32")
          ->check(CLI::IsMember({"f16", "f32"}))
          ->capture_default_str()
          ->group(title),
      command.add_option("--lm-head", head, "The output matrix alone (default: int8 beside int4)")
          ->check(CLI::IsMember({"int4", "int8", "f32"}))
          ->group(title),
      command
          .add_option("--embedding", embedding,
                      "The embedding table alone (default: int8 beside int4); one that is tied to "
                      "the output matrix is stored like it")
          ->check(CLI::IsMember({"int4", "int8", "f32"}))
          ->group(title),
      command
          .add_flag("--no-fuse", no_fuse, "Run the graph as it is, by the reference interpreter")
          ->group(title),
  };
  command
      .add_option("--compute", compute,
                  "Activations of the matmuls: int8 or f32 (default: int8, or what a .nib says)")
      ->check(CLI::IsMember({"int8", "f32"}))
      ->group(title);
}

quant::QuantizeOptions WeightOptions::quantize_options() const {
  const jit::ScaleType type = scale == "f32" ? jit::ScaleType::f32 : jit::ScaleType::f16;
  quant::QuantizeOptions options = quant::default_options(weights, group, asym, type);
  if (!head.empty()) options.head = quant::default_options(head, group, asym, type).linear;
  if (!embedding.empty()) {
    options.embedding = quant::default_options(embedding, group, asym, type).linear;
    options.embedding_chosen = true;
  }
  return options;
}

void RunOptions::add_to(CLI::App& command, bool with_context) {
  const char* title = "Running";
  command.add_option("--threads", threads, "Threads (default: one a physical core)")
      ->check(CLI::Range(1, 1024))
      ->group(title);
  if (with_context) {
    command.add_option("--context", context, "Positions to keep (default: all of the model's)")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
        ->group(title);
  }
  command.add_option("--chunk", chunk, "Rows of a prefill pass")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str()
      ->group(title);
  command
      .add_option(
          "--kv", kv,
          "Type of the KV cache: f32, f16, bf16, int16 or int8 (default: f32 when computing "
          "so, else int16)")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "int16", "int8"}))
      ->group(title);
}

ModelPath find_model(const std::string& model) {
  std::error_code error;
  if (!fs::exists(model, error)) fail("{}: there is no such file or folder.", model);
  if (!fs::is_directory(model, error)) {
    const std::string extension = fs::path(model).extension().string();
    if (extension == ".onnx" || extension == ".nib" || extension == ".safetensors" ||
        extension == ".gguf") {
      return {model, extension == ".nib", extension == ".safetensors", extension == ".gguf"};
    }
    fail(
        "{}: a model should end in .onnx, .nib, .safetensors or .gguf, or be a folder holding one.",
        model);
  }
  const auto onnx = files_ending(model, ".onnx");
  const auto nib = files_ending(model, ".nib");
  const auto tensors = files_ending(model, ".safetensors");
  const auto gguf = files_ending(model, ".gguf");
  if (onnx.empty() && nib.empty() && tensors.empty() && gguf.empty()) {
    fail("{}: the folder holds no .onnx, no .nib, no .safetensors and no .gguf.", model);
  }
  const auto& sources = !onnx.empty() ? onnx : !tensors.empty() ? tensors : gguf;
  if (!sources.empty() && !nib.empty()) {
    fail("{}: the folder holds both {} and {}; name the one that is meant.", model,
         sources[0].filename().string(), nib[0].filename().string());
  }
  if (nib.size() > 1) {
    fail("{}: the folder holds {} .nib files; name the one that is meant.", model, nib.size());
  }
  if (!nib.empty()) return {nib[0].string(), true};
  if (onnx.empty() && tensors.empty()) {
    if (gguf.size() == 1) return {gguf[0].string(), false, false, true};
    fail("{}: the folder holds {} .gguf files; name the one that is meant.", model, gguf.size());
  }
  return {model, false, onnx.empty()};
}

SourceGraph load_source(const ModelPath& model) {
  if (model.gguf) {
    frontends::GgufModel loaded = frontends::load_gguf(model.path);
    return {std::move(loaded.graph), std::move(loaded.description)};
  }
  if (!model.safetensors) return {frontends::load_onnx(model.path), ""};
  frontends::SafetensorsModel loaded = frontends::load_safetensors(model.path);
  return {std::move(loaded.graph), std::move(loaded.description)};
}

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

runtime::PackedMatrix pack_weight(const graph::Graph& graph, graph::ValueId id,
                                  const jit::WeightFormat& format, quant::RtnRange range,
                                  runtime::ThreadPool& pool) {
  const graph::Constant& constant = *graph.values[static_cast<size_t>(id)].constant;
  if (const auto* packed = std::get_if<runtime::PackedMatrix>(&constant)) return *packed;
  const auto& source = std::get<graph::MatrixSource>(constant);
  if (source.parts.empty()) {
    const auto seed = kRandomWeightSeed + static_cast<uint64_t>(id);
    return quant::random_matrix(format, source.n, source.k, seed, pool);
  }
  return quant::quantize_matrix(source, format, range, graph.value_name(id), pool);
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
  const double start = now();
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
    auto plan =
        graph::lower(*out.graph, {.compute = exact ? graph::Compute::f32 : graph::Compute::int8,
                                  .isa = isa,
                                  .tunings = &tunings,
                                  .threads = out.pool->size()});
    out.session = std::make_shared<runtime::Session>(
        std::move(plan), out.pool,
        runtime::SessionOptions{run.context, run.chunk, choose_kv(run, exact)});
    out.decoder = out.session;
  }
  out.jit_ms = jit::CodeCache::instance().generate_ms();
  out.load_s = now() - start;
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
  const bool exact = compute == "f32";
  return graph::lower(graph,
                      {.compute = exact ? graph::Compute::f32 : graph::Compute::int8, .isa = isa});
}

frontends::Tokenizer make_tokenizer(const std::string& name, const std::string& bytes,
                                    const std::string& origin) {
  if (name == frontends::kGgufVocabularyDocument) {
    const auto vocabulary = frontends::gguf_vocabulary_from_json(bytes, origin);
    return frontends::Tokenizer::from_gguf(vocabulary, origin);
  }
  if (name.ends_with(".model")) return frontends::Tokenizer::from_sentencepiece(bytes, origin);
  return frontends::Tokenizer::from_json(bytes, origin);
}

std::optional<frontends::Tokenizer> tokenizer_of(const graph::Graph& graph) {
  for (const char* name : kTokenizerFiles) {
    const auto it = graph.documents.find(name);
    if (it == graph.documents.end()) continue;
    return make_tokenizer(name, it->second, graph.origin + ": " + name);
  }
  return std::nullopt;
}

}  // namespace nibble::cli
