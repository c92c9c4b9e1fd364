// What a decoder model is made of: the one form that every family of models is described in, and
// all that the builder of the graph reads. safetensors/ and gguf/ fill it in. Names are
// those of the checkpoint's tensors without ".weight" and ".bias"; inside a layer they follow
// `layers` and the layer's number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "frontends/decoder/config.h"
#include "frontends/decoder/positions.h"
#include "frontends/decoder/quantized_weights.h"

namespace nibble::frontends::decoder {

enum class Norm : uint8_t { rms, layer };

// Where the heads of Q, K and V are.
enum class QkvLayout : uint8_t {
  separate,   // three matrices
  blocks,     // one matrix: all Q heads, all K heads, all V heads
  per_group,  // one matrix: for each KV head its Q heads, then itself: k, v
};

enum class MlpLayout : uint8_t {
  plain,    // down(act(up(x)))
  gated,    // down(act(gate(x)) * up(x))
  gate_up,  // the same with one matrix: all of gate, then all of up
};

enum class Residual : uint8_t {
  serial,    // x += attention(norm(x)); x += mlp(norm(x)); without a name there is no norm
  parallel,  // x += attention(norm(x)) + mlp(norm'(x)); norm' is norm when mlp_norm has no name
};

// What normalises Q and K before they are rotated, where names.q_norm says that something does.
enum class QkNorm : uint8_t {
  rms_heads,       // RMSNorm of each head, the same factors for all
  rms_heads_last,  // the same, but behind the rotation
  rms_whole,       // RMSNorm of all Q columns, and of all K columns
  layer_heads,     // LayerNorm of each head, with biases, the same for all
  layer_numbered,  // LayerNorm of each head, without biases; head h's are named "NAME.h"
  layer_stacked,   // the same, as the rows of one tensor
};

struct Names {
  std::string base = {};  // what some files leave away at the front of each name: "transformer."
  std::string embedding = {}, positions = {}, embedding_norm = {}, layers = {}, final_norm = {},
              head = {};
  // Of one layer.
  std::string attention_norm = {}, q = {}, k = {}, v = {}, qkv = {}, o = {}, q_norm = {},
              k_norm = {}, after_attention = {};
  std::string mlp_norm = {}, gate = {}, up = {}, down = {}, after_mlp = {};
};

// Which matmuls have a bias.
struct Biases {
  bool qkv = false, o = false, mlp = false, head = false;
};

struct Description {
  std::string family;  // model_type
  Names names;
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, mlp = 0, vocabulary = 0;

  Norm norm = Norm::rms;
  float epsilon = 0;
  bool norm_bias = true;       // Norm::layer has a bias
  bool norm_weight = true;     // norms have factors
  bool norm_adds_one = false;  // the factor is 1 + weight
  Residual residual = Residual::serial;
  QkvLayout qkv = QkvLayout::separate;
  MlpLayout mlp_layout = MlpLayout::plain;
  std::string activation;  // as jit::parse_activation knows it
  Biases biases;
  QkNorm qk_norm = QkNorm::rms_heads;
  bool k_major = false;  // weights are [in][out] (Conv1D)
  bool tied = false;     // the output matrix is the embedding

  Rotation rotation;
  Rotation near_rotation;       // of layers with a window, where it differs (rotary > 0)
  std::vector<bool> unrotated;  // layers without rotation; empty: none
  std::vector<float> slopes;    // [heads]: ALiBi
  int64_t position_offset = 0;  // row of names.positions for position 0
  int64_t position_rows = 0;
  std::vector<float> scales;           // of the scores: one, or one a layer
  std::vector<int64_t> windows;        // none, one, or one a layer; 0: all positions
  float score_cap = 0, logit_cap = 0;  // softcaps; 0: none
  float qkv_clip = 0;                  // 0: none
  float embedding_scale = 1, logit_scale = 1, residual_scale = 1;  // residual: of the branches
  QuantizationScheme quantization;
};

// A line for people.
std::string line_of(const Description& description);

}  // namespace nibble::frontends::decoder
