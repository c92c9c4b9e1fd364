#include "frontends/gguf/gguf_description.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "frontends/gguf/architectures.h"
#include "frontends/gguf/metadata.h"
#include "frontends/gguf/rotation.h"
#include "graph/tensor.h"
#include "jit/error.h"

namespace nibble::frontends::gguf {
namespace {

using decoder::Checkpoint;
using decoder::MlpLayout;
using decoder::Norm;
using decoder::QkvLayout;

// Which dimensions of a head are rotated together: i and i + half, or neighbours, the rows of Q and
// K being ordered so in the file.
enum class Rotates : uint8_t { none, halves, pairs };

struct Architecture {
  const char* name;
  Norm norm;
  MlpLayout mlp;
  const char* activation;
  Rotates rotates;
  Describe more = nullptr;
  // Where the file says nothing else: of every so many layers the last has no window; 0: all have.
  int64_t window_period = 0;
  int64_t window = 0;
};

// The first dimension of a tensor: the vocabulary, or the positions of a table.
int64_t rows_of(const File& file, const std::string& name) {
  const Tensor* tensor = file.find(name);
  if (tensor == nullptr) fail("{}: there is no tensor '{}'.", file.path(), name);
  constexpr int64_t kMostRows = int64_t{1} << 24;
  if (tensor->shape.size() == 2 && tensor->shape[0] <= kMostRows) return tensor->shape[0];
  fail("{}: the tensor '{}' has shape {}, but a matrix of at most {} rows is expected.",
       file.path(), name, graph::to_string(tensor->shape), kMostRows);
}

decoder::Names names() {
  return {.base = "",
          .embedding = "token_embd",
          .layers = "blk.",
          .final_norm = "output_norm",
          .head = "output",
          .attention_norm = "attn_norm",
          .q = "attn_q",
          .k = "attn_k",
          .v = "attn_v",
          .o = "attn_output",
          .mlp_norm = "ffn_norm",
          .gate = "ffn_gate",
          .up = "ffn_up",
          .down = "ffn_down"};
}

void read_sizes(Metadata& meta, Description& d) {
  d.layers = meta.size("block_count");
  d.hidden = meta.size("embedding_length");
  d.heads = meta.size("attention.head_count");
  d.kv_heads = meta.size("attention.head_count_kv", d.heads);
  d.mlp = meta.size("feed_forward_length");
  if (!meta.has("attention.key_length") && d.hidden % d.heads != 0) {
    meta.refuse("attention.head_count", std::to_string(d.heads),
                fmt::format("a divisor of the embedding length {}", d.hidden));
  }
  d.head_dim = meta.size("attention.key_length", d.hidden / d.heads);
  meta.only("attention.value_length", d.head_dim);
  // Tables by layer and by head would take the memory of what was never made.
  const auto most = [&](const char* key, int64_t value, int64_t limit) {
    if (value > limit) meta.refuse(key, std::to_string(value), fmt::format("at most {}", limit));
  };
  most("block_count", d.layers, 4096);
  most("attention.head_count", d.heads, 4096);
  most("attention.key_length", d.head_dim, 8192);
  if (d.heads % d.kv_heads != 0) {
    meta.refuse("attention.head_count_kv", std::to_string(d.kv_heads),
                fmt::format("a divisor of the {} query heads", d.heads));
  }
}

// What the file has of what may be there or not.
void look_at_tensors(const File& file, Description& d) {
  const auto has = [&](const char* name) { return file.find(name) != nullptr; };
  d.vocabulary = rows_of(file, "token_embd.weight");
  d.tied = !has("output.weight");
  if (has("blk.0.attn_qkv.weight")) {
    d.qkv = QkvLayout::blocks;
    d.names.qkv = "attn_qkv";
  }
  d.biases = {.qkv = has("blk.0.attn_qkv.bias") || has("blk.0.attn_q.bias"),
              .o = has("blk.0.attn_output.bias"),
              .mlp = has("blk.0.ffn_down.bias"),
              .head = has("output.bias")};
  d.norm_bias = has("output_norm.bias");
  if (d.mlp_layout == MlpLayout::gated && !has("blk.0.ffn_gate.weight")) {
    d.mlp_layout = MlpLayout::gate_up;
    d.names.gate = "ffn_up";
  }
}

// Keys that change nothing here, or must say what is done anyway.
void check_keys(Metadata& meta) {
  for (const char* key :
       {"context_length", "vocab_size", "tensor_data_layout", "rope.scaling.finetuned"}) {
    meta.pass(key);
  }
  if (meta.has("expert_count")) {
    const int64_t experts = meta.count("expert_count");
    if (experts > 0) {
      meta.refuse("expert_count", std::to_string(experts), "0 (mixtures of experts are not read)");
    }
  }
  meta.pass_group("expert_");  // of no experts
  meta.only("nextn_predict_layers", 0);
  meta.only("pooling_type", 0);
  meta.only_true("attention.causal");
}

// Windows on all layers, or on all but every `period`th; the file may say which.
void read_windows(Metadata& meta, int64_t period, int64_t fallback, Description& d) {
  constexpr const char* kWindow = "attention.sliding_window";
  constexpr const char* kPattern = "attention.sliding_window_pattern";
  const int64_t window = meta.has(kWindow) ? meta.count(kWindow) : fallback;
  std::vector<bool> windowed;
  if (meta.is_list(kPattern)) {
    windowed = meta.flags(kPattern, d.layers);
  } else if (meta.has(kPattern)) {
    period = meta.count(kPattern);
  }
  if (window == 0) return;  // as the files of Phi-4 say it
  if (windowed.empty() && period == 0) {
    d.windows = {window};
    return;
  }
  for (int64_t layer = 0; layer < d.layers; ++layer) {
    const bool has =
        windowed.empty() ? (layer + 1) % period != 0 : windowed[static_cast<size_t>(layer)];
    d.windows.push_back(has ? window : 0);
  }
}

// 0 stands for none.
float factor_or(Metadata& meta, const char* key, float none) {
  const auto value = static_cast<float>(meta.real(key, 0));
  return value == 0 ? none : value;
}

void read_factors(Metadata& meta, Description& d) {
  d.embedding_scale = factor_or(meta, "embedding_scale", 1);
  d.residual_scale = factor_or(meta, "residual_scale", 1);
  d.score_cap = factor_or(meta, "attn_logit_softcapping", 0);
  d.logit_cap = factor_or(meta, "final_logit_softcapping", 0);
  d.qkv_clip = factor_or(meta, "attention.clamp_kqv", 0);
  const float root = static_cast<float>(1 / std::sqrt(static_cast<double>(d.head_dim)));
  d.scales = {factor_or(meta, "attention.scale", root)};
}

// Some converters write the other kind's key, or both.
void read_epsilon(Metadata& meta, Description& d) {
  const std::string rms = "attention.layer_norm_rms_epsilon",
                    layer = "attention.layer_norm_epsilon";
  const std::string& own = d.norm == Norm::rms ? rms : layer;
  const std::string& other = d.norm == Norm::rms ? layer : rms;
  const std::string& key = !meta.has(own) && meta.has(other) ? other : own;
  d.epsilon = static_cast<float>(meta.real(key));
  if (!(d.epsilon > 0)) meta.refuse(key, std::to_string(d.epsilon), "a number above 0");
  meta.pass(other);
}

constexpr Norm kRms = Norm::rms, kLayer = Norm::layer;
constexpr MlpLayout kGated = MlpLayout::gated, kPlain = MlpLayout::plain;
constexpr Rotates kNone = Rotates::none, kHalves = Rotates::halves, kPairs = Rotates::pairs;

constexpr Architecture kArchitectures[] = {
    {"arcee", kRms, kPlain, "relu2", kPairs},
    {"baichuan", kRms, kGated, "silu", kPairs, describe_baichuan},
    {"bloom", kLayer, kPlain, "gelu_tanh", kNone, describe_bloom},
    {"chatglm", kRms, kGated, "silu", kPairs},
    {"codeshell", kLayer, kPlain, "gelu_tanh", kHalves},
    {"cohere2", kLayer, kGated, "silu", kPairs, describe_cohere2, 4},
    {"command-r", kLayer, kGated, "silu", kPairs, describe_command_r},
    {"ernie4_5", kRms, kGated, "silu", kPairs},
    {"exaone", kRms, kGated, "silu", kHalves},
    {"exaone4", kRms, kGated, "silu", kHalves, describe_exaone4, 4},
    {"falcon", kLayer, kPlain, "gelu", kHalves, describe_falcon},
    {"gemma", kRms, kGated, "gelu_tanh", kHalves, describe_gemma},
    {"gemma2", kRms, kGated, "gelu_tanh", kHalves, describe_gemma2, 2, 4096},
    {"gemma3", kRms, kGated, "gelu_tanh", kHalves, describe_gemma3, 6},
    {"glm4", kRms, kGated, "silu", kPairs, describe_glm4},
    {"gpt2", kLayer, kPlain, "gelu_tanh", kNone, describe_gpt2},
    {"gptneox", kLayer, kPlain, "gelu", kHalves, describe_gptneox},
    {"granite", kRms, kGated, "silu", kPairs, describe_granite},
    {"hunyuan-dense", kRms, kGated, "silu", kHalves, describe_hunyuan},
    {"internlm2", kRms, kGated, "silu", kPairs},
    {"jais", kLayer, kGated, "silu", kNone, describe_jais},
    {"jais2", kLayer, kPlain, "relu2", kHalves},
    {"llama", kRms, kGated, "silu", kPairs},
    {"maincoder", kRms, kGated, "silu", kPairs, describe_hunyuan},
    {"minicpm", kRms, kGated, "silu", kPairs, describe_minicpm},
    {"mistral3", kRms, kGated, "silu", kPairs, describe_mistral3},
    {"mpt", kLayer, kPlain, "gelu", kNone, describe_mpt},
    {"nemotron", kLayer, kPlain, "relu2", kHalves},
    {"olmo", kLayer, kGated, "silu", kPairs, describe_olmo},
    {"olmo2", kRms, kGated, "silu", kHalves, describe_olmo2, 4},
    {"orion", kLayer, kGated, "silu", kHalves},
    {"pangu-embedded", kRms, kGated, "silu", kHalves},
    {"phi2", kLayer, kPlain, "gelu_tanh", kHalves, describe_phi2},
    {"phi3", kRms, kGated, "silu", kHalves},
    {"qwen", kRms, kGated, "silu", kHalves, describe_qwen},
    {"qwen2", kRms, kGated, "silu", kHalves},
    {"qwen2vl", kRms, kGated, "silu", kHalves, describe_qwen2vl},
    {"qwen3", kRms, kGated, "silu", kHalves, describe_qwen3},
    {"qwen3vl", kRms, kGated, "silu", kHalves, describe_qwen3vl},
    {"refact", kRms, kGated, "silu", kNone, describe_refact},
    {"seed_oss", kRms, kGated, "silu", kHalves, describe_seed_oss},
    {"smollm3", kRms, kGated, "silu", kPairs, describe_smollm3},
    {"stablelm", kLayer, kGated, "silu", kHalves, describe_stablelm},
    {"starcoder", kLayer, kPlain, "gelu_tanh", kNone, describe_gpt2},
    {"starcoder2", kLayer, kPlain, "gelu_tanh", kHalves},
    {"xverse", kRms, kGated, "silu", kPairs},
};

}  // namespace

std::vector<std::string> described_architectures() {
  std::vector<std::string> names;
  for (const Architecture& architecture : kArchitectures) names.emplace_back(architecture.name);
  return names;
}

Description describe(const File& file, Checkpoint& checkpoint) {
  Metadata meta(file);
  const auto* known = std::ranges::find_if(
      kArchitectures, [&](const Architecture& a) { return meta.architecture() == a.name; });
  if (known == std::end(kArchitectures)) {
    fail("{}: metadata 'general.architecture' is \"{}\", but one of {} is expected.", file.path(),
         meta.architecture(), fmt::join(described_architectures(), ", "));
  }
  Description d;
  d.family = known->name;
  d.names = names();
  d.norm = known->norm;
  d.mlp_layout = known->mlp;
  d.activation = known->activation;
  read_sizes(meta, d);
  look_at_tensors(file, d);
  read_epsilon(meta, d);
  check_keys(meta);
  read_factors(meta, d);
  if (known->rotates != Rotates::none) d.rotation = read_rotation(meta, checkpoint, d.head_dim);
  d.rotation.interleaved = known->rotates == Rotates::pairs;
  read_windows(meta, known->window_period, known->window, d);
  Reading reading{file, meta, checkpoint};
  if (known->more != nullptr) known->more(reading, d);
  if (!d.names.positions.empty()) {
    d.position_rows = rows_of(file, d.names.positions + ".weight");
  }
  meta.refuse_unused();
  return d;
}

}  // namespace nibble::frontends::gguf
