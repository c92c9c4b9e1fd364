// Decodes with the Interpreter and explicit past/present tensors: the unfused reference, and how
// models that are not fully fused run. An export without a cache computes all tokens anew at every
// step. Linear nodes with packed weights use their generated
// kernels.
#pragma once

#include <memory>
#include <vector>

#include "graph/graph.h"
#include "graph/interpreter.h"
#include "runtime/decoder.h"

namespace nibble::graph {

class InterpretedDecoder : public runtime::Decoder {
 public:
  // Throws Error when the graph has no input_ids or logits, or an op the interpreter
  // lacks (named, with its node). context 0: the graph's context_length.
  InterpretedDecoder(std::shared_ptr<const Graph> graph, int64_t context);

  int64_t vocab_size() const override { return vocab_size_; }
  int64_t context_length() const override { return context_length_; }
  int64_t position() const override { return position_; }
  void reset() override;
  std::span<const float> forward(std::span<const int32_t> ids) override;
  void forward_all(std::span<const int32_t> ids, std::span<float> out) override;

 private:
  Array step(std::span<const int32_t> ids);

  std::shared_ptr<const Graph> graph_;
  Interpreter interpreter_;
  int64_t vocab_size_ = 0, context_length_ = 0, position_ = 0;
  Feeds cache_;  // past values by the id of their graph input
  bool prefix_form_ = false;
  std::vector<int32_t> history_;  // of a prefix form
  std::vector<float> last_logits_;
};

}  // namespace nibble::graph
