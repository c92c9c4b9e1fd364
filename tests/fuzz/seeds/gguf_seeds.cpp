// One layer of several architectures, with weights of several types.
#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/fuzz/seeds/seeds.h"
#include "tests/support/gguf_builder.h"

namespace nibble::fuzz {
namespace {

using test::GgufBuilder;

struct GgufKind {
  const char* architecture;
  bool layer_norm, gated, fused_qkv;
  uint32_t type;  // of the matrices: 0 f32, 1 f16, 2 Q4_0, 8 Q8_0, 12 Q4_K
};

std::string gguf_matrix(uint32_t type, uint64_t elements) {
  const uint64_t bytes = type == 0   ? 4 * elements
                         : type == 1 ? 2 * elements
                         : type == 2 ? elements / 32 * 18
                         : type == 8 ? elements / 32 * 34
                                     : elements / 256 * 144;
  std::string data(bytes, '\x11');
  return data;
}

std::string gguf_seed(const GgufKind& kind, bool vocabulary) {
  const uint64_t hidden = kind.type == 12 ? 256 : 32, mlp = hidden, words = 16, heads = 4;
  GgufBuilder make;
  const std::string a = kind.architecture;
  make.string("general.architecture", a);
  for (const auto& [key, value] : {std::pair<const char*, uint64_t>{"block_count", 1},
                                   {"embedding_length", hidden},
                                   {"feed_forward_length", mlp},
                                   {"attention.head_count", heads},
                                   {"attention.head_count_kv", heads},
                                   {"context_length", 64}}) {
    make.u32(a + "." + key, static_cast<uint32_t>(value));
  }
  make.f32(a + ".attention.layer_norm" + (kind.layer_norm ? "" : "_rms") + "_epsilon", 1e-5F);
  if (a != "gpt2") make.f32(a + ".rope.freq_base", 10000);
  if (vocabulary) {
    std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a", "b", "ab", "c"};
    std::vector<int32_t> types = {2, 3, 3, 1, 1, 1, 1, 1};
    tokens.resize(words, "x");
    for (size_t i = 8; i < words; ++i) tokens[i] += std::to_string(i);
    types.resize(words, 1);
    const bool bytes = a == "gpt2";
    make.string("tokenizer.ggml.model", bytes ? "gpt2" : "llama");
    make.strings("tokenizer.ggml.tokens", tokens);
    make.numbers<int32_t>("tokenizer.ggml.token_type", 5, types);
    if (bytes) make.strings("tokenizer.ggml.merges", {"a b"});
    if (!bytes) make.numbers<float>("tokenizer.ggml.scores", 6, std::vector<float>(words, -1.0F));
    make.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
    make.boolean("tokenizer.ggml.add_bos_token", true);
    make.string("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}");
  }
  const auto matrix = [&](const std::string& name, uint64_t k, uint64_t n) {
    make.tensor(name, kind.type, {k, n}, gguf_matrix(kind.type, k * n));
  };
  const auto vector = [&](const std::string& name, uint64_t n) {
    make.tensor(name, 0, {n}, gguf_matrix(0, n));
  };
  matrix("token_embd.weight", hidden, words);
  if (a == "gpt2") matrix("position_embd.weight", hidden, 64);
  for (const char* name : {"output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"}) {
    vector(std::string(name) + ".weight", hidden);
    if (kind.layer_norm) vector(std::string(name) + ".bias", hidden);
  }
  if (kind.fused_qkv) {
    matrix("blk.0.attn_qkv.weight", hidden, 3 * hidden);
    if (kind.layer_norm) vector("blk.0.attn_qkv.bias", 3 * hidden);
  } else {
    for (const char* name : {"q", "k", "v"}) {
      matrix(fmt::format("blk.0.attn_{}.weight", name), hidden, hidden);
    }
  }
  matrix("blk.0.attn_output.weight", hidden, hidden);
  if (kind.gated) matrix("blk.0.ffn_gate.weight", hidden, mlp);
  matrix("blk.0.ffn_up.weight", hidden, mlp);
  matrix("blk.0.ffn_down.weight", mlp, hidden);
  if (a == "gpt2") {
    vector("blk.0.attn_output.bias", hidden);
    vector("blk.0.ffn_up.bias", mlp);
    vector("blk.0.ffn_down.bias", hidden);
  }
  if (a == "gemma2") {
    vector("blk.0.post_attention_norm.weight", hidden);
    vector("blk.0.post_ffw_norm.weight", hidden);
  }
  if (a == "llama" && kind.type == 1) vector("rope_freqs.weight", hidden / heads / 2);
  return make.file();
}

}  // namespace

void gguf_seeds(const Corpus& corpus) {
  corpus.add("gguf", "llama_f16", gguf_seed({"llama", false, true, false, 1}, true));
  corpus.add("gguf", "llama_q4_0", gguf_seed({"llama", false, true, false, 2}, false));
  corpus.add("gguf", "qwen2_q8_0", gguf_seed({"qwen2", false, true, false, 8}, false));
  corpus.add("gguf", "gemma2_f16", gguf_seed({"gemma2", false, true, false, 1}, false));
  corpus.add("gguf", "gpt2_f16", gguf_seed({"gpt2", true, false, true, 1}, true));
}

}  // namespace nibble::fuzz
