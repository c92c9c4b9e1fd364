// Tokenizers from tokenizer.model and from GGUF vocabularies: small models written here byte by
// byte, and the given tokenizers converted to GGUF vocabularies, against what they were made from.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "frontends/tokenizer/gguf_vocabulary.h"
#include "frontends/tokenizer/sentencepiece_model.h"
#include "frontends/tokenizer/tokenizer.h"
#include "jit/error.h"
#include "tests/support/shared_files.h"

namespace nibble::frontends {
namespace {

using Strings = std::vector<std::string>;

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string bytes_field(int number, const std::string& payload) {
  return varint(static_cast<uint64_t>(number) << 3 | 2) + varint(payload.size()) + payload;
}
std::string varint_field(int number, uint64_t value) {
  return varint(static_cast<uint64_t>(number) << 3) + varint(value);
}
std::string piece(const std::string& text, float score, int type = 1) {
  std::string fixed(4, '\0');
  std::memcpy(fixed.data(), &score, 4);
  return bytes_field(1, bytes_field(1, text) + varint(2 << 3 | 5) + fixed +
                            varint_field(3, static_cast<uint64_t>(type)));
}

const std::string kSpecials = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3);
const std::string kBpe = bytes_field(2, varint_field(3, 2));
const std::string kKeepSpaces = bytes_field(3, varint_field(4, 0));

Strings tokens_of(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  Strings out;
  for (int32_t id : ids) out.push_back(tokenizer.token_of(id));
  return out;
}
Strings tokens(const std::string& model, const std::string& text) {
  const Tokenizer tokenizer = Tokenizer::from_sentencepiece(model, "test.model");
  return tokens_of(tokenizer, tokenizer.encode(text, false));
}
std::string message_of(const std::string& model) {
  try {
    Tokenizer::from_sentencepiece(model, "test.model");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(SentencePieceBpe, JoinsTheBestScoreFirstThenTheLeftmost) {
  const std::string model = kSpecials + piece("▁", -9) + piece("a", -9) + piece("b", -9) +
                            piece("ab", -2) + piece("ba", -1) + piece("aa", -3) + kBpe +
                            kKeepSpaces;
  EXPECT_EQ(tokens(model, "aba"), (Strings{"▁", "a", "ba"}));
  EXPECT_EQ(tokens(model, "aaa"), (Strings{"▁", "aa", "a"}));
  EXPECT_EQ(tokens(model, ""), Strings{});
  EXPECT_EQ(tokens(model, "a  b"), (Strings{"▁", "a", "▁", "▁", "b"}));
  // Unknown characters in a row are one token.
  EXPECT_EQ(tokens(model, "axyzb"), (Strings{"▁", "a", "<unk>", "b"}));
}

TEST(SentencePieceBpe, UnusedPiecesArePassedThroughAndSplitAgain) {
  const std::string model = kSpecials + piece("▁", -9) + piece("a", -9) + piece("b", -9) +
                            piece("c", -9) + piece("ab", -1, 5) + piece("abc", -2) + kBpe +
                            kKeepSpaces;
  EXPECT_EQ(tokens(model, "abc"), (Strings{"▁", "abc"}));
  EXPECT_EQ(tokens(model, "abb"), (Strings{"▁", "a", "b", "b"}));
}

TEST(SentencePieceBpe, TheUsersPiecesStayWholeAndControlPiecesAreText) {
  const std::string model = kSpecials + piece("▁", -9) + piece("a", -9) + piece("<", -9) +
                            piece("s", -9) + piece(">", -9) + piece("aa", -1) + piece("aas", 0, 4) +
                            kBpe + kKeepSpaces;
  EXPECT_EQ(tokens(model, "aas"), (Strings{"▁", "aas"}));
  EXPECT_EQ(tokens(model, "aasa"), (Strings{"▁", "aas", "a"}));
  EXPECT_EQ(tokens(model, "<s>a"), (Strings{"▁", "<", "s", ">", "a"}));
  const Tokenizer tokenizer = Tokenizer::from_sentencepiece(model, "test.model");
  EXPECT_EQ(tokens_of(tokenizer, tokenizer.encode_markup("<s>a")), (Strings{"<s>", "▁", "a"}));
  EXPECT_EQ(tokens_of(tokenizer, tokenizer.encode("a", true)), (Strings{"<s>", "▁", "a"}));
}

TEST(SentencePieceBpe, BytesStandForUnknownCharactersAndComeBackAsText) {
  std::string model = kSpecials;
  for (int i = 0; i < 256; ++i) model += piece(fmt::format("<0x{:02X}>", i), 0, 6);
  model += piece("▁", -1) + piece("a", -2) +
           bytes_field(2, varint_field(3, 2) + varint_field(35, 1)) + kKeepSpaces;
  EXPECT_EQ(tokens(model, "aé"), (Strings{"▁", "a", "<0xC3>", "<0xA9>"}));
  const Tokenizer tokenizer = Tokenizer::from_sentencepiece(model, "test.model");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(" aé\n", false), false), " aé\n");
  const int32_t lead = tokenizer.id_of("<0xC3>"), a = tokenizer.id_of("a");
  EXPECT_EQ(tokenizer.decode({lead, lead, a}, false), "\uFFFD\uFFFDa");
  EXPECT_EQ(tokenizer.decode({1, a}, true), "a");
  EXPECT_EQ(tokenizer.decode({1, a}, false), "<s>a");
}

TEST(SentencePieceUnigram, TakesTheBestSumAndNormalizesSpaces) {
  const std::string pieces = kSpecials + piece("▁", -2) + piece("a", -3) + piece("b", -3) +
                             piece("▁a", -4) + piece("ab", -4.5F) + piece("zz", 0, 4);
  EXPECT_EQ(tokens(pieces, "ab"), (Strings{"▁", "ab"}));
  EXPECT_EQ(tokens(pieces, "  a   a "), (Strings{"▁a", "▁a"}));
  EXPECT_EQ(tokens(pieces, "azzz"), (Strings{"▁a", "zz", "<unk>"}));
  const std::string suffixed = pieces + bytes_field(2, varint_field(24, 1));
  EXPECT_EQ(tokens(suffixed, "ab"), (Strings{"ab", "▁"}));
}

TEST(SentencePieceErrors, NameTheFileAndWhatIsWrong) {
  auto expect = [](const std::string& model, const std::string& part) {
    EXPECT_NE(message_of(model).find(part), std::string::npos) << message_of(model);
    EXPECT_NE(message_of(model).find("test.model"), std::string::npos);
  };
  expect("", "no pieces");
  expect(piece("a", 0), "0 pieces are the unknown one");
  expect(kSpecials + piece("a", 0) + piece("a", 0), "repeats \"a\"");
  expect(kSpecials + piece("", 0), "is empty");
  expect(kSpecials + piece("a", std::numeric_limits<float>::quiet_NaN()), "finite");
  expect(kSpecials + piece("a", 0, 9), "type 9");
  expect(kSpecials + bytes_field(2, varint_field(3, 4)), "model_type is 4");
  expect(kSpecials + bytes_field(2, varint_field(35, 1)), "<0x00>");
  expect(kSpecials + bytes_field(3, bytes_field(2, "abc")), "precompiled_charsmap");
  expect(kSpecials + bytes_field(5, bytes_field(2, "abcd")), "denormalizer_spec");
  expect(kSpecials.substr(0, kSpecials.size() - 1), "truncated");
}

TEST(SentencePieceErrors, DamagedFilesLoadOrAreRefused) {
  const std::string model = kSpecials + piece("▁", -1) + piece("a", -2) + piece("▁a", -1) + kBpe;
  for (size_t i = 0; i < model.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = model;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      for (const std::string& bytes : {damaged, damaged.substr(0, i)}) {
        try {
          Tokenizer::from_sentencepiece(bytes, "x").encode("a b<s>", true);
        } catch (const Error&) {
        }
      }
    }
  }
}

