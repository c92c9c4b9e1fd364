// The IR: a list of nodes in topological order over numbered values. ONNX operators keep their ONNX
// names and attributes (domain ""); the operators that passes introduce live in domain "nibble"
// (ops.h). Plain data: frontends build it, passes rewrite it, lower() turns it into a runtime Plan,
// nib_model stores it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "graph/matrix_source.h"
#include "graph/tensor.h"
#include "runtime/packed_matrix.h"

namespace nibble::graph {

using ValueId = int32_t;
inline constexpr ValueId kNoValue = -1;  // an optional input or output that is absent

using Constant = std::variant<TensorData, MatrixSource, runtime::PackedMatrix>;

struct Value {
  std::string name;
  DType dtype = DType::f32;
  std::optional<Shape> shape;  // as declared by the file, -1 where symbolic; often unknown inside
  std::optional<Constant> constant;
};

using Attribute =
    std::variant<int64_t, float, std::string, std::vector<int64_t>, std::vector<float>, TensorData>;

struct Node {
  std::string op;
  std::string domain;  // "" for ONNX, "nibble", "com.microsoft", ...
  std::string name;    // as in the file; errors and reports name it
  std::vector<ValueId> inputs, outputs;
  std::map<std::string, Attribute> attributes;

  bool is(std::string_view op_name, std::string_view domain_name = "") const {
    return op == op_name && domain == domain_name;
  }
  bool has(const std::string& key) const { return attributes.count(key) != 0; }
  // Throw Error naming the node when the attribute has another type; get_* without fallback when
  // absent.
  int64_t get_int(const std::string& key) const;
  int64_t get_int(const std::string& key, int64_t fallback) const;
  float get_float(const std::string& key) const;
  float get_float(const std::string& key, float fallback) const;
  std::string get_string(const std::string& key, const std::string& fallback) const;
  std::vector<int64_t> get_ints(const std::string& key) const;
  std::vector<int64_t> get_ints(const std::string& key, std::vector<int64_t> fallback) const;
  ValueId input(size_t i) const { return i < inputs.size() ? inputs[i] : kNoValue; }
};

// The cache tensors of one layer.
struct LayerCache {
  ValueId past_key = kNoValue, past_value = kNoValue, present_key = kNoValue,
          present_value = kNoValue;
};

// Which graph inputs and outputs play which part in decoding. attention_mask and position_ids may
// be absent.
struct DecoderIo {
  ValueId input_ids = kNoValue, attention_mask = kNoValue, position_ids = kNoValue,
          logits = kNoValue;
  std::vector<LayerCache> layers;
};

struct Graph {
  std::string origin;  // path of the file, for messages
  int64_t opset = 0;   // of the default domain
  std::vector<Value> values;
  std::vector<Node> nodes;  // topological order
  std::vector<ValueId> inputs, outputs;
  DecoderIo io;
  int64_t context_length = 0;    // 0 = not known
  std::vector<int64_t> eos_ids;  // may be empty
  int64_t bos_id = -1;           // -1 = none
  std::map<std::string, std::string>
      documents;  // "tokenizer.json", "config.json", ... as found beside the model

  ValueId add_value(std::string name, DType dtype = DType::f32);
  ValueId add_constant(std::string name, Constant constant);
  const TensorData* tensor(ValueId id) const;    // the constant tensor, or null
  const MatrixSource* matrix(ValueId id) const;  // the constant matrix where it was loaded, or null
  std::string value_name(ValueId id) const;
};

// Index of the producing node of each value (-1: input or constant), and the consuming nodes.
std::vector<int32_t> producers(const Graph& graph);
std::vector<std::vector<int32_t>> consumers(const Graph& graph);

// Throws Error naming the first offender: a value used before it is made or made twice, a bad id.
void verify(const Graph& graph);
// Golden-test form: one line a node, constants summarised. Stable across runs.
std::string to_text(const Graph& graph);

}  // namespace nibble::graph
