// The program against the reference answers of every family and of the trained model.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/runtime/temporary_folder.h"
#include "tests/support/zoo.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

class Family : public testing::TestWithParam<std::string> {};

// Both batch rows of the logits, and the greedy ids, as a user would ask for them.
void expect_reference(const std::string& family, const std::vector<std::string>& options) {
  SCOPED_TRACE(family + " " + testing::PrintToString(options));
  const runtime::TemporaryFolder folder;
  const Reference reference = zoo_reference(family);
  const std::string model = zoo_folder(family), out = folder.path("logits.npy");
  std::vector<std::string> arguments = {"logits", model, "--ids",     model + "/input_ids.npy",
                                        "-o",     out,   "--weights", "f32"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  const Outcome logits = nibble(arguments);
  ASSERT_EQ(logits.code, 0) << logits.err;
  const Npy<float> found = read_npy_f32(out);
  ASSERT_EQ(found.shape, reference.logits.shape);
  const float limit = 1e-3F * max_abs(reference.logits.values);
  EXPECT_LE(max_abs_difference(found.values, reference.logits.values), limit);

  arguments = {
      "run",      model,   "--ids",     fmt::format("{}", fmt::join(reference.prompt, ",")),
      "-n",       "24",    "--weights", "f32",
      "--greedy", "--json"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  const Outcome run = nibble(arguments);
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(nlohmann::json::parse(run.out)["ids"].get<std::vector<int32_t>>(), reference.greedy);
}

TEST_P(Family, LogitsAndGreedyIdsAreThoseOfTheReference) {
  NIBBLE_NEED_MODELS();
  expect_reference(GetParam(), {});
}

TEST_P(Family, UnfusedToo) {
  NIBBLE_NEED_MODELS();
  expect_reference(GetParam(), {"--no-fuse"});
}

INSTANTIATE_TEST_SUITE_P(Zoo, Family,
                         testing::ValuesIn(zoo_families().begin(), zoo_families().end()),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(Tale, LogitsOfTheFp32ExportAreWithinOneInTenThousand) {
  NIBBLE_NEED_MODELS();
  const runtime::TemporaryFolder folder;
  const Reference reference = tale_reference();
  const std::string ids = folder.path("ids.npy"), out = folder.path("logits.npy");
  write_npy(ids, reference.input_ids);
  const Outcome outcome =
      nibble({"logits", tale_folder("onnx-fp32"), "--ids", ids, "-o", out, "--weights", "f32"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_LE(max_abs_difference(read_npy_f32(out).values, reference.logits.values),
            1e-4F * max_abs(reference.logits.values));
}

}  // namespace
}  // namespace nibble::test
