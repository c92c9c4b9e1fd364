// How much memory the program takes for models that are much larger than any one of their matrices.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "graph/nib_model.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/random_model.h"
#include "tests/support/sanitized.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

constexpr double kMb = 1 << 20;

// 200 MB of fp16 weights, of which no matmul has more than 16.
constexpr RandomModel kLarge = {
    .layers = 6, .hidden = 1024, .mlp = 4096, .heads = 8, .kv_heads = 8, .vocabulary = 2048};
// What is in memory at a time: gate and up of one layer in fp16 and packed, and a huge page for
// each vector, as the kernel maps whatever lies beside it along with it.
constexpr double kWindowMb = 16 + 5 + 2.0 * (2 * 6 + 1);

double size_mb(const std::string& path) {
  return static_cast<double>(std::filesystem::file_size(path)) / kMb;
}

// What a program of this kind takes for a model of nearly nothing.
double resting_mb(const runtime::TemporaryFolder& folder) {
  write_onnx({}, folder.path("tiny"));
  return json_of({"compile", folder.path("tiny"), "-o", folder.path("tiny.nib"), "--json"})
      .at("peak_rss_mb");
}

// Every weight is read from the mapped export, packed, written and let go: the peak must grow
// neither with the export nor with the .nib, but with the largest matrix alone.
TEST(Memory, CompilingStreamsThroughTheWeights) {
  if (sanitized()) GTEST_SKIP() << "AddressSanitizer keeps what is freed";
  const runtime::TemporaryFolder folder;
  const double resting = resting_mb(folder);
  write_onnx(kLarge, folder.path("large"));
  const std::string nib = folder.path("large.nib");
  const auto compiled = json_of({"compile", folder.path("large"), "-o", nib, "--json"});
  ASSERT_TRUE(compiled.is_object());
  EXPECT_EQ(compiled["coverage"], 1.0);
  ASSERT_GT(size_mb(folder.path("large/model.onnx.data")), 190);
  ASSERT_GT(size_mb(nib), 50);
  EXPECT_LT(compiled["peak_rss_mb"].get<double>() - resting, kWindowMb + 20);
}

// Of a .nib the weights stay where they are mapped.
TEST(Memory, LoadingDoesNotDouble) {
  if (sanitized()) GTEST_SKIP() << "AddressSanitizer keeps what is freed";
  const runtime::TemporaryFolder folder;
  const double resting = resting_mb(folder);
  write_onnx(kLarge, folder.path("large"));
  const std::string nib = folder.path("large.nib");
  json_of({"compile", folder.path("large"), "-o", nib, "--json"});
  const std::vector<std::string> rest = {"--ids", "1,2,3", "-n", "4", "--greedy", "--json"};
  const auto peak = [&](const std::string& model) -> double {
    std::vector<std::string> arguments = {"run", model};
    arguments.insert(arguments.end(), rest.begin(), rest.end());
    return json_of(arguments).at("peak_rss_mb").get<double>() - resting;
  };
  // Arena, scratch and machine code come on top of the weights, and are far below as much again.
  EXPECT_LT(peak(nib), size_mb(nib) + 25);
  // Quantized on the way: the packed weights are there, the export's are gone.
  EXPECT_LT(peak(folder.path("large")), size_mb(nib) + kWindowMb + 40);
}

// An embedding table that is the output matrix as well takes its place once, whatever it was read
// from.
TEST(Memory, TiedWeightsAreStoredOnce) {
  const runtime::TemporaryFolder folder;
  RandomModel model{.vocabulary = 8192};  // most of what there is
  std::vector<std::pair<std::string, double>> sizes[2];
  for (const bool tied : {false, true}) {
    model.tied = tied;
    const std::string name = tied ? "tied" : "apart";
    write_onnx(model, folder.path(name + "/onnx"));
    write_safetensors(model, folder.path(name + "/hf"));
    write_gguf(model, folder.path(name + "/model.gguf"));
    for (const char* form : {"/onnx", "/hf", "/model.gguf"}) {
      const std::string nib = folder.path(name + ".nib");
      json_of({"compile", folder.path(name + form), "-o", nib, "--json", "--group", "32"});
      sizes[tied ? 1 : 0].emplace_back(form, size_mb(nib));
    }
  }
  // int8 with an fp16 scale for each 32.
  const double table = 8192.0 * 64 * (1 + 2.0 / 32) / kMb;
  for (size_t i = 0; i < 3; ++i) {
    const auto& [form, apart] = sizes[0][i];
    EXPECT_NEAR(apart - sizes[1][i].second, table, 0.02) << form;
  }
}

}  // namespace
}  // namespace nibble::test