std::filesystem::path shared(const std::string& name) {
  const char* path = std::getenv("NIBBLE_SHARED");
  return (path != nullptr ? std::filesystem::path(path)
                          : std::filesystem::path(NIBBLE_SOURCE_DIR) / ".." / "shared") /
         "data" / "tokenizers" / name;
}
void expect_same(const Tokenizer& tokenizer, const std::filesystem::path& folder) {
  std::ifstream lines(folder / "reference.jsonl");
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const auto json = nlohmann::json::parse(line);
    ASSERT_EQ(tokenizer.encode(json["text"].get<std::string>(), false),
              json["ids"].get<std::vector<int32_t>>())
        << line;
  }
  EXPECT_GT(count, 100);
}

TEST(GgufVocabulary, OfSentencePieceGivesTheSameIds) {
  const auto folder = shared("llama2");
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not here";
  const SentencePieceModel model =
      parse_sentencepiece(test::read_text(folder / "tokenizer.model"), "x");
  GgufVocabulary vocabulary;
  vocabulary.model = "llama";
  for (const auto& piece : model.pieces) {
    vocabulary.tokens.push_back(piece.text);
    vocabulary.scores.push_back(piece.score);
    vocabulary.token_types.push_back(static_cast<int32_t>(piece.type));
  }
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  const Tokenizer tokenizer = Tokenizer::from_gguf(vocabulary, "test.gguf");
  expect_same(tokenizer, folder);
  EXPECT_EQ(tokenizer.encode("a", true).front(), 1);
  vocabulary.add_bos = 0;
  vocabulary.add_space_prefix = 0;
  const Tokenizer bare = Tokenizer::from_gguf(vocabulary, "test.gguf");
  EXPECT_EQ(tokens_of(bare, bare.encode("Hello", true)), (Strings{"Hello"}));
}

