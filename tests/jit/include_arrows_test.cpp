#include "tests/support/include_arrows.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace nibble::test {
namespace {

TEST(IncludeArrows, OfTheWholeTreePointTheRightWay) {
  const std::vector<Include> includes = read_includes(NIBBLE_SOURCE_DIR);
  EXPECT_GT(includes.size(), 100U);  // the rooms were found and read
  for (const std::string& sentence : wrong_arrows(includes)) ADD_FAILURE() << sentence;
}

TEST(IncludeArrows, RightOnesPass) {
  EXPECT_EQ(wrong_arrows({{"jit/isa.cpp", "jit/isa.h"},
                          {"runtime/plan.h", "jit/gemm.h"},
                          {"graph/lower.cpp", "runtime/plan.h"},
                          {"quant/formats/rtn.cpp", "graph/graph.h"},
                          {"frontends/onnx/onnx.cpp", "graph/graph.h"},
                          {"frontends/tokenizer/tokenizer.cpp", "jit/error.h"},
                          {"frontends/tokenizer/tokenizer.cpp", "runtime/mapped_file.h"},
                          {"frontends/tokenizer/sentencepiece_proto.cpp", "frontends/wire/wire.h"},
                          {"frontends/onnx/model_proto.h", "frontends/wire/wire.h"},
                          {"frontends/chat/lexer.cpp", "frontends/tokenizer/unicode.h"},
                          {"frontends/gguf/gguf_model.cpp", "frontends/decoder/weights.h"},
                          {"tools/cli/main.cpp", "frontends/tokenizer/tokenizer.h"},
                          {"tools/cli/main.cpp", "quant/formats/quantize.h"},
                          {"perf/gemm_bench.cpp", "tools/cli/bench.h"},
                          {"tests/jit/isa_test.cpp", "tests/support/guarded_buffer.h"}}),
            std::vector<std::string>{});
}

TEST(IncludeArrows, WrongOnesAreReported) {
  const std::vector<Include> wrong = {{"jit/isa.cpp", "runtime/plan.h"},
                                      {"runtime/session.cpp", "graph/graph.h"},
                                      {"graph/lower.cpp", "quant/formats/rtn.h"},
                                      {"graph/lower.cpp", "frontends/onnx/onnx.h"},
                                      {"quant/formats/rtn.cpp", "frontends/onnx/onnx.h"},
                                      {"frontends/onnx/onnx.cpp", "quant/formats/rtn.h"},
                                      {"frontends/tokenizer/bpe.cpp", "graph/graph.h"},
                                      {"frontends/tokenizer/bpe.cpp", "frontends/chat/lexer.h"},
                                      {"frontends/onnx/onnx.cpp", "frontends/gguf/gguf_file.h"},
                                      {"frontends/gguf/rotation.h", "frontends/safetensors/a.h"},
                                      {"frontends/decoder/a.h", "frontends/safetensors/a.h"},
                                      {"frontends/documents/a.h", "frontends/onnx/onnx.h"},
                                      {"frontends/wire/wire.cpp", "frontends/onnx/onnx.h"},
                                      {"tools/cli/main.cpp", "perf/roofline.h"},
                                      {"tools/cli/main.cpp", "tests/support/shared_files.h"},
                                      {"jit/isa.cpp", "isa.h"},
                                      {"quant/formats/rtn.cpp", "graph/../frontends/onnx/onnx.h"},
                                      {"jit/isa.cpp", "vendor/isa.h"}};
  for (const Include& include : wrong) {
    EXPECT_EQ(wrong_arrows({include}).size(), 1U) << include.file << " " << include.target;
  }
  EXPECT_EQ(wrong_arrows({{"jit/isa.cpp", "runtime/plan.h"}}).front(),
            "jit/isa.cpp includes \"runtime/plan.h\", but jit must not look into runtime");
}

// What the first test relies on: lines are found however they are spaced, and only quoted ones.
TEST(IncludeArrows, LinesAreReadFromFiles) {
  const auto root = std::filesystem::path(testing::TempDir()) / "include_arrows";
  std::filesystem::create_directories(root / "jit" / "deep");
  std::ofstream(root / "jit" / "deep" / "a.h")
      << "#include <vector>\n#include \"jit/b.h\"\n  #  include  \"graph/c.h\"  // why\n"
      << "// #include \"quant/d.h\"\n";
  std::ofstream(root / "jit" / "notes.txt") << "#include \"graph/c.h\"\n";
  const std::vector<Include> found = read_includes(root);
  std::filesystem::remove_all(root);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].file, "jit/deep/a.h");
  EXPECT_EQ(found[0].target, "jit/b.h");
  EXPECT_EQ(found[1].target, "graph/c.h");
}

}  // namespace
}  // namespace nibble::test
