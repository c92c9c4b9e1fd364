// The weights of a model that is exported: packed matrices as the tensors of com.microsoft's
// MatMulNBits and GatherBlockQuantized, number for number, and matrices of floats as they are.
// Private to export_graph.cpp.
//
// Blocks. MatMulNBits has a scale for each block of k, a power of two from 16 on, and onnxruntime
// multiplies in blocks of 16 to 256 alone (of others it leaves the result unwritten). So a group is
// written as the largest such blocks that it is made of, its scale and zero point repeated; the
// whole of k as blocks of 256, or as one block when it is no longer. Whoever reads it back finds
// the groups again by the repeats (QuantizedMatrix::packed_format). The last block is filled up
// with the zero point. Scales are fp32, as the activations are: an fp16 scale keeps its value.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "frontends/onnx/model_writer.h"
#include "graph/graph.h"

namespace nibble::frontends::onnx {

// The block that a group of this many k is written in; 0: the whole of k. Throws Error naming the
// matrix when there is none.
int64_t block_of_group(int64_t group, int64_t k, const std::string& matrix);

class WeightWriter {
 public:
  WeightWriter(const graph::Graph& graph, ModelWriter& writer);

  // x times the columns of a Linear's weight, in this order.
  std::string multiply(const graph::Node& linear, const std::string& x,
                       const std::vector<int64_t>& columns, const std::string& part);
  // The rows of an Embedding's table.
  std::string look_up(const graph::Node& embedding, const std::string& ids);

 private:
  struct Tensors {
    std::string values, scales, zeros;  // zeros: empty when symmetric
    int64_t block = 0, blocks = 0, bits = 0;
  };

  const jit::PackedView& matrix(const graph::Node& node) const;
  // The columns in MatMulNBits' form. `flat`: each column's values without the filled-up end.
  Tensors write(const jit::PackedView& view, const std::string& name,
                const std::vector<int64_t>& columns, bool flat);
  // A whole matrix that a head and a table share is written once.
  Tensors shared(const jit::PackedView& view, const std::string& name, bool flat);
  std::string shared_floats(const jit::PackedView& view, const std::string& name);
  bool is_shared(const jit::PackedView& view) const;

  const graph::Graph& graph_;
  ModelWriter& writer_;
  std::set<const uint8_t*> tables_, heads_;  // packed data of Embeddings; of Linears
  std::map<const uint8_t*, Tensors> written_;
  std::map<const uint8_t*, std::string> written_floats_;
};

}  // namespace nibble::frontends::onnx
