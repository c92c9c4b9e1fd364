// The program on Hugging Face folders.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/runtime/temporary_folder.h"
#include "tests/support/zoo.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

namespace fs = std::filesystem;
using runtime::read_file;
using runtime::TemporaryFolder;

// A folder of the zoo without its export.
std::string folder_without_onnx(const TemporaryFolder& folder, const std::string& family) {
  const std::string target = folder.path("hf");
  fs::create_directories(target);
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::copy(zoo_folder(family) + "/" + name, target + "/" + name);
  }
  return target;
}

TEST(Safetensors, AFolderAnswersAsItsExportDoesAndAsItsNib) {
  NIBBLE_NEED_MODELS();
  const TemporaryFolder folder;
  const std::string model = folder_without_onnx(folder, "gpt-neox");
  const std::string nib = folder.path("model.nib"), ids = zoo_folder("gpt-neox") + "/input_ids.npy";
  ASSERT_EQ(nibble({"compile", model, "-o", nib, "--weights", "int4"}).code, 0);
  std::vector<std::string> found;
  for (const std::string& source : {zoo_folder("gpt-neox"), model, nib}) {
    const std::string out = folder.path("logits.npy");
    std::vector<std::string> arguments = {"logits", source, "--ids", ids, "-o", out};
    if (source != nib) arguments.insert(arguments.end(), {"--weights", "int4"});
    const Outcome outcome = nibble(arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    found.push_back(read_file(out));
  }
  EXPECT_EQ(found[1], found[0]);
  EXPECT_EQ(found[2], found[0]);
}

TEST(Safetensors, TheTokenizerTravelsInTheNib) {
  NIBBLE_NEED_MODELS();
  const TemporaryFolder folder;
  const std::string nib = folder.path("tale.nib");
  ASSERT_EQ(nibble({"compile", tale_folder("hf"), "-o", nib}).code, 0);
  std::string texts[2];
  for (int i = 0; i < 2; ++i) {
    const std::string model = i == 0 ? tale_folder("hf") : nib;
    const Outcome run = nibble({"run", model, "-p", "Once upon a time", "-n", "12", "--greedy"});
    ASSERT_EQ(run.code, 0) << run.err;
    texts[i] = run.out;
  }
  EXPECT_GT(texts[0].size(), 12U);
  EXPECT_EQ(texts[1], texts[0]);
}

TEST(Safetensors, InspectSaysWhichDescriptionWasUsed) {
  NIBBLE_NEED_MODELS();
  const Outcome outcome =
      nibble({"inspect", zoo_folder("mpt") + "/model.safetensors", "--fusion", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto report = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(report["coverage"], 1.0);
  EXPECT_EQ(report["entries"][0]["what"], "description");
  EXPECT_NE(report["entries"][0]["detail"].get<std::string>().find("mpt: 2 layers"),
            std::string::npos);
}

TEST(Safetensors, AFolderThatHoldsTwoModelsIsRefused) {
  NIBBLE_NEED_MODELS();
  const TemporaryFolder folder;
  const std::string model = folder_without_onnx(folder, "llama");
  folder.write("hf/other.nib", "");
  const Outcome outcome = nibble({"run", model, "--ids", "1", "-n", "1"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("holds both model.safetensors and other.nib"), std::string::npos)
      << outcome.err;
}

}  // namespace
}  // namespace nibble::test
