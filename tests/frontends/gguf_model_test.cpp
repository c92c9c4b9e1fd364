// Models as GGUF files: the zoo's Llama written as one, against its safetensors twin; quantized
// blocks bit for bit; and what is refused.
#include "frontends/gguf/gguf_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>

#include "frontends/gguf/ggml_numbers.h"
#include "frontends/safetensors/open_checkpoint.h"
#include "frontends/tokenizer/gguf_vocabulary.h"
#include "frontends/tokenizer/tokenizer.h"
#include "jit/error.h"
#include "jit/float16.h"
#include "jit/isa.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/fused_model.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/zoo.h"

namespace nibble::frontends {
namespace {

using gguf::GgmlType;
using test::FusedOptions;
using test::GgufBuilder;
using Floats = std::vector<float>;

struct Sizes {
  uint32_t layers, hidden, heads, kv_heads, mlp, vocabulary;
};
constexpr Sizes kZooLlama = {2, 128, 4, 4, 352, 512};  // its config.json
constexpr Sizes kTiny = {2, 256, 4, 2, 256, 96};

// Numbers that look random and are the same everywhere.
Floats noise(size_t count, uint32_t seed) {
  Floats values(count);
  uint32_t state = seed * 2654435761U + 1;
  for (float& value : values) {
    state = state * 1664525U + 1013904223U;
    value = (static_cast<float>(state >> 8) / 16777216.0F - 0.5F) * 0.2F;
  }
  return values;
}

std::string halves(const Floats& values) {
  std::string bytes;
  for (const float value : values) bytes += GgufBuilder::number(jit::f32_to_f16(value));
  return bytes;
}

// Blocks with any bits, and scales that are numbers: bytes [scale_at, scale_at + 2 * scales) of a
// block are f16.
std::string random_blocks(GgmlType type, size_t weights, size_t scale_at, size_t scales,
                          uint32_t seed) {
  const gguf::GgmlBlock& block = gguf::ggml_block(type);
  std::string bytes;
  uint32_t state = seed;
  for (size_t i = 0; i < weights / static_cast<size_t>(block.elements); ++i) {
    std::string one;
    for (int64_t j = 0; j < block.bytes; ++j) {
      state = state * 1664525U + 1013904223U;
      one += static_cast<char>(state >> 24);
    }
    for (size_t s = 0; s < scales; ++s) {
      // Eleven bits: products with small scales take more than fp16 has.
      const auto scale = static_cast<float>(1025 + (state >> 16) % 1000 + s) * 0x1p-19F;
      one.replace(scale_at + 2 * s, 2, GgufBuilder::number(jit::f32_to_f16(scale)));
    }
    bytes += one;
  }
  return bytes;
}

// As llama.cpp's conversion orders the rows of Q and K: pairs (i, i + half) become neighbours.
Floats permuted(const Floats& rows, int64_t heads, int64_t width) {
  Floats out(rows.size());
  const int64_t all = static_cast<int64_t>(rows.size()) / width, size = all / heads;
  for (int64_t row = 0; row < all; ++row) {
    const int64_t head = row / size, i = row % size, half = size / 2;
    const int64_t from = head * size + (i % 2) * half + i / 2;
    std::copy_n(rows.begin() + from * width, width, out.begin() + row * width);
  }
  return out;
}

GgufBuilder llama_metadata(const Sizes& s, const std::string& architecture = "llama",
                           const std::string& epsilon = "layer_norm_rms_epsilon") {
  GgufBuilder make;
  make.string("general.architecture", architecture);
  const auto add = [&](const char* key, uint32_t value) {
    make.u32(architecture + "." + key, value);
  };
  add("block_count", s.layers);
  add("embedding_length", s.hidden);
  add("feed_forward_length", s.mlp);
  add("attention.head_count", s.heads);
  add("attention.head_count_kv", s.kv_heads);
  add("context_length", 256);
  make.f32(architecture + ".attention." + epsilon, 1e-6F);
  if (architecture == "gpt2") return make;  // which rotates nothing
  add("rope.dimension_count", s.hidden / s.heads);
  make.f32(architecture + ".rope.freq_base", 10000);
  return make;
}

// A tensor's name, columns and rows.
using AddMatrix = std::function<void(GgufBuilder&, const std::string&, uint64_t, uint64_t)>;
using AddNorm = std::function<void(GgufBuilder&, const std::string&, uint64_t)>;

void add_tensors(GgufBuilder& make, const Sizes& s, const AddMatrix& matrix, const AddNorm& norm) {
  const uint64_t kv = s.hidden / s.heads * s.kv_heads;
  matrix(make, "token_embd.weight", s.hidden, s.vocabulary);
  matrix(make, "output.weight", s.hidden, s.vocabulary);
  norm(make, "output_norm.weight", s.hidden);
  for (uint32_t layer = 0; layer < s.layers; ++layer) {
    const std::string block = fmt::format("blk.{}.", layer);
    norm(make, block + "attn_norm.weight", s.hidden);
    norm(make, block + "ffn_norm.weight", s.hidden);
    matrix(make, block + "attn_q.weight", s.hidden, s.hidden);
    matrix(make, block + "attn_k.weight", s.hidden, kv);
    matrix(make, block + "attn_v.weight", s.hidden, kv);
    matrix(make, block + "attn_output.weight", s.hidden, s.hidden);
    matrix(make, block + "ffn_gate.weight", s.hidden, s.mlp);
    matrix(make, block + "ffn_up.weight", s.hidden, s.mlp);
    matrix(make, block + "ffn_down.weight", s.mlp, s.hidden);
  }
}

void plain_norm(GgufBuilder& make, const std::string& name, uint64_t width) {
  make.tensor(name, 0, {width}, GgufBuilder::floats(Floats(width, 1.0F)));
}

void noisy_matrix(GgufBuilder& make, const std::string& name, uint64_t k, uint64_t n) {
  make.tensor(name, 1, {k, n}, halves(noise(k * n, static_cast<uint32_t>(name.size()))));
}

class GgufModelTest : public testing::Test {
 protected:
  std::string write(const GgufBuilder& make) { return folder_.write("model.gguf", make.file()); }
  void expect_refused(const GgufBuilder& make, const std::string& part) {
    try {
      load_gguf(write(make));
      ADD_FAILURE() << "expected: " << part;
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(part), std::string::npos) << message;
      EXPECT_NE(message.find("model.gguf"), std::string::npos) << message;
    }
  }
  runtime::TemporaryFolder folder_;
};

std::vector<int32_t> greedy(runtime::Session& session, const std::vector<int32_t>& prompt,
                            size_t count) {
  session.reset();
  return test::greedy_ids(session, prompt, count);
}

FusedOptions exact() {
  FusedOptions options;
  options.compute = graph::Compute::f32;
  options.isa = jit::selected_isa();
  return options;
}

// The tensors of a model of transformers under the names of a GGUF, and ordered as there.
class Twin {
 public:
  explicit Twin(const std::string& path) : checkpoint_(safetensors::open_checkpoint(path)) {}

