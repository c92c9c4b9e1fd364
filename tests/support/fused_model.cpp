#include "tests/support/fused_model.h"

#include <span>

#include "frontends/gguf/gguf_model.h"
#include "frontends/onnx/onnx.h"
#include "frontends/safetensors/safetensors.h"

namespace nibble::test {

graph::Graph fused_graph(const std::string& folder, const FusedOptions& options,
                         graph::FusionReport* report) {
  graph::Graph graph = folder.ends_with(".safetensors") ? frontends::load_safetensors(folder).graph
                       : folder.ends_with(".gguf")      ? frontends::load_gguf(folder).graph
                                                        : frontends::load_onnx(folder);
  graph::FusionReport found = graph::fuse(graph);
  if (report != nullptr) *report = std::move(found);
  runtime::ThreadPool pool(options.threads);
  auto formats =
      quant::default_options(options.weights, options.group, options.asym, options.scale);
  if (options.symmetric_ends) formats.head.asym = formats.embedding.asym = false;
  quant::quantize_graph(graph, formats, pool, {});
  return graph;
}

std::unique_ptr<runtime::Session> session_of(const graph::Graph& graph,
                                             const FusedOptions& options) {
  auto plan = graph::lower(graph, {.compute = options.compute, .isa = options.isa});
  runtime::SessionOptions session;
  session.prefill_chunk = options.prefill_chunk;
  session.kv = options.kv;
  return std::make_unique<runtime::Session>(
      std::move(plan), std::make_shared<runtime::ThreadPool>(options.threads), session);
}

std::vector<float> all_logits(runtime::Decoder& decoder, const std::vector<int32_t>& ids) {
  std::vector<float> logits(ids.size() * static_cast<size_t>(decoder.vocab_size()));
  decoder.reset();
  decoder.forward_all(ids, logits);
  return logits;
}

std::vector<float> logits_of_two_passes(runtime::Decoder& decoder, const std::vector<int32_t>& ids,
                                        size_t first) {
  const auto vocabulary = static_cast<size_t>(decoder.vocab_size());
  std::vector<float> logits(ids.size() * vocabulary);
  const std::span<float> all(logits);
  decoder.reset();
  decoder.forward_all(std::span(ids).first(first), all.first(first * vocabulary));
  decoder.forward_all(std::span(ids).subspan(first), all.subspan(first * vocabulary));
  return logits;
}

}  // namespace nibble::test
