// A model of the zoo through the whole pipeline: load, fuse, quantize, lower, session.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "graph/lower.h"
#include "graph/passes.h"
#include "quant/formats/quantize.h"
#include "runtime/session.h"

namespace nibble::test {

struct FusedOptions {
  std::string weights = "f32";
  int64_t group = 32;
  bool asym = false;
  jit::ScaleType scale = jit::ScaleType::f16;
  bool symmetric_ends = false;  // head and embedding, whatever the layers are
  graph::Compute compute = graph::Compute::int8;
  jit::Isa isa = jit::Isa::avx2;
  int threads = 2;
  int64_t prefill_chunk = 512;
  jit::KvType kv = jit::KvType::f32;
};

// The fused and quantized graph of the ONNX model in `folder`, or of a .safetensors file; report
// may be null.
graph::Graph fused_graph(const std::string& folder, const FusedOptions& options,
                         graph::FusionReport* report);
std::unique_ptr<runtime::Session> session_of(const graph::Graph& graph,
                                             const FusedOptions& options);

std::vector<float> all_logits(runtime::Decoder& decoder, const std::vector<int32_t>& ids);
// The same of a pass of the first `first` ids and one of the others.
std::vector<float> logits_of_two_passes(runtime::Decoder& decoder, const std::vector<int32_t>& ids,
                                        size_t first);

}  // namespace nibble::test
