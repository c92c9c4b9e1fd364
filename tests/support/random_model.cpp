#include "tests/support/random_model.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "jit/float16.h"
#include "tests/frontends/safetensors_writer.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/random_model_files.h"

namespace nibble::test {
namespace {

constexpr size_t kTableSize = 65521;  // a prime: no row of a matrix repeats the one above

std::vector<uint16_t> all_halves(const RandomTensor& tensor) {
  std::vector<uint16_t> halves(static_cast<size_t>(tensor.elements()));
  RandomHalves(tensor).read(0, 1, halves);
  return halves;
}

std::string as_bytes(const RandomTensor& tensor) {
  const std::vector<uint16_t> halves = all_halves(tensor);
  return {reinterpret_cast<const char*>(halves.data()), halves.size() * sizeof(uint16_t)};
}

// As llama.cpp's conversion orders the rows of a Llama's Q and K: dimensions i and i + half of a
// head, which are rotated together, become neighbours.
std::string in_pairs(const std::string& bytes, int64_t rows, int64_t head_dim) {
  const auto width = bytes.size() / static_cast<size_t>(rows);
  std::string out;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / head_dim, i = row % head_dim;
    const int64_t from = head * head_dim + i % 2 * (head_dim / 2) + i / 2;
    out += bytes.substr(static_cast<size_t>(from) * width, width);
  }
  return out;
}

std::string gguf_name(const std::string& name) {
  static const std::map<std::string, std::string> stems = {{"model.embed_tokens", "token_embd"},
                                                           {"lm_head", "output"},
                                                           {"model.norm", "output_norm"},
                                                           {"input_layernorm", "attn_norm"},
                                                           {"post_attention_layernorm", "ffn_norm"},
                                                           {"self_attn.q_proj", "attn_q"},
                                                           {"self_attn.k_proj", "attn_k"},
                                                           {"self_attn.v_proj", "attn_v"},
                                                           {"self_attn.o_proj", "attn_output"},
                                                           {"mlp.gate_proj", "ffn_gate"},
                                                           {"mlp.up_proj", "ffn_up"},
                                                           {"mlp.down_proj", "ffn_down"}};
  const std::string layers = "model.layers.";
  const size_t end = name.rfind('.');
  if (!name.starts_with(layers)) return stems.at(name.substr(0, end)) + name.substr(end);
  const size_t dot = name.find('.', layers.size());
  return "blk." + name.substr(layers.size(), dot - layers.size()) + "." +
         stems.at(name.substr(dot + 1, end - dot - 1)) + name.substr(end);
}

}  // namespace

RandomModel llama2_7b() {
  return {.layers = 32,
          .hidden = 4096,
          .mlp = 11008,
          .heads = 32,
          .kv_heads = 32,
          .vocabulary = 32000,
          .context = 4096};
}

std::vector<RandomTensor> random_tensors(const RandomModel& m) {
  std::vector<RandomTensor> out;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
    const float scale = 2 / std::sqrt(static_cast<float>(columns));
    out.push_back({name + ".weight", rows, columns, scale});
  };
  const auto norm = [&](const std::string& name) {
    out.push_back({name + ".weight", m.hidden, 1, 0.25F, 1.0F});
  };
  const auto projection = [&](const std::string& name, int64_t rows) {
    matrix(name, rows, m.hidden);
    if (m.qwen2) out.push_back({name + ".bias", rows, 1, 0.5F});
  };
  out.push_back({"model.embed_tokens.weight", m.vocabulary, m.hidden, 0.125F});
  for (int64_t layer = 0; layer < m.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    norm(prefix + "input_layernorm");
    projection(prefix + "self_attn.q_proj", m.hidden);
    projection(prefix + "self_attn.k_proj", m.kv_columns());
    projection(prefix + "self_attn.v_proj", m.kv_columns());
    matrix(prefix + "self_attn.o_proj", m.hidden, m.hidden);
    norm(prefix + "post_attention_layernorm");
    matrix(prefix + "mlp.gate_proj", m.mlp, m.hidden);
    matrix(prefix + "mlp.up_proj", m.mlp, m.hidden);
    matrix(prefix + "mlp.down_proj", m.hidden, m.mlp);
  }
  norm("model.norm");
  if (!m.tied) matrix("lm_head", m.vocabulary, m.hidden);
  return out;
}

