// Which weights of a model are of one kind, the same place in every layer: found from their names,
// as exporters spell them, and the layers they are in. Knows nothing of what a kind computes.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace nibble::report {

struct LayerWeight {
  std::string name;
  int64_t layer = -1;  // below 0: outside of the layers, a kind of its own
};

struct WeightKinds {
  std::vector<std::string> labels;  // in order of first appearance, each different
  std::map<std::pair<int64_t, std::string>, size_t> kind_of;  // of (layer, name)
  bool counted = false;  // whether some have no better label than "weight 2"
};

// A kind is what a name says beside its layer's number: "layers.7.mlp.down.weight" is of the kind
// "mlp.down". When a name has that number in several places, the one counts that makes the larger
// kind. Weights whose names do not have it ("onnx::MatMul_293") are counted in their layer:
// "weight 2".
WeightKinds weight_kinds(std::span<const LayerWeight> weights);

}  // namespace nibble::report