TEST(GgufVocabulary, OfByteLevelBpeGivesTheSameIds) {
  for (const auto& [name, pre] :
       {std::pair{"gpt2", "gpt-2"}, std::pair{"llama3-style", "llama-bpe"}}) {
    const auto folder = shared(name);
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not here";
    const auto json = nlohmann::json::parse(test::read_text(folder / "tokenizer.json"));
    GgufVocabulary vocabulary;
    vocabulary.model = "gpt2";
    vocabulary.pre = pre;
    size_t count = json["model"]["vocab"].size();
    for (const auto& token : json["added_tokens"]) {
      count = std::max(count, token["id"].get<size_t>() + 1);
    }
    vocabulary.tokens.resize(count);
    vocabulary.token_types.assign(count, 1);
    for (const auto& [text, id] : json["model"]["vocab"].items()) vocabulary.tokens[id] = text;
    for (const auto& token : json["added_tokens"]) {
      vocabulary.tokens[token["id"]] = token["content"];
      vocabulary.token_types[token["id"]] = token["special"].get<bool>() ? 3 : 4;
    }
    for (const auto& merge : json["model"]["merges"]) {
      vocabulary.merges.push_back(merge.is_string() ? merge.get<std::string>()
                                                    : merge[0].get<std::string>() + " " +
                                                          merge[1].get<std::string>());
    }
    expect_same(Tokenizer::from_gguf(vocabulary, "test.gguf"), folder);
  }
}

// A text's words, by a vocabulary that joins any word of it whole: each of its parts is a token,
// and each way to cut a part in two is a merge.
Strings words_of(const char* pre, const std::string& text) {
  GgufVocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = pre;
  Strings letters;  // bytes, as this BPE writes them
  for (const char c : text) {
    letters.push_back(c == ' ' ? "\u0120" : c == '\n' ? "\u010A" : std::string(1, c));
  }
  const auto part = [&](size_t begin, size_t count) {
    std::string whole;
    for (size_t i = begin; i < begin + count; ++i) whole += letters[i];
    return whole;
  };
  std::set<std::string> known;
  for (size_t count = 1; count <= text.size(); ++count) {
    for (size_t begin = 0; begin + count <= text.size(); ++begin) {
      const std::string token = part(begin, count);
      if (!known.insert(token).second) continue;
      vocabulary.tokens.push_back(token);
      for (size_t left = 1; left < count; ++left) {
        vocabulary.merges.push_back(part(begin, left) + " " + part(begin + left, count - left));
      }
    }
  }
  const Tokenizer tokenizer = Tokenizer::from_gguf(vocabulary, "test.gguf");
  Strings words;
  for (const int32_t id : tokenizer.encode(text, false)) {
    words.push_back(tokenizer.decode({id}, false));
  }
  return words;
}

