#include "frontends/gguf/gguf_description.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "frontends/gguf/metadata.h"
#include "frontends/gguf/rotation.h"
#include "graph/tensor.h"
#include "jit/error.h"

namespace nibble::frontends::gguf {
namespace {

using decoder::Checkpoint;
using decoder::Description;
using decoder::MlpLayout;
using decoder::Norm;
using decoder::QkvLayout;

// An architecture: what describe_common() does not know by itself.
struct Architecture {
  const char* name;
  Norm norm;
  MlpLayout mlp;
  const char* activation;
  bool rotated;
  // Pairs of neighbours are rotated: the rows of Q and K are ordered so in the file.
  bool interleaved;
  void (*more)(Metadata&, Checkpoint&, Description&);  // may be null
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
  if (d.mlp_layout == MlpLayout::gated && !has("blk.0.ffn_gate.weight")) {
    d.mlp_layout = MlpLayout::gate_up;
    d.names.gate = "ffn_up";
  }
}

// Keys that change nothing here, or must say what is done anyway.
void check_keys(Metadata& meta) {
  for (const char* key : {"context_length", "vocab_size", "tensor_data_layout", "expert_used_count",
                          "rope.scaling.finetuned"}) {
    meta.pass(key);
  }
  meta.only("expert_count", 0);
  meta.only("pooling_type", 0);
  meta.only_true("attention.causal");
}

void describe_qwen3(Metadata&, Checkpoint&, Description& d) {
  d.names.q_norm = "attn_q_norm";
  d.names.k_norm = "attn_k_norm";
}

// The file's norm weights have 1 added already.
void describe_gemma(Metadata&, Checkpoint&, Description& d) {
  d.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(d.hidden)));
}

void describe_gemma2(Metadata& meta, Checkpoint& checkpoint, Description& d) {
  describe_gemma(meta, checkpoint, d);
  constexpr int64_t kLayersOf27b = 46;  // whose scale is of the hidden size
  const int64_t width = d.layers == kLayersOf27b ? d.hidden / d.heads : d.head_dim;
  d.scales = {static_cast<float>(1 / std::sqrt(static_cast<double>(width)))};
  d.names.after_attention = "post_attention_norm";
  d.names.after_mlp = "post_ffw_norm";
  d.score_cap = static_cast<float>(meta.real("attn_logit_softcapping", 50));
  d.logit_cap = static_cast<float>(meta.real("final_logit_softcapping", 30));
  const int64_t window = meta.size("attention.sliding_window", 4096);
  for (int64_t layer = 0; layer < d.layers; ++layer) {
    d.windows.push_back(layer % 2 == 0 ? window : 0);
  }
}

// 0 stands for none in the files of Phi-4.
void describe_phi3(Metadata& meta, Checkpoint&, Description& d) {
  if (!meta.has("attention.sliding_window")) return;
  const int64_t window = meta.count("attention.sliding_window");
  if (window > 0) d.windows = {window};
}

void describe_gpt2(Metadata&, Checkpoint&, Description& d) { d.names.positions = "position_embd"; }

constexpr bool kPairs = true, kHalves = false;

constexpr Architecture kArchitectures[] = {
    {"gemma", Norm::rms, MlpLayout::gated, "gelu_tanh", true, kHalves, describe_gemma},
    {"gemma2", Norm::rms, MlpLayout::gated, "gelu_tanh", true, kHalves, describe_gemma2},
    {"gpt2", Norm::layer, MlpLayout::plain, "gelu_tanh", false, kHalves, describe_gpt2},
    {"llama", Norm::rms, MlpLayout::gated, "silu", true, kPairs, nullptr},
    {"phi3", Norm::rms, MlpLayout::gated, "silu", true, kHalves, describe_phi3},
    {"qwen2", Norm::rms, MlpLayout::gated, "silu", true, kHalves, nullptr},
    {"qwen3", Norm::rms, MlpLayout::gated, "silu", true, kHalves, describe_qwen3},
    {"starcoder2", Norm::layer, MlpLayout::plain, "gelu_tanh", true, kHalves, nullptr},
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
  const std::string epsilon =
      d.norm == Norm::rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
  d.epsilon = static_cast<float>(meta.real(epsilon));
  if (!(d.epsilon > 0)) meta.refuse(epsilon, std::to_string(d.epsilon), "a number above 0");
  check_keys(meta);
  if (known->rotated) d.rotation = read_rotation(meta, checkpoint, d.head_dim);
  d.rotation.interleaved = known->interleaved;
  if (known->more != nullptr) known->more(meta, checkpoint, d);
  if (!d.names.positions.empty()) {
    d.position_rows = rows_of(file, d.names.positions + ".weight");
  }
  if (d.scales.empty()) {
    d.scales = {static_cast<float>(1 / std::sqrt(static_cast<double>(d.head_dim)))};
  }
  meta.refuse_unused();
  return d;
}

}  // namespace nibble::frontends::gguf
