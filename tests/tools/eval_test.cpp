// `nibble eval` on the bundled model, and the figures that its larger form is published with.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/runtime/temporary_folder.h"
#include "tests/support/sanitized.h"
#include "tests/support/zoo.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

using runtime::TemporaryFolder;
using Json = nlohmann::json;

Json eval(const Arguments& arguments) {
  const Outcome outcome = nibble(Arguments{"eval"} + arguments + Arguments{"--json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  return Json::parse(outcome.out, nullptr, false);
}

// A few hundred tokens of the kind that the model knows.
constexpr const char* kTale =
    "Once upon a time there was a king who had three sons. The eldest was proud, the second was "
    "idle, but the youngest was kind to every creature that he met.\n"
    "One day the king fell ill, and the wise men of the land said that nothing could save him but "
    "the water of life, which lay beyond the mountains. So the eldest son took his horse and rode "
    "away into the forest.\n"
    "He had not gone far when he met an old woman, who asked him for a piece of bread. But he "
    "would not stop, and rode on, and was never seen again. Then the second son set out, and it "
    "went no better with him.\n"
    "At last the youngest said to his father that he would go, and the king wept and gave him his "
    "blessing. He shared his bread with the old woman, and she told him the way to the castle of "
    "the water of life.\n";

class Eval : public testing::Test {
 protected:
  std::string tale() { return folder_.write("tale.txt", kTale); }
  TemporaryFolder folder_;
};

TEST_F(Eval, PerplexityIsThatOfTheLogits) {
  const Json all = eval({"perplexity", demo_model(), tale(), "--window", "64", "--bos", "yes"});
  const auto tokens =
      Json::parse(nibble({"tokenize", demo_model(), "-f", tale(), "--json"}).out)["ids"];
  EXPECT_EQ(all["tokens"], tokens.size());  // with a bos, all are scored
  EXPECT_EQ(all["bos"], "windows");
  EXPECT_EQ(all["stride"], 64);
  // Once more from the first 64 rows of `nibble logits`.
  Npy<int64_t> ids{{1, 64}, {0}};
  for (size_t i = 0; i < 63; ++i) ids.values.push_back(tokens[i].get<int64_t>());
  write_npy(folder_.path("ids.npy"), ids);
  ASSERT_EQ(nibble({"logits", demo_model(), "--ids", folder_.path("ids.npy"), "-o",
                    folder_.path("logits.npy")})
                .code,
            0);
  const auto logits = read_npy_f32(folder_.path("logits.npy"));
  double nll = 0;
  for (size_t row = 0; row < 64; ++row) {
    double sum = 0;
    const float* at = logits.values.data() + row * 4096;
    for (size_t i = 0; i < 4096; ++i) sum += std::exp(static_cast<double>(at[i]));
    nll += std::log(sum) - static_cast<double>(at[tokens[row].get<size_t>()]);
  }
  const Json first = eval({"perplexity", demo_model(), tale(), "--max-tokens", "65"});
  EXPECT_EQ(first["tokens"], 64);
  EXPECT_NEAR(first["nll"].get<double>(), nll / 64, 1e-6);
  EXPECT_NEAR(first["perplexity"].get<double>(), std::exp(nll / 64), 1e-4);
  EXPECT_LT(first["ci"][0], first["perplexity"]);
  EXPECT_GT(first["ci"][1], first["perplexity"]);
}

TEST_F(Eval, ProtocolsDifferAsTheyShould) {
  const Arguments base = {"perplexity", demo_model(),   tale(), "--window",
                          "64",         "--max-tokens", "129"};
  const Json all = eval(base);
  EXPECT_EQ(all["bos"], "text");
  EXPECT_EQ(all["tokens"], 128);
  const Json overlap = eval(base + Arguments{"--stride", "16"});
  EXPECT_EQ(overlap["tokens"], 128);
  EXPECT_LT(overlap["perplexity"], all["perplexity"]) << "more context should help";
  EXPECT_EQ(eval(base + Arguments{"--score", "half"})["tokens"], 64);
  const Json bare = eval(base + Arguments{"--bos", "no"});
  EXPECT_EQ(bare["tokens"], 128);  // one more of the text at its end
  EXPECT_EQ(bare["bos"], "none");
  const Json each = eval(base + Arguments{"--bos", "yes"});
  EXPECT_EQ(each["tokens"], 129);
  EXPECT_NE(each["perplexity"], all["perplexity"]);
  EXPECT_EQ(eval(base + Arguments{"--threads", "1", "--chunk", "5"})["perplexity"],
            all["perplexity"]);
}

TEST_F(Eval, AModelIsNoDistanceFromItself) {
  const Json same = eval({"kl", demo_model(), tale(), "--base", demo_model(), "--base-weights",
                          "int4", "--max-tokens", "100"});
  EXPECT_EQ(same["kl"], 0);
  EXPECT_EQ(same["kl_max"], 0);
  EXPECT_EQ(same["top1"], 1);
  EXPECT_EQ(same["delta_nll"], 0);
  EXPECT_EQ(same["perplexity"], same["base_perplexity"]);
}

TEST_F(Eval, ABaseIsInFullPrecisionUnlessSaidOtherwise) {
  const Arguments base = {"perplexity", demo_model(), tale(), "--max-tokens", "200"};
  const Json exact = eval(base + Arguments{"--weights", "f32"});
  const Json int4 = eval(base + Arguments{"--base", demo_model()});
  EXPECT_EQ(exact["compute"], "f32");
  EXPECT_EQ(int4["base_compute"], "f32");
  EXPECT_EQ(int4["base_perplexity"], exact["perplexity"]);
  EXPECT_EQ(int4["perplexity"], eval(base)["perplexity"]);
  EXPECT_GT(int4["kl"], 1e-4);
  EXPECT_LT(int4["kl"], 0.1);
  EXPECT_LT(int4["top1"], 1);
  EXPECT_NEAR(int4["ratio"].get<double>(),
              int4["perplexity"].get<double>() / exact["perplexity"].get<double>(), 1e-9);
  const Json int8 = eval(base + Arguments{"--weights", "int8", "--base", demo_model()});
  EXPECT_LT(int8["kl"], int4["kl"]);
}

TEST_F(Eval, ClozeFindsWhatGreedyDecodingWouldSay) {
  const std::string start = "Once upon a time there was a";
  const Json run =
      Json::parse(nibble({"run", demo_model(), "-p", start, "-n", "1", "--greedy", "--json"}).out);
  const std::string word = run["text"];
  ASSERT_TRUE(word.starts_with(" ")) << word;
  const std::string data = folder_.write(
      "cloze.jsonl", Json({{"text", start + word}}).dump() + "\n" +
                         Json({{"text", start + " zebra"}}).dump() + "\n{\"text\": \"Title\"}\n");
  const Json json = eval({"cloze", demo_model(), data, "--base", demo_model()});
  EXPECT_EQ(json["items"], 2);
  EXPECT_EQ(json["skipped"], 1);
  EXPECT_EQ(json["accuracy"], 0.5);
  EXPECT_EQ(json["base_accuracy"], 0.5);
  EXPECT_EQ(json["mcnemar"]["p"], 1);
  EXPECT_GT(json["perplexity"], 1);
  EXPECT_LT(json["accuracy_ci"][0], 0.5);
  const Json one = eval({"cloze", demo_model(), data, "--max-items", "1"});
  EXPECT_EQ(one["accuracy"], 1);
  EXPECT_EQ(one["items"], 1);
}

// A continuation's likelihood is its share of the text's, however the question is written.
TEST_F(Eval, ChoicesAreScoredByWhatFollows) {
  const std::string data = folder_.write(
      "choice.jsonl",
      R"({"context": "Once upon a", "choices": ["time", "quantum", "zebra"], "label": 0})"
      "\n"
      R"({"ctx": "Once upon a", "endings": ["zebra", "time"], "label": "1"})"
      "\n"
      R"({"goal": "x", "sol1": "Once upon a time there was a king", "sol2": "zqxv", "label": 1})"
      "\n"
      R"({"sentence": "Once upon _ time there was a king", "option1": "a", "option2": "zq", )"
      R"("answer": "1"})"
      "\n");
  const Json json = eval({"choice", demo_model(), data, "--base", demo_model()});
  EXPECT_EQ(json["items"], 4);
  EXPECT_GE(json["acc"], 0.75);  // the third is a matter of taste
  EXPECT_GE(json["acc_norm"], 0.5);
  EXPECT_EQ(json["truncated"], 0);
  for (const char* key : {"paired_acc", "paired_acc_norm"}) {
    EXPECT_TRUE(json[key]["mcnemar"].contains("p")) << key;
  }
  EXPECT_NE(json["delta_nll"], 0);
  // Of equal choices the first is taken: right and wrong by the label alone.
  const std::string equal = folder_.write(
      "equal.jsonl", R"({"context": "Once", "choices": ["upon", "upon"], "label": 0})"
                     "\n"
                     R"({"context": "Once", "choices": ["upon", "upon"], "label": 1})");
  EXPECT_EQ(eval({"choice", demo_model(), equal})["acc"], 0.5);
}

TEST_F(Eval, PrintsFiguresForPeople) {
  const Outcome text = nibble(
      {"eval", "perplexity", demo_model(), tale(), "--max-tokens", "64", "--base", demo_model()});
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* part : {"perplexity", "KL", "top 1", "windows of 512", "id 0 before the text"}) {
    EXPECT_NE(text.out.find(part), std::string::npos) << part << "\n" << text.out;
  }
  const Outcome cloze = nibble({"eval", "cloze", demo_model(), tale(), "--base", demo_model()});
  EXPECT_NE(cloze.out.find("of 4 last words"), std::string::npos) << cloze.out << cloze.err;
  EXPECT_NE(cloze.out.find("p = "), std::string::npos) << cloze.out;
  EXPECT_EQ(nibble({"eval", "kl", "--help"}).code, 0);
}

TEST_F(Eval, RefusesWhatItCannotScore) {
  const auto expect = [](const Arguments& arguments, int code, const std::string& part) {
    SCOPED_TRACE(testing::PrintToString(arguments));
    const Outcome outcome = nibble(Arguments{"eval"} + arguments);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.messages(), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  };
  const std::string text = tale(), empty = folder_.write("empty.txt", "");
  expect({"perplexity", demo_model(), folder_.path("absent.txt")}, 1, "absent.txt");
  expect({"perplexity", demo_model(), empty}, 1, "empty.txt: The text is too short");
  expect({"perplexity", demo_model(), text, "--score", "half", "--window", "1000"}, 1, "too short");
  expect({"perplexity", demo_model(), text, "--window", "2000"}, 1, "context holds 1024");
  expect({"perplexity", demo_model(), text, "--window", "8", "--stride", "9"}, 2, "--stride");
  expect({"perplexity", demo_model(), text, "--windw", "8"}, 2, "Did you mean '--window'?");
  expect({"kl", demo_model(), text}, 2, "--base");
  expect({}, 2, "--help");
  expect({"choice", demo_model(), folder_.write("q.jsonl", "{\"goal\": 1}")}, 1, "\"goal\"");
  expect({"cloze", demo_model(), empty}, 1, "two words");
  // A model without its tokenizer.
  const std::string bare = folder_.path("bare");
  std::filesystem::copy(demo_model(), bare);
  std::filesystem::remove(bare + "/tokenizer.json");
  expect({"perplexity", bare, text}, 1, "no tokenizer.json");
  // A .nib as a base has its weights already.
  const std::string nib = folder_.path("tale.nib");
  ASSERT_EQ(nibble({"compile", demo_model(), "-o", nib}).code, 0);
  expect({"kl", demo_model(), text, "--base", nib, "--base-weights", "int8"}, 2,
         "--base-weights does not apply");
  EXPECT_EQ(eval({"kl", demo_model(), text, "--base", nib, "--max-tokens", "64"})["kl"], 0);
}

// What the model was published with, by another program: 47.90 in fp32 on the first 30,000 tokens
// of the text, in windows of 512.
TEST_F(Eval, TheTrainedModelsPerplexity) {
  NIBBLE_NEED_MODELS();
  if (sanitized()) GTEST_SKIP() << "too slow under sanitizers";
  const std::string text = (shared_folder() / "data" / "dev.txt").string();
  const Json json = eval(
      {"perplexity", tale_folder("onnx-fp32"), text, "--weights", "f32", "--max-tokens", "30000"});
  EXPECT_EQ(json["tokens"], 29999);
  EXPECT_NEAR(json["perplexity"].get<double>(), 47.90, 0.005);
}

}  // namespace
}  // namespace nibble::test