  Floats values(const std::string& name, uint64_t width) {
    const bool layer = name.starts_with("blk.");
    const size_t begin = layer ? 6 : 0, end = name.rfind('.');
    const std::string stem = name.substr(begin, end - begin);
    const std::string prefix = layer ? "model.layers." + name.substr(4, 2) : "";
    const Floats found =
        graph::to_f32(checkpoint_.take(prefix + kTheirs.at(stem) + name.substr(end)));
    const bool turned = stem == "attn_q" || stem == "attn_k";
    return turned ? permuted(found, kZooLlama.heads, static_cast<int64_t>(width)) : found;
  }

 private:
  const std::map<std::string, std::string> kTheirs = {
      {"token_embd", "model.embed_tokens"}, {"output", "lm_head"},
      {"output_norm", "model.norm"},        {"attn_norm", "input_layernorm"},
      {"attn_q", "self_attn.q_proj"},       {"attn_k", "self_attn.k_proj"},
      {"attn_v", "self_attn.v_proj"},       {"attn_output", "self_attn.o_proj"},
      {"ffn_gate", "mlp.gate_proj"},        {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"},        {"ffn_norm", "post_attention_layernorm"}};
  decoder::Checkpoint checkpoint_;
};

TEST_F(GgufModelTest, AnswersAsItsSafetensorsTwinDoes) {
  NIBBLE_NEED_MODELS();
  const std::string path = test::zoo_folder("llama") + "/model.safetensors";
  const test::Reference reference = test::zoo_reference("llama");
  const auto wanted = test::session_of(test::fused_graph(path, exact(), nullptr), exact());
  for (const GgmlType type : {GgmlType::f32, GgmlType::f16}) {
    const bool half = type == GgmlType::f16;
    Twin twin(path);
    GgufBuilder make = llama_metadata(kZooLlama);
    add_tensors(
        make, kZooLlama,
        [&](GgufBuilder& m, const std::string& name, uint64_t k, uint64_t n) {
          const Floats values = twin.values(name, k);
          m.tensor(name, static_cast<uint32_t>(type), {k, n},
                   half ? halves(values) : GgufBuilder::floats(values));
        },
        [&](GgufBuilder& m, const std::string& name, uint64_t width) {
          m.tensor(name, 0, {width}, GgufBuilder::floats(twin.values(name, width)));
        });
    graph::FusionReport report;
    const auto ours = test::session_of(test::fused_graph(write(make), exact(), &report), exact());
    EXPECT_EQ(report.coverage(), 1.0);
    // The twin's weights are f32, and lose some 2^-12 of themselves in f16.
    const float tolerance = half ? 5e-3F : 1e-5F;
    for (int64_t row = 0; row < reference.batch(); ++row) {
      const auto logits = test::all_logits(*wanted, reference.ids(row));
      EXPECT_LE(test::max_abs_difference(test::all_logits(*ours, reference.ids(row)), logits),
                tolerance * test::max_abs(logits));
    }
    EXPECT_EQ(greedy(*ours, reference.prompt, reference.greedy.size()), reference.greedy);
  }
}

// The tensors of a layer in each architecture; all are there, and all are taken.
struct Family {
  const char* name;
  bool layer_norm, qkv, gate, biases;
  std::vector<std::string> norms;  // of the hidden size, beside attn_norm
  std::vector<std::string> head_norms;
};

GgufBuilder family_model(const Family& family) {
  const uint64_t hidden = kTiny.hidden, mlp = kTiny.mlp, head = hidden / kTiny.heads;
  const uint64_t kv = head * kTiny.kv_heads;
  GgufBuilder make = llama_metadata(
      kTiny, family.name, family.layer_norm ? "layer_norm_epsilon" : "layer_norm_rms_epsilon");
  const auto vector = [&](const std::string& name, uint64_t width) {
    make.tensor(name, 0, {width}, GgufBuilder::floats(noise(width, 7)));
  };
  const auto matrix = [&](const std::string& name, uint64_t k, uint64_t n) {
    noisy_matrix(make, name + ".weight", k, n);
    if (family.biases && name.starts_with("blk.")) vector(name + ".bias", n);
  };
  const auto norm = [&](const std::string& name) {
    plain_norm(make, name + ".weight", hidden);
    if (family.layer_norm) vector(name + ".bias", hidden);
  };
  matrix("token_embd", hidden, kTiny.vocabulary);
  if (std::string_view(family.name) == "gpt2") matrix("position_embd", hidden, 256);
  norm("output_norm");
  for (uint32_t layer = 0; layer < kTiny.layers; ++layer) {
    const std::string block = fmt::format("blk.{}.", layer);
    norm(block + "attn_norm");
    for (const std::string& name : family.norms) norm(block + name);
    for (const std::string& name : family.head_norms) {
      plain_norm(make, block + name + ".weight", head);
    }
    if (family.qkv) {
      matrix(block + "attn_qkv", hidden, hidden + 2 * kv);
    } else {
      matrix(block + "attn_q", hidden, hidden);
      matrix(block + "attn_k", hidden, kv);
      matrix(block + "attn_v", hidden, kv);
    }
    matrix(block + "attn_output", hidden, hidden);
    if (family.gate) matrix(block + "ffn_gate", hidden, mlp);
    matrix(block + "ffn_up", hidden, std::string_view(family.name) == "phi3" ? 2 * mlp : mlp);
    matrix(block + "ffn_down", mlp, hidden);
  }
  return make;
}

TEST_F(GgufModelTest, EveryArchitectureIsFusedAndRuns) {
  const std::vector<std::string> norms = {"ffn_norm"};
  const std::vector<std::string> post = {"ffn_norm", "post_attention_norm", "post_ffw_norm"};
  const Family families[] = {
      {"llama", false, false, true, false, norms, {}},
      {"qwen2", false, false, true, false, norms, {}},
      {"qwen3", false, false, true, false, norms, {"attn_q_norm", "attn_k_norm"}},
      {"gemma", false, false, true, false, norms, {}},
      {"gemma2", false, false, true, false, post, {}},
      {"phi3", false, true, false, false, norms, {}},
      {"starcoder2", true, false, false, true, norms, {}},
      {"gpt2", true, true, false, true, norms, {}},
  };
  std::vector<Floats> all;
  for (const Family& family : families) {
    GgufBuilder make = family_model(family);
    graph::FusionReport report;
    const graph::Graph graph = test::fused_graph(write(make), exact(), &report);
    EXPECT_EQ(report.coverage(), 1.0) << family.name;
    all.push_back(test::all_logits(*test::session_of(graph, exact()), {1, 7, 90, 33, 4}));
    EXPECT_GT(test::max_abs(all.back()), 0) << family.name;
  }
  // Llama and Qwen 2 differ here by nothing but which dimensions are rotated together.
  EXPECT_NE(all[0], all[1]);
}

// Where the f16 numbers of a block are.
struct Blocks {
  GgmlType type;
  size_t scale_at, scales;
};

TEST_F(GgufModelTest, QuantizedBlocksArePackedAsTheyAre) {
  for (const auto& [type, scale_at, scales] : {Blocks{GgmlType::q4_0, 0, 1},
                                               {GgmlType::q8_0, 0, 1},
                                               {GgmlType::q4_1, 0, 2},
                                               {GgmlType::q5_0, 0, 1},
                                               {GgmlType::q5_1, 0, 2},
                                               {GgmlType::q2_k, 80, 2},
                                               {GgmlType::q3_k, 108, 1},
                                               {GgmlType::q4_k, 0, 2},
                                               {GgmlType::q5_k, 0, 2},
                                               {GgmlType::q6_k, 208, 1}}) {
    SCOPED_TRACE(gguf::ggml_block(type).name);
    std::map<std::string, std::string> written;
    GgufBuilder make = llama_metadata(kTiny);
    add_tensors(
        make, kTiny,
        [&, type = type, scale_at = scale_at, scales = scales](
            GgufBuilder& m, const std::string& name, uint64_t k, uint64_t n) {
          const auto seed = static_cast<uint32_t>(written.size() + 1);
          m.tensor(name, static_cast<uint32_t>(type), {k, n},
                   written[name] = random_blocks(type, k * n, scale_at, scales, seed));
        },
        plain_norm);
    FusedOptions options = exact();
    options.weights = "int4";
    // Scales of K-quants are products, which f32 holds.
    options.scale =
        gguf::ggml_block(type).elements > 32 ? jit::ScaleType::f32 : jit::ScaleType::f16;
    const graph::Graph graph = test::fused_graph(write(make), options, nullptr);
    const std::map<std::string, std::string> names = {
        {"token_embd.weight", "token_embd.weight"},
        {"output.weight", "output.weight"},
        {"layers.1.down.weight", "blk.1.ffn_down.weight"},
        {"layers.0.o.weight", "blk.0.attn_output.weight"}};
    size_t found = 0;
    for (const graph::Value& value : graph.values) {
      const auto name = names.find(value.name);
      if (name == names.end() || !value.constant) continue;
      ++found;
      const auto& packed = std::get<runtime::PackedMatrix>(*value.constant);
      jit::WeightFormat format = *gguf::packed_format(type);
      format.scale = options.scale;
      EXPECT_EQ(packed.view.format, format);
      const std::string& bytes = written.at(name->second);
      Floats wanted(static_cast<size_t>(packed.view.n * packed.view.k));
      gguf::dequantize(type, std::as_bytes(std::span(bytes)), wanted);
      Floats column(static_cast<size_t>(packed.view.k));
      for (int64_t c = 0; c < packed.view.n; ++c) {
        jit::unpack_column(packed.view, c, column);
        ASSERT_TRUE(std::equal(column.begin(), column.end(), wanted.begin() + c * packed.view.k))
            << value.name << ", column " << c;
      }
    }
    EXPECT_EQ(found, names.size());
  }
}

// The scales and minimums of K-quants are those of the file.
TEST_F(GgufModelTest, KQuantsKeepTheirScales) {
  std::string blocks;
  GgufBuilder make = llama_metadata(kTiny);
  add_tensors(
      make, kTiny,
      [&](GgufBuilder& m, const std::string& name, uint64_t k, uint64_t n) {
        std::string bytes = random_blocks(GgmlType::q4_k, k * n, 0, 2, 1);
        if (name == "output.weight") blocks = bytes;
        m.tensor(name, static_cast<uint32_t>(GgmlType::q4_k), {k, n}, std::move(bytes));
      },
      plain_norm);
  FusedOptions options = exact();
  options.weights = "int4";
  const graph::Graph graph = test::fused_graph(write(make), options, nullptr);
  const auto head = std::find_if(graph.values.begin(), graph.values.end(),
                                 [](const auto& value) { return value.name == "output.weight"; });
  ASSERT_NE(head, graph.values.end());
  const auto& view = std::get<runtime::PackedMatrix>(*head->constant).view;
  EXPECT_EQ(view.format, *gguf::packed_format(GgmlType::q4_k));
  const auto count = static_cast<size_t>(view.n * view.k);
  std::vector<uint8_t> q(count);
  Floats scales(count / 32), minimums(count / 32), super_scales(count / 256),
      super_minimums(count / 256);
  gguf::read_numbers(GgmlType::q4_k, std::as_bytes(std::span(blocks)),
                     {q, scales, minimums, super_scales, super_minimums});
  for (size_t i = 0; i < count; ++i) {
    const auto c = static_cast<int64_t>(i) / view.k, kk = static_cast<int64_t>(i) % view.k;
    ASSERT_EQ(jit::packed_value(view, c, kk), q[i]);
    ASSERT_EQ(jit::packed_scale(view, c, kk / 32), scales[i / 32]);
    ASSERT_EQ(jit::packed_minimum(view, c, kk / 32), minimums[i / 32]);
  }
}

TEST_F(GgufModelTest, VocabularyAndTemplateBecomeDocuments) {
  GgufBuilder make = llama_metadata(kTiny);
  make.string("tokenizer.ggml.model", "llama").string("tokenizer.chat_template", "{{ messages }}");
  make.strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<|im_end|>", "▁a", "▁", "a"});
  make.numbers<float>("tokenizer.ggml.scores", 6, {0, 0, 0, 0, -1, -2, -3});
  make.numbers<int32_t>("tokenizer.ggml.token_type", 5, {2, 3, 3, 3, 1, 1, 1});
  make.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  add_tensors(make, kTiny, noisy_matrix, plain_norm);
  const graph::Graph graph = load_gguf(write(make)).graph;
  EXPECT_EQ(graph.context_length, 256);
  EXPECT_EQ(graph.bos_id, 1);
  EXPECT_EQ(graph.eos_ids, (std::vector<int64_t>{2, 3}));
  const std::string& config = graph.documents.at("tokenizer_config.json");
  EXPECT_NE(config.find(R"("chat_template":"{{ messages }}")"), std::string::npos) << config;
  EXPECT_NE(config.find(R"("eos_token":"</s>")"), std::string::npos) << config;
  const auto vocabulary =
      gguf_vocabulary_from_json(graph.documents.at(kGgufVocabularyDocument), "document");
  const auto tokenizer = Tokenizer::from_gguf(vocabulary, "document");
  EXPECT_EQ(tokenizer.encode("a", true), (std::vector<int32_t>{1, 4}));
}

TEST_F(GgufModelTest, RefusesWhatItDoesNotKnow) {
  expect_refused(llama_metadata(kTiny, "mamba"), "'general.architecture' is \"mamba\"");
  const auto with = [&](const std::function<void(GgufBuilder&)>& more) {
    GgufBuilder make = llama_metadata(kTiny);
    more(make);
    add_tensors(make, kTiny, noisy_matrix, plain_norm);
    return make;
  };
  load_gguf(write(with([](GgufBuilder&) {})));  // all below fails by what it adds alone
  expect_refused(with([](GgufBuilder& m) { m.u32("llama.expert_count", 8); }),
                 "'llama.expert_count' is 8, but 0 (mixtures of experts are not read) is expected");
  expect_refused(with([](GgufBuilder& m) { m.f32("llama.attention.value_scale", 2); }),
                 "'llama.attention.value_scale' is not known");
  expect_refused(with([](GgufBuilder& m) { m.string("llama.rope.scaling.type", "ntk"); }),
                 "'llama.rope.scaling.type' is \"ntk\", but none, linear, yarn or longrope");
  expect_refused(with([](GgufBuilder& m) { m.u32("split.count", 3); }), "one of 3 parts");
  expect_refused(with([](GgufBuilder& m) { m.u32("llama.attention.value_length", 32); }),
                 "'llama.attention.value_length' is 32, but 64 is expected");
  expect_refused(with([](GgufBuilder& m) { m.u32("llama.attention.key_length", 0); }),
                 "'llama.attention.key_length' is 0");
  expect_refused(with([](GgufBuilder& m) {
                   m.tensor("blk.0.attn_sinks.weight", 0, {4}, GgufBuilder::floats({1, 2, 3, 4}));
                 }),
                 "'blk.0.attn_sinks.weight' has no place");
  GgufBuilder empty = llama_metadata(kTiny);
  expect_refused(empty, "no tensor 'token_embd.weight'");
  Sizes other = kTiny;
  other.mlp = 512;
  GgufBuilder wrong = llama_metadata(other);
  add_tensors(wrong, kTiny, noisy_matrix, plain_norm);
  expect_refused(wrong, "'blk.0.ffn_gate.weight' has shape");
}

}  // namespace
}  // namespace nibble::frontends
