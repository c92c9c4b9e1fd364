// The program on a GGUF file: it runs, and so does what it is compiled into.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "frontends/gguf/gguf_file.h"
#include "graph/nib_model.h"
#include "jit/float16.h"
#include "jit/packed_layout.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/gguf_builder.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

using runtime::read_file;
using runtime::TemporaryFolder;

constexpr uint32_t kQ4_0 = 2, kQ4_1 = 3, kQ4_K = 12;

// A Llama of one layer with a vocabulary of bytes.
// With `rest`, the tensors of the layer are put there.
GgufBuilder tiny_model(uint32_t head_type, GgufBuilder* rest = nullptr, uint32_t width = 64) {
  GgufBuilder make;
  const auto place = [&](const std::string& name) -> GgufBuilder& {
    return rest != nullptr && name.starts_with("blk.") ? *rest : make;
  };
  make.string("general.architecture", "llama").u32("llama.block_count", 1);
  make.u32("llama.embedding_length", width).u32("llama.feed_forward_length", width);
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
    const size_t block = type == kQ4_0 ? 18 : type == kQ4_1 ? 20 : 144;
    std::string bytes;
    for (uint64_t i = 0; i < n * width / (type == kQ4_K ? 256 : 32); ++i) {
      // 1/64 to 1/32, of which each block has its own.
      bytes += GgufBuilder::number(static_cast<uint16_t>(0x2400 + state % 1024));
      for (size_t j = 2; j < block; ++j) {
        state = state * 1664525U + 1013904223U;
        // Where there are minimums they, or their scale, are here; small ones.
        bytes += static_cast<char>(type != kQ4_0 && j < 4 ? 0 : state >> 24);
      }
    }
    place(name).tensor(name, type, {width, n}, bytes);
  };
  const std::string ones = GgufBuilder::floats(std::vector<float>(width, 1.0F));
  matrix("token_embd.weight", tokens.size(), kQ4_0);
  matrix("output.weight", tokens.size(), head_type);
  for (const char* name :
       {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
    matrix(fmt::format("blk.0.{}.weight", name), width, kQ4_0);
  }
  for (const char* name : {"output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"}) {
    place(name).tensor(std::string(name) + ".weight", 0, {width}, ones);
  }
  return make;
}

TEST(Gguf, AFolderOfPartsAnswersAsTheWholeFileDoes) {
  const TemporaryFolder folder;
  GgufBuilder second;
  GgufBuilder first = tiny_model(kQ4_0, &second);
  uint32_t no = 0;
  for (GgufBuilder* part : {&first, &second}) part->u32("split.no", no++).u32("split.count", 2);
  folder.write("m-00001-of-00002.gguf", first.file());
  const std::string last = folder.write("m-00002-of-00002.gguf", second.file());
  const TemporaryFolder other;
  const std::string whole = other.write("tiny.gguf", tiny_model(kQ4_0).file());
  std::vector<std::string> found;
  for (const std::string& source : {whole, folder.path(""), last}) {
    const Outcome run = nibble({"run", source, "-p", "ab", "-n", "8", "--greedy", "--json"});
    ASSERT_EQ(run.code, 0) << run.err;
    found.push_back(nlohmann::json::parse(run.out).at("ids").dump());
  }
  EXPECT_EQ(found[1], found[0]);
  EXPECT_EQ(found[2], found[0]);
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

// Rows of Q4_0 blocks: of all tensors of a file as they stand there, and made again of the columns
// that a .nib has.
std::multiset<std::string> rows_of_file(const std::string& path) {
  std::multiset<std::string> rows;
  const auto file = frontends::gguf::File::open(path);
  for (const frontends::gguf::Tensor& tensor : file.tensors()) {
    if (tensor.type != frontends::gguf::GgmlType::q4_0) continue;
    const auto count = static_cast<size_t>(tensor.shape[0]), size = tensor.data.size() / count;
    const auto* bytes = reinterpret_cast<const char*>(tensor.data.data());
    for (size_t row = 0; row < count; ++row) rows.emplace(bytes + row * size, size);
  }
  return rows;
}

std::string blocks_of_column(const jit::PackedView& view, int64_t column) {
  std::string row;
  for (int64_t group = 0; group < view.k / 32; ++group) {
    row += GgufBuilder::number(jit::f32_to_f16(jit::packed_scale(view, column, group)));
    for (int64_t i = group * 32; i < group * 32 + 16; ++i) {
      const int low = jit::packed_value(view, column, i);
      row += static_cast<char>(low | jit::packed_value(view, column, i + 16) << 4);
    }
  }
  return row;
}

TEST(Gguf, BlocksOfQ4_0ComeThroughTheNibBitForBit) {
  const TemporaryFolder folder;
  const std::string model = folder.write("tiny.gguf", tiny_model(kQ4_0).file());
  const std::string nib = folder.path("tiny.nib");
  const Outcome compiled = nibble({"compile", model, "-o", nib});
  ASSERT_EQ(compiled.code, 0) << compiled.err;
  std::multiset<std::string> found;
  const graph::Graph graph = graph::read_nib_model(nib, nullptr);
  for (const graph::Value& value : graph.values) {
    if (!value.constant || !std::holds_alternative<runtime::PackedMatrix>(*value.constant))
      continue;
    const jit::PackedView& view = std::get<runtime::PackedMatrix>(*value.constant).view;
    EXPECT_EQ(view.format.type, jit::WeightType::u4) << value.name;
    EXPECT_EQ(view.format.group, 32) << value.name;
    for (int64_t c = 0; c < view.n; ++c) found.insert(blocks_of_column(view, c));
  }
  const auto wanted = rows_of_file(model);
  ASSERT_EQ(wanted.size(), 2U * 259 + 7 * 64);
  EXPECT_TRUE(found == wanted);
}

TEST(Gguf, NumbersOfItsOwnNeedNoWarning) {
  const TemporaryFolder folder;
  const std::string files[] = {folder.write("q4_1.gguf", tiny_model(kQ4_1).file()),
                               folder.write("q4_k.gguf", tiny_model(kQ4_K, nullptr, 256).file())};
  for (const std::string& file : files) {
    const Outcome run = nibble({"run", file, "-p", "ab", "-n", "2"});
    EXPECT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(run.err.find("warning"), std::string::npos) << run.err;
  }
}

}  // namespace
}  // namespace nibble::test
