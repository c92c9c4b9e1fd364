// The program on a GGUF file: it runs, and so does what it is compiled into.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/runtime/temporary_folder.h"
#include "tests/support/gguf_builder.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

using runtime::read_file;
using runtime::TemporaryFolder;

constexpr uint32_t kQ4_0 = 2;

// A Llama of one layer and 64 dimensions with a vocabulary of bytes.
GgufBuilder tiny_model(uint32_t head_type) {
  GgufBuilder make;
  make.string("general.architecture", "llama").u32("llama.block_count", 1);
  make.u32("llama.embedding_length", 64).u32("llama.feed_forward_length", 64);
  make.u32("llama.attention.head_count", 2).u32("llama.context_length", 64);
  make.f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(fmt::format("<0x{:02X}>", byte));
  std::vector<int32_t> types(tokens.size(), 6);
  types[0] = 2;
  types[1] = types[2] = 3;
  make.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens);
  make.numbers<float>("tokenizer.ggml.scores", 6, std::vector<float>(tokens.size(), 0.0F));
  make.numbers<int32_t>("tokenizer.ggml.token_type", 5, types);
  make.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  make.string("tokenizer.chat_template", "{{ bos_token }}{{ messages[0].content }}");
  uint32_t state = 1;
  const auto matrix = [&](const std::string& name, uint64_t n, uint32_t type) {
    const size_t block = type == kQ4_0 ? 18 : 20;
    std::string bytes;
    for (uint64_t i = 0; i < n * 2; ++i) {
      bytes += GgufBuilder::number(uint16_t{0x2400});  // 1/64
      for (size_t j = 2; j < block; ++j) {
        state = state * 1664525U + 1013904223U;
        // Q4_1 has its minimum here; small ones.
        bytes += static_cast<char>(block == 20 && j < 4 ? 0 : state >> 24);
      }
    }
    make.tensor(name, type, {64, n}, bytes);
  };
  const std::string ones = GgufBuilder::floats(std::vector<float>(64, 1.0F));
  matrix("token_embd.weight", tokens.size(), kQ4_0);
  matrix("output.weight", tokens.size(), head_type);
  for (const char* name :
       {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
    matrix(fmt::format("blk.0.{}.weight", name), 64, kQ4_0);
  }
  for (const char* name : {"output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"}) {
    make.tensor(std::string(name) + ".weight", 0, {64}, ones);
  }
  return make;
}

TEST(Gguf, AFileAnswersAsItsNibDoes) {
  const TemporaryFolder folder;
  const std::string model = folder.write("tiny.gguf", tiny_model(kQ4_0).file());
  const std::string nib = folder.path("tiny.nib");
  const Outcome compiled = nibble({"compile", model, "-o", nib});
  ASSERT_EQ(compiled.code, 0) << compiled.err;
  EXPECT_EQ(compiled.err.find("quantized again"), std::string::npos) << compiled.err;
  std::vector<nlohmann::json> found;
  for (const std::string& source : {model, nib}) {
    const Outcome run = nibble({"run", source, "-p", "ab", "-n", "8", "--greedy", "--json"});
    ASSERT_EQ(run.code, 0) << run.err;
    found.push_back(nlohmann::json::parse(run.out).at("ids"));
    const Outcome tokens = nibble({"tokenize", source, "ab", "--special", "--json"});
    ASSERT_EQ(tokens.code, 0) << tokens.err;
    EXPECT_EQ(nlohmann::json::parse(tokens.out).at("ids")[0], 1);
    const std::string talk = folder.write("talk.json", R"([{"role":"user","content":"hello"}])");
    const Outcome prompt = nibble({"chat-template", source, "--input", talk});
    ASSERT_EQ(prompt.code, 0) << prompt.err;
    EXPECT_NE(prompt.out.find("<s>hello"), std::string::npos) << prompt.out;
  }
  EXPECT_EQ(found[0], found[1]);
}

TEST(Gguf, SaysOnceWhatIsQuantizedAgain) {
  constexpr uint32_t kQ4_1 = 3;
  const TemporaryFolder folder;
  const std::string model = folder.write("tiny.gguf", tiny_model(kQ4_1).file());
  const Outcome run = nibble({"run", model, "-p", "ab", "-n", "2"});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.err.find("1 tensors of "), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("(1 of q4_1) are quantized again"), std::string::npos) << run.err;
  const Outcome exact = nibble({"run", model, "-p", "ab", "-n", "2", "--weights", "f32"});
  EXPECT_EQ(exact.err.find("quantized again"), std::string::npos) << exact.err;
}

}  // namespace
}  // namespace nibble::test