// As llama.cpp (b11669) cuts them.
TEST(GgufVocabulary, PreTokenizersCutWhereLlamaCppDoes) {
  EXPECT_EQ(words_of("default", "a``.1234"), (Strings{"a", "``", ".", "123", "4"}));
  EXPECT_EQ(words_of("falcon", "a``.1234"), (Strings{"a", "``.", "123", "4"}));
  EXPECT_EQ(words_of("qwen2", "a!\n\nb 12"), (Strings{"a", "!\n\n", "b", " ", "1", "2"}));
  EXPECT_EQ(words_of("seed-coder", "a!\n\nb 12"), (Strings{"a", "!", "\n\n", "b", " ", "1", "2"}));
  EXPECT_EQ(words_of("hunyuan-dense", "a, 1234"), (Strings{"a", ",", " ", "123", "4"}));
  EXPECT_EQ(words_of("exaone4", "a 12"), (Strings{"a", " 12"}));
  EXPECT_EQ(words_of("exaone", "a 12"), (Strings{"a", " ", "1", "2"}));
  EXPECT_EQ(words_of("viking", "a  34"), (Strings{"a", " ", " ", "3", "4"}));
}

TEST(GgufVocabulary, EveryPreTokenizerCompilesAndUnknownOnesAreNamed) {
  GgufVocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.tokens = {"a", "b", "ab", "1", "\u0120"};
  vocabulary.merges = {"a b"};
  for (const char* pre :
       {"",           "default",       "gpt-2",       "llama-bpe",    "dbrx",
        "qwen2",      "starcoder",     "smollm",      "falcon",       "bloom",
        "tekken",     "gpt-4o",        "deepseek-v3", "deepseek-llm", "deepseek-coder",
        "mpt",        "viking",        "command-r",   "qwen35",       "seed-coder",
        "bailingmoe", "hunyuan-dense", "exaone4"}) {
    vocabulary.pre = pre;
    const Tokenizer tokenizer = Tokenizer::from_gguf(vocabulary, "test.gguf");
    EXPECT_EQ(tokenizer.decode(tokenizer.encode("ab 11a", false), false), "ab 11a") << pre;
  }
  auto message = [&] {
    try {
      Tokenizer::from_gguf(vocabulary, "test.gguf");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  vocabulary.pre = "surprise";
  EXPECT_NE(message().find("\"surprise\""), std::string::npos);
  vocabulary.pre = "";
  vocabulary.token_types = {1};
  EXPECT_NE(message().find("1 entries for 5 tokens"), std::string::npos);
  vocabulary.token_types = {1, 1, 1, 1, 7};
  EXPECT_NE(message().find("is 7"), std::string::npos);
  vocabulary.token_types.clear();
  vocabulary.merges = {"ab"};
  EXPECT_NE(message().find("merges[0]"), std::string::npos);
  vocabulary.merges = {"a c"};
  EXPECT_NE(message().find("\"c\""), std::string::npos);
  vocabulary.merges.clear();
  vocabulary.tokens[1] = "a";
  EXPECT_NE(message().find("repeats"), std::string::npos);
  vocabulary.tokens[1] = "\xFF";
  EXPECT_NE(message().find("UTF-8"), std::string::npos);
  vocabulary.tokens[1] = "b";
  vocabulary.add_bos = 1;
  vocabulary.bos_id = 99;
  EXPECT_NE(message().find("bos_token_id is 99"), std::string::npos);
  vocabulary.model = "rwkv";
  EXPECT_NE(message().find("\"rwkv\""), std::string::npos);
}

}  // namespace
}  // namespace nibble::frontends
