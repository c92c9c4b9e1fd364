// nibble export: from a .nib to folders that other programs, and this one, read.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/runtime/temporary_folder.h"
#include "tests/support/zoo.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

using runtime::read_file;
using runtime::TemporaryFolder;

std::string logits_of(const std::string& model, const TemporaryFolder& folder) {
  const std::string ids = zoo_folder("qwen2") + "/input_ids.npy", out = folder.path("logits.npy");
  const Outcome outcome = nibble({"logits", model, "--ids", ids, "-o", out});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return read_file(out);
}

TEST(Export, BothFormatsAnswerAsTheNib) {
  NIBBLE_NEED_MODELS();
  const TemporaryFolder folder;
  const std::string nib = folder.path("model.nib");
  ASSERT_EQ(nibble({"compile", zoo_folder("qwen2"), "-o", nib, "--asym"}).code, 0);
  const std::string wanted = logits_of(nib, folder);
  for (const char* format : {"onnx", "gptq"}) {
    const std::string out = folder.path(format);
    const Outcome outcome = nibble({"export", nib, "-o", out, "--format", format, "--json"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto report = nlohmann::json::parse(outcome.out);
    EXPECT_EQ(report["format"], format);
    EXPECT_GT(report["bytes"], 100000);
    // What is not int4 already, the head of GPTQ, is quantized as before.
    const std::string again = folder.path(std::string(format) + ".nib");
    ASSERT_EQ(nibble({"compile", out, "-o", again}).code, 0);
    if (std::string(format) == "onnx") {
      EXPECT_TRUE(logits_of(again, folder) == wanted) << format;
    }
    EXPECT_EQ(std::filesystem::exists(folder.path(std::string(format) + "/config.json")), true);
  }
}

TEST(Export, WrongUsageIsExplained) {
  NIBBLE_NEED_MODELS();
  const TemporaryFolder folder;
  const Outcome source = nibble({"export", zoo_folder("llama"), "-o", folder.path("out")});
  EXPECT_EQ(source.code, 2);
  EXPECT_NE(source.err.find("is not compiled yet"), std::string::npos) << source.err;
  const std::string nib = folder.path("model.nib");
  ASSERT_EQ(nibble({"compile", zoo_folder("llama"), "-o", nib, "--weights", "int8"}).code, 0);
  const Outcome version = nibble({"export", nib, "-o", folder.path("out"), "--gptq-v2"});
  EXPECT_EQ(version.code, 2);
  const Outcome wide = nibble({"export", nib, "-o", folder.path("out"), "--format", "gptq"});
  EXPECT_EQ(wide.code, 1);
  EXPECT_NE(wide.err.find("--weights int4"), std::string::npos) << wide.err;
  EXPECT_FALSE(std::filesystem::exists(folder.path("out")));
}

}  // namespace
}  // namespace nibble::test
