// Evaluates a graph node by node in fp32 on the host: the truth that fusing and lowering are tested
// against, the way to run what is not fused, and the probe with which passes find out what a
// subgraph means. f16, bf16 and f64 compute in fp32. Knows every ONNX operator that occurs in the
// models it accepts and the "nibble" operators except Attention's cache (see InterpretedDecoder).
//
// Evaluation is by demand: only ancestors of the wanted values, stopping at fed values, which may
// be any values of the graph (this cuts subgraphs out for probing).
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "graph/graph.h"

namespace nibble::graph {

// A run-time array: f32, i64 (all integers) or boolean; row-major; shared, never written after
// creation.
struct Array {
  enum class Kind : uint8_t { f32, i64, boolean } kind = Kind::f32;
  Shape shape;
  std::shared_ptr<const std::vector<float>> f;
  std::shared_ptr<const std::vector<int64_t>> i;  // boolean: 0 or 1

  static Array of(Shape shape, std::vector<float> values);
  static Array of(Shape shape, std::vector<int64_t> values);
  static Array of_bool(Shape shape, std::vector<int64_t> values);
  int64_t size() const;
  std::span<const float> floats() const;  // kind f32, else an Error
  std::span<const int64_t> ints() const;  // kind i64 or boolean, else an Error
};

using Feeds = std::map<ValueId, Array>;

// What an interpreter may use. Passes evaluate what a file asks for, before anybody has looked at
// it: that must end, and soon (see probe_limits).
struct InterpreterLimits {
  int64_t bytes = std::numeric_limits<int64_t>::max();  // of arrays that it holds at one time
  int64_t work = std::numeric_limits<int64_t>::max();   // elements read and made, and products
                                                        // added, of all runs together
};

class Interpreter {
 public:
  // Keeps a reference: the graph must outlive it and stay unchanged. Constant arrays are converted
  // on first use and kept.
  explicit Interpreter(const Graph& graph, const InterpreterLimits& limits = {});
  ~Interpreter();

  // The wanted values, in order. Throws Error naming the node and its op: unknown op, shapes that
  // do not fit, an index out of range, a value that is neither fed nor computable, a limit reached.
  std::vector<Array> run(const Feeds& feeds, std::span<const ValueId> wanted) const;
  Array run_one(const Feeds& feeds, ValueId wanted) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// An axis in [-rank, rank) as one in [0, rank). Throws Error for others.
size_t normal_axis(int64_t axis, size_t rank);

// Whether the interpreter has this operator.
bool interpreter_knows(const Node& node);

}  // namespace nibble::graph
