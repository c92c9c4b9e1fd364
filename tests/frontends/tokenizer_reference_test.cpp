// Real tokenizers against what their own library made of the same texts, line by line.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "frontends/tokenizer/tokenizer.h"
#include "tests/support/shared_files.h"

namespace nibble::frontends {
namespace {

std::filesystem::path shared() {
  if (const char* path = std::getenv("NIBBLE_SHARED")) return path;
  return std::filesystem::path(NIBBLE_SOURCE_DIR) / ".." / "shared";
}

Tokenizer load(const std::filesystem::path& path) {
  if (path.extension() == ".model") {
    return Tokenizer::from_sentencepiece(test::read_text(path), path.string());
  }
  return Tokenizer::from_json(test::read_text(path), path.string());
}

struct Case {
  const char* name;
  const char* file;
  bool reversible;  // decode(encode(x)) == x
};

class TokenizerReference : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    folder_ = shared() / "data" / "tokenizers" / GetParam().name;
    if (!std::filesystem::exists(folder_)) GTEST_SKIP() << folder_ << " is not here";
  }
  std::filesystem::path folder_;
};

TEST_P(TokenizerReference, EveryLineHasTheSameIds) {
  Tokenizer tokenizer = load(folder_ / GetParam().file);
  std::ifstream lines(folder_ / "reference.jsonl");
  std::string line;
  int count = 0, wrong = 0;
  while (std::getline(lines, line)) {
    auto json = nlohmann::json::parse(line);
    std::string text = json["text"];
    std::vector<int32_t> expected = json["ids"], got = tokenizer.encode(text, false);
    ++count;
    if (got != expected && ++wrong <= 5) {
      ADD_FAILURE() << GetParam().name << " line " << count << ": \"" << text << "\"\n  expected "
                    << testing::PrintToString(expected) << "\n  found    "
                    << testing::PrintToString(got);
    }
    // SentencePiece puts a space after every special token, so those do not come back.
    if (GetParam().reversible && text.find("<s>") == std::string::npos) {
      EXPECT_EQ(tokenizer.decode(got, false), text) << "line " << count;
    }
  }
  EXPECT_EQ(wrong, 0) << "of " << count << " lines";
  EXPECT_GT(count, 100);
}

TEST_P(TokenizerReference, StreamedTextIsWholeCharactersAndJoinsToTheDecodedText) {
  Tokenizer tokenizer = load(folder_ / GetParam().file);
  std::ifstream lines(folder_ / "reference.jsonl");
  std::string line;
  while (std::getline(lines, line)) {
    std::vector<int32_t> ids = nlohmann::json::parse(line)["ids"];
    StreamDecoder stream(tokenizer, true);
    std::string joined;
    for (int32_t id : ids) {
      std::string part = stream.push(id);
      // dump() refuses text that is not UTF-8.
      ASSERT_NO_THROW(nlohmann::json(part).dump()) << line;
      joined += part;
    }
    joined += stream.finish();
    ASSERT_EQ(joined, tokenizer.decode(ids, true));
  }
}

// Ids at random: nothing that a model says may split a character or differ from decode().
TEST_P(TokenizerReference, StreamedTextOfRandomIdsIsTheDecodedText) {
  Tokenizer tokenizer = load(folder_ / GetParam().file);
  uint64_t state = 1;
  auto random = [&](int64_t below) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(below));
  };
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> ids;
    // Half of the rounds among the first ids, where bytes are.
    int64_t below = round % 2 ? tokenizer.vocab_size() : 300;
    for (int64_t i = random(40); i >= 0; --i) ids.push_back(static_cast<int32_t>(random(below)));
    StreamDecoder stream(tokenizer, false);
    std::string joined;
    for (int32_t id : ids) {
      std::string part = stream.push(id);
      ASSERT_NO_THROW(nlohmann::json(part).dump());
      joined += part;
    }
    joined += stream.finish();
    ASSERT_NO_THROW(nlohmann::json(joined).dump());
    ASSERT_EQ(joined, tokenizer.decode(ids, false));
  }
}

INSTANTIATE_TEST_SUITE_P(Real, TokenizerReference,
                         testing::Values(Case{"gpt2", "tokenizer.json", true},
                                         Case{"llama3-style", "tokenizer.json", true},
                                         Case{"phi3", "tokenizer.json", true},
                                         Case{"unigram", "tokenizer.json", false},
                                         Case{"llama2", "tokenizer.model", true}),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(Tokenizer, TheBundledModelsTokenizerRoundTrips) {
  std::filesystem::path path =
      std::filesystem::path(NIBBLE_SOURCE_DIR) / "tools/demo/tale/tokenizer.json";
  if (!std::filesystem::exists(path)) path = shared() / "models/tale/onnx-fp16/tokenizer.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not here";
  Tokenizer tokenizer = load(path);
  EXPECT_EQ(tokenizer.vocab_size(), 4096);
  EXPECT_EQ(tokenizer.id_of("<|endoftext|>"), 0);
  std::string text =
      "<|endoftext|>Once upon a time there was a na\xC3\xAFve king \xF0\x9F\x91\x91.\n\n \t";
  std::vector<int32_t> ids = tokenizer.encode(text, false);
  EXPECT_EQ(ids[0], 0);
  EXPECT_EQ(tokenizer.decode(ids, false), text);
  EXPECT_EQ(tokenizer.decode(ids, true), text.substr(13));
}

// A word of a million characters: quadratic merging would take hours.
TEST(Tokenizer, LongWordsTakeTimeInProportion) {
  std::filesystem::path path = shared() / "data/tokenizers/phi3/tokenizer.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not here";
  Tokenizer tokenizer = load(path);
  std::string text;
  while (text.size() < 300000) text += "abcabdabe ";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, false), false), text);
}

}  // namespace
}  // namespace nibble::frontends