RandomHalves::RandomHalves(const RandomTensor& tensor) : table_(kTableSize) {
  uint64_t seed = 1469598103934665603U;  // FNV-1a of the name
  for (const char c : tensor.name) seed = (seed ^ static_cast<uint8_t>(c)) * 1099511628211U;
  first_ = static_cast<int64_t>(seed % kTableSize);
  auto state = static_cast<uint32_t>(seed >> 32);
  for (uint16_t& half : table_) {
    state = state * 1664525U + 1013904223U;
    const float u = static_cast<float>(state >> 8) * 0x1p-23F - 1.0F;
    half = jit::f32_to_f16(tensor.scale * u + tensor.offset);
  }
}

void RandomHalves::read(int64_t begin, int64_t step, std::span<uint16_t> out) const {
  size_t at = static_cast<size_t>(first_ + begin) % kTableSize;
  const size_t advance = static_cast<size_t>(step) % kTableSize;
  for (uint16_t& half : out) {
    half = table_[at];
    at += advance;
    if (at >= kTableSize) at -= kTableSize;
  }
}

std::vector<float> random_values(const RandomTensor& tensor) {
  std::vector<float> out;
  for (const uint16_t half : all_halves(tensor)) out.push_back(jit::f16_to_f32(half));
  return out;
}

void write_bytes(const std::string& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

void write_config(const RandomModel& m, const std::string& folder) {
  const nlohmann::json config = {
      {"architectures", {m.qwen2 ? "Qwen2ForCausalLM" : "LlamaForCausalLM"}},
      {"model_type", m.family()},
      {"hidden_act", "silu"},
      {"hidden_size", m.hidden},
      {"intermediate_size", m.mlp},
      {"num_hidden_layers", m.layers},
      {"num_attention_heads", m.heads},
      {"num_key_value_heads", m.kv_heads},
      {"vocab_size", m.vocabulary},
      {"max_position_embeddings", m.context},
      {"rms_norm_eps", kRandomEpsilon},
      {"rope_theta", kRandomRopeBase},
      {"tie_word_embeddings", m.tied}};
  write_bytes(folder + "/config.json", config.dump(1));
}

void write_safetensors(const RandomModel& m, const std::string& folder) {
  std::filesystem::create_directories(folder);
  SafetensorsWriter writer;
  for (const RandomTensor& tensor : random_tensors(m)) {
    std::vector<int64_t> shape = {tensor.rows};
    if (tensor.columns > 1) shape.push_back(tensor.columns);
    writer.add_raw(tensor.name, "F16", shape, as_bytes(tensor));
  }
  write_bytes(folder + "/model.safetensors", writer.bytes());
  write_config(m, folder);
}

void write_gguf(const RandomModel& m, const std::string& path) {
  const std::string family = m.family();
  GgufBuilder make;
  make.string("general.architecture", family).string("tokenizer.ggml.model", "none");
  const auto add = [&](const char* key, int64_t value) {
    make.u32(family + "." + key, static_cast<uint32_t>(value));
  };
  add("block_count", m.layers);
  add("embedding_length", m.hidden);
  add("feed_forward_length", m.mlp);
  add("attention.head_count", m.heads);
  add("attention.head_count_kv", m.kv_heads);
  add("context_length", m.context);
  add("vocab_size", m.vocabulary);
  if (!m.qwen2) add("rope.dimension_count", m.head_dim());
  make.f32(family + ".attention.layer_norm_rms_epsilon", kRandomEpsilon);
  make.f32(family + ".rope.freq_base", kRandomRopeBase);
  constexpr uint32_t kF32 = 0, kF16 = 1;
  for (const RandomTensor& tensor : random_tensors(m)) {
    const std::string name = gguf_name(tensor.name);
    const auto rows = static_cast<uint64_t>(tensor.rows);
    if (tensor.columns == 1) {
      make.tensor(name, kF32, {rows}, GgufBuilder::floats(random_values(tensor)));
      continue;
    }
    std::string bytes = as_bytes(tensor);
    const bool turned = name.find("attn_q.") != name.npos || name.find("attn_k.") != name.npos;
    if (turned && !m.qwen2) bytes = in_pairs(bytes, tensor.rows, m.head_dim());
    make.tensor(name, kF16, {static_cast<uint64_t>(tensor.columns), rows}, bytes);
  }
  write_bytes(path, make.file());
}

}  // namespace nibble::test
