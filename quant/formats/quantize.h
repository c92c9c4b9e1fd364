// Turns the weights of a graph into packed matrices: which tensor gets which format, and the
// streaming over column blocks (peak memory is the output plus 16 columns a thread).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "jit/packed_layout.h"
#include "quant/formats/rtn.h"
#include "runtime/packed_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

struct QuantizeOptions {
  jit::WeightFormat linear;     // the matmuls of the layers
  jit::WeightFormat head;       // lm_head (the Linear that makes the logits)
  jit::WeightFormat embedding;  // embedding table; a table tied to the head takes the head's format
  RtnRange range = RtnRange::full;
  // Whether the user chose `embedding`. Otherwise a table that the maker of a quantized checkpoint
  // left as floats stays so, in fp32: of it a token reads one row.
  bool embedding_chosen = false;
};

// The usual choice for `weights` "int4" | "int6" | "int8" | "f32": int4 keeps embedding and head at
// 8 bits.
QuantizeOptions default_options(const std::string& weights, int64_t group, bool asym,
                                jit::ScaleType scale);

// One matrix, whose source is then released (MatrixSource::release). Throws Error naming `name` and
// the column when a weight is not finite.
runtime::PackedMatrix quantize_matrix(const graph::MatrixSource& source,
                                      const jit::WeightFormat& format, RtnRange range,
                                      const std::string& name, runtime::ThreadPool& pool);

// The format that `options` give to each MatrixSource constant of the graph.
std::map<graph::ValueId, jit::WeightFormat> choose_formats(const graph::Graph& graph,
                                                           const QuantizeOptions& options);

// A weight that is quantized in the model's file. It keeps its own numbers, whatever the options
// want, but for fp32, which holds them too, as do scales of fp32; without a packed format of its
// own it becomes int8 in groups of 32, which the user must be told.
struct QuantizedWeight {
  enum class Part : uint8_t { linear, head, embedding };
  std::string name;
  Part part = Part::linear;
  jit::WeightFormat wanted;              // by the options
  std::optional<jit::WeightFormat> own;  // nullopt: no packed format holds its numbers,
  std::string why_not;                   // because
};
std::vector<QuantizedWeight> quantized_weights(const graph::Graph& graph,
                                               const QuantizeOptions& options);
// "int4 in groups of 32, with f16 scales"
std::string format_text(const jit::WeightFormat& format);

// Packs every MatrixSource constant in memory. progress(done_bytes, total_bytes) may be empty.
void quantize_graph(graph::Graph& graph, const QuantizeOptions& options, runtime::ThreadPool& pool,
                    const std::function<void(int64_t, int64_t)>& progress);

}  // namespace nibble::quant
