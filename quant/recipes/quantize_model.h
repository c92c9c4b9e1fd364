// Carries out a recipe on a whole model: walks the blocks of its fused graph with the activations
// of the calibration text, and quantizes every weight against the inputs that it will meet, which
// are those behind the weights quantized before it.
//
// Memory: the activations of all calibration ids at one place of the graph (the widest: ids x 4 x
// width of gate and up), one matrix in fp32 and the products of its inputs (4 k^2 bytes), and the
// packed result. Results are the same bytes on any number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "quant/recipes/recipe.h"
#include "runtime/packed_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// Text to calibrate on: sequences of the same length, each read from position 0.
struct Calibration {
  int64_t sequences = 0, length = 0;
  std::vector<int32_t> ids;  // [sequences][length]
};

// What became of one weight.
struct WeightOutcome {
  std::string name;
  int64_t layer = -1;
  double error = 0;  // |X W'^T - X W^T| / |X W^T| over the calibration ids (Frobenius norms)
  double nearest_error = 0;  // the same for rounding to nearest in this format
  double seconds = 0;
};

// All that was decided about one block: what is needed to go on without it.
struct BlockOutcome {
  std::map<size_t, std::vector<float>> factors;  // by the fold's place in find_folds
  std::map<graph::ValueId, runtime::PackedMatrix> weights;
  std::vector<WeightOutcome> outcomes;  // of weights that calibration chose
};

// Where finished blocks are kept, so that a run that was killed goes on where it was.
class BlockStore {
 public:
  virtual ~BlockStore() = default;
  virtual std::optional<BlockOutcome> load(size_t block) = 0;
  virtual void save(size_t block, const BlockOutcome& outcome) = 0;
};

struct QuantizeHooks {
  BlockStore* store = nullptr;
  // Told before each weight and every few seconds within one what share of the work is done, by an
  // estimate of what it costs (work.h), counted in weights, and what is being done. What it throws
  // ends the work; blocks that were finished are in `store`.
  std::function<void(int64_t done, int64_t total, const std::string& what)> progress;
};

struct QuantizedModel {
  graph::Graph graph;  // every weight packed
  std::vector<WeightOutcome> outcomes;
};

// `graph` is fused and not packed; it shares its weights with the copy that is quantized. Weights
// that are quantized in the model's file stay as they are. `calibration` may be empty for recipes
// that do without. Throws Error naming the node or weight.
QuantizedModel quantize_model(const graph::Graph& graph, const Recipe& recipe,
                              const Calibration& calibration, runtime::ThreadPool& pool,
                              const QuantizeHooks& hooks);

// Stored bits a weight, scales and zero points included, of all packed Linear weights but the one
// that makes the logits.
double bits_per_weight(const graph::Graph& packed);

}  // namespace nibble::quant
