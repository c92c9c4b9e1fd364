#include "tools/cli/pack_weights.h"

#include <string>

#include "jit/error.h"
#include "quant/formats/random_weights.h"
#include "tools/cli/commands.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

constexpr uint64_t kRandomWeightSeed = 1;

// Whether an option was given that asks for something else.
bool contradicts(const WeightOptions& weights, const quant::QuantizedWeight& weight) {
  using Part = quant::QuantizedWeight::Part;
  const jit::WeightFormat &wanted = weight.wanted, &own = *weight.own;
  const char* type = weight.part == Part::head        ? "--lm-head"
                     : weight.part == Part::embedding ? "--embedding"
                                                      : "--weights";
  return (weights.given(type) && wanted.type != own.type) ||
         (weights.given("--group") && wanted.group != own.group) ||
         (weights.given("--asym") && wanted.asym != own.asym) ||
         (weights.given("--scale") && wanted.scale != own.scale &&
          wanted.scale != jit::ScaleType::f32);
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
  if (lost == 0) return;
  warn(
      fmt::format("{} weights of {} that are quantized already are quantized again, as int8 in "
                  "groups of 32 (--weights f32 would keep their numbers). First: {}.",
                  lost, graph.origin, first));
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

}  // namespace nibble::cli
