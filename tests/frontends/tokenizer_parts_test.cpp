// Each component of a tokenizer.json by itself, in small files written here.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "frontends/tokenizer/charsmap.h"
#include "frontends/tokenizer/pattern.h"
#include "frontends/tokenizer/tokenizer.h"
#include "frontends/tokenizer/unicode.h"
#include "jit/error.h"
#include "runtime/json_text.h"

namespace nibble::frontends {
namespace {

using Strings = std::vector<std::string>;

// A BPE over single characters: the words show as the merges "ab" and "bc" do not cross them.
nlohmann::json base() {
  return nlohmann::json::parse(R"({
    "model": {"type": "BPE", "vocab": {"a":0,"b":1,"c":2,"ab":3,"bc":4,"<unk>":5," ":6,"1":7,"2":8,
      "12":9,"▁":10,"▁a":11,"-":12,"A":13,"é":14,"abc":15},
      "merges": ["a b", ["b", "c"], "1 2", "▁ a", "ab c"], "unk_token": "<unk>"},
    "added_tokens": []})");
}

Strings tokens(const nlohmann::json& json, const std::string& text, bool add_special = false) {
  Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "test.json");
  Strings out;
  for (int32_t id : tokenizer.encode(text, add_special)) out.push_back(tokenizer.token_of(id));
  return out;
}

std::string message_of(const nlohmann::json& json, const std::string& text = "") {
  try {
    Tokenizer::from_json(json.dump(), "test.json").encode(text, false);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

nlohmann::json with(const char* part, const char* text) {
  nlohmann::json json = base();
  json[part] = nlohmann::json::parse(text);
  return json;
}

TEST(TokenizerParts, BpeMergesLowestRankFirstThenLeftmost) {
  EXPECT_EQ(tokens(base(), "abc"), (Strings{"abc"}));
  EXPECT_EQ(tokens(base(), "aabbc"), (Strings{"a", "ab", "bc"}));
  EXPECT_EQ(tokens(base(), ""), Strings{});
}

TEST(TokenizerParts, UnknownCharactersFuseOnlyWhenAsked) {
  EXPECT_EQ(tokens(base(), "axyb"), (Strings{"a", "<unk>", "<unk>", "b"}));
  nlohmann::json json = base();
  json["model"]["fuse_unk"] = true;
  EXPECT_EQ(tokens(json, "axybz"), (Strings{"a", "<unk>", "b", "<unk>"}));
  json["model"].erase("unk_token");
  EXPECT_EQ(tokens(json, "axb"), (Strings{"ab"}));  // without one they vanish
}

TEST(TokenizerParts, ByteFallbackNeedsEveryByte) {
  nlohmann::json json = base();
  json["model"]["byte_fallback"] = true;
  json["model"]["vocab"]["<0xC3>"] = 16;
  EXPECT_EQ(tokens(json, "\xC3\xA0"), (Strings{"<unk>"}));
  json["model"]["vocab"]["<0xA0>"] = 17;
  EXPECT_EQ(tokens(json, "\xC3\xA0"), (Strings{"<0xC3>", "<0xA0>"}));
}

TEST(TokenizerParts, IgnoreMergesTakesWholeWordsFirst) {
  nlohmann::json json = base();
  json["model"]["vocab"]["cab"] = 16;
  EXPECT_EQ(tokens(json, "cab"), (Strings{"c", "ab"}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(tokens(json, "cab"), (Strings{"cab"}));
}

TEST(TokenizerParts, SplitBehaviours) {
  auto split = [](const std::string& behavior, bool invert = false) {
    nlohmann::json json = base();
    json["pre_tokenizer"] = {{"type", "Split"},
                             {"pattern", {{"String", "-"}}},
                             {"behavior", behavior},
                             {"invert", invert}};
    json["model"]["ignore_merges"] = true;
    json["model"]["merges"] = nlohmann::json::array();
    int id = 16;
    for (const char* word : {"a-", "-b", "--", "a--", "--b"}) json["model"]["vocab"][word] = id++;
    return json;
  };
  EXPECT_EQ(tokens(split("Isolated"), "a--b"), (Strings{"a", "-", "-", "b"}));
  EXPECT_EQ(tokens(split("Removed"), "a--b"), (Strings{"a", "b"}));
  EXPECT_EQ(tokens(split("MergedWithPrevious"), "a--b"), (Strings{"a-", "-", "b"}));
  EXPECT_EQ(tokens(split("MergedWithNext"), "a--b"), (Strings{"a", "-", "-b"}));
  EXPECT_EQ(tokens(split("Contiguous"), "a--b"), (Strings{"a", "--", "b"}));
  EXPECT_EQ(tokens(split("Removed", true), "a--b"), (Strings{"-", "-"}));
}

TEST(TokenizerParts, DigitsAndPunctuation) {
  EXPECT_EQ(tokens(with("pre_tokenizer", R"({"type":"Digits","individual_digits":false})"), "a12b"),
            (Strings{"a", "12", "b"}));
  EXPECT_EQ(tokens(with("pre_tokenizer", R"({"type":"Digits","individual_digits":true})"), "a12b"),
            (Strings{"a", "1", "2", "b"}));
  EXPECT_EQ(tokens(with("pre_tokenizer", R"({"type":"Sequence","pretokenizers":[
      {"type":"Whitespace"},{"type":"Punctuation"}]})"),
                   "ab -c"),
            (Strings{"ab", "-", "c"}));
}

TEST(TokenizerParts, MetaspacePrependsBySchemeAndKeepsWordsApart) {
  auto scheme = [](const std::string& name) {
    nlohmann::json json = with("pre_tokenizer", R"({"type":"Metaspace","replacement":"▁"})");
    json["pre_tokenizer"]["prepend_scheme"] = name;
    json["added_tokens"] = nlohmann::json::parse(R"([{"id":16,"content":"<s>","special":true}])");
    return json;
  };
  EXPECT_EQ(tokens(scheme("always"), "a<s>a a"), (Strings{"▁a", "<s>", "▁a", "▁a"}));
  EXPECT_EQ(tokens(scheme("first"), "a<s>a a"), (Strings{"▁a", "<s>", "a", "▁a"}));
  EXPECT_EQ(tokens(scheme("never"), "a<s>a a"), (Strings{"a", "<s>", "a", "▁a"}));
}

TEST(TokenizerParts, Normalizers) {
  EXPECT_EQ(tokens(with("normalizer", R"({"type":"NFC"})"), "e\xCC\x81"), (Strings{"é"}));
  EXPECT_EQ(tokens(with("normalizer", R"({"type":"NFKD"})"), "\xEF\xBC\xA1"), (Strings{"A"}));
  EXPECT_EQ(tokens(with("normalizer", R"({"type":"Lowercase"})"), "A"), (Strings{"a"}));
  EXPECT_EQ(tokens(with("normalizer", R"({"type":"Strip","strip_left":true,"strip_right":false})"),
                   "  a "),
            (Strings{"a", " "}));
  EXPECT_EQ(tokens(with("normalizer", R"({"type":"Sequence","normalizers":[
      {"type":"Prepend","prepend":"-"},
      {"type":"Replace","pattern":{"Regex":"[^a-]+"},"content":"b"}]})"),
                   "a12"),
            (Strings{"-", "ab"}));
}

TEST(TokenizerParts, AddedTokensLongestLeftmostWithTheirSpaces) {
  nlohmann::json json = base();
  json["added_tokens"] = nlohmann::json::parse(R"([
    {"id":16,"content":"<x>","special":true},
    {"id":17,"content":"<x>a","special":false,"normalized":false},
    {"id":18,"content":"<l>","special":true,"lstrip":true},
    {"id":19,"content":"<r>","special":true,"rstrip":true},
    {"id":20,"content":"cc","special":false,"single_word":true}])");
  EXPECT_EQ(tokens(json, "a<x>ab"), (Strings{"a", "<x>a", "b"}));
  EXPECT_EQ(tokens(json, "a  <l> b"), (Strings{"a", "<l>", " ", "b"}));
  EXPECT_EQ(tokens(json, "a <r>  b"), (Strings{"a", " ", "<r>", "b"}));
  EXPECT_EQ(tokens(json, "acc cc cca"), (Strings{"a", "c", "c", " ", "cc", " ", "c", "c", "a"}));
}

TEST(TokenizerParts, SpacesAreTakenByOneAddedToken) {
  nlohmann::json json = base();
  json["added_tokens"] = {{{"id", 16},
                           {"content", "\n\n"},
                           {"lstrip", true},
                           {"rstrip", true},
                           {"normalized", false},
                           {"special", false}}};
  EXPECT_EQ(tokens(json, "a\n\n\n\n\n\n b"), (Strings{"a", "\n\n", "b"}));
}

TEST(TokenizerParts, UnigramNeedsNoUnknownTokenWhereAllIsKnown) {
  nlohmann::json json = base();
  json["model"] = nlohmann::json::parse(
      R"({"type":"Unigram","vocab":[["a",-1],["bc",-1],["b",-2]],"byte_fallback":false})");
  json["added_tokens"] = nlohmann::json::array();
  EXPECT_EQ(tokens(json, "abc"), (Strings{"a", "bc"}));
  EXPECT_NE(message_of(json, "ac").find("no token for \"c\""), std::string::npos);
}

TEST(TokenizerParts, NormalizedAddedTokensAreFoundInNormalizedText) {
  nlohmann::json json = with("normalizer", R"({"type":"Lowercase"})");
  json["added_tokens"] = nlohmann::json::parse(R"([{"id":16,"content":"AB!","normalized":true}])");
  EXPECT_EQ(tokens(json, "cAb!c"), (Strings{"c", "AB!", "c"}));
}

TEST(TokenizerParts, TheTemplateGoesAroundTheText) {
  nlohmann::json json = with("post_processor", R"({"type":"TemplateProcessing","single":[
      {"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}},
      {"SpecialToken":{"id":"</s>","type_id":0}}],
      "special_tokens":{"<s>":{"id":"<s>","ids":[5],"tokens":["<s>"]},
                        "</s>":{"id":"</s>","ids":[2],"tokens":["</s>"]}}})");
  EXPECT_EQ(tokens(json, "a", true), (Strings{"<unk>", "a", "c"}));
  EXPECT_EQ(tokens(json, "a", false), (Strings{"a"}));
  json["post_processor"]["special_tokens"]["<s>"]["ids"][0] = 999;
  EXPECT_NE(message_of(json).find("the id 999"), std::string::npos);
}

// Of processors in sequence one takes what a template made for several texts, as the library does:
// a single special token and the text are a pair.
TEST(TokenizerParts, ProcessorsInSequence) {
  const char* const special = R"("special_tokens":{"1":{"id":"1","ids":[7],"tokens":["1"]},
                                                  "2":{"id":"2","ids":[8],"tokens":["2"]}}})";
  const auto form = [&](const std::string& single, const std::string& pair) {
    const auto items = [](const std::string& spelled) {
      nlohmann::json out = nlohmann::json::array();
      for (const char c : spelled) {
        const char* kind = c == 'A' || c == 'B' ? "Sequence" : "SpecialToken";
        out.push_back({{kind, {{"id", std::string(1, c)}, {"type_id", 0}}}});
      }
      return out.dump();
    };
    return R"({"type":"TemplateProcessing","single":)" + items(single) + R"(,"pair":)" +
           items(pair) + "," + special;
  };
  const auto around = [&](const std::string& first, const std::string& second) {
    return tokens(
        with("post_processor",
             (R"({"type":"Sequence","processors":[)" + first + "," + second + "]}").c_str()),
        "a", true);
  };
  const std::string one = form("1A", "AB"), two = form("A2", "AB"), both = form("1A2", "1A2B2");
  const std::string roberta =
      R"({"type":"RobertaProcessing","cls":["1",7],"sep":["2",8],"trim_offsets":true,
          "add_prefix_space":true})";
  const std::string bert = R"({"type":"BertProcessing","cls":["1",7],"sep":["2",8]})";
  EXPECT_EQ(around(one, two), (Strings{"1", "a"}));
  EXPECT_EQ(around(one, both), (Strings{"1", "1", "2", "a", "2"}));
  EXPECT_EQ(around(roberta, two), (Strings{"1", "a", "2", "2"}));
  EXPECT_EQ(around(two, roberta), (Strings{"1", "a", "2", "2", "2", "2"}));
  EXPECT_EQ(around(one, roberta), (Strings{"1", "1", "2", "2", "a", "2"}));
  EXPECT_EQ(around(one, bert), (Strings{"1", "1", "2", "a", "2"}));
  EXPECT_EQ(around(bert, roberta), (Strings{"1", "1", "a", "2", "2"}));
  EXPECT_EQ(around(R"({"type":"ByteLevel"})", one), (Strings{"1", "a"}));
  const nlohmann::json three = with(
      "post_processor", (R"({"type":"Sequence","processors":[)" + both + "," + one + "]}").c_str());
  EXPECT_NE(message_of(three).find("make 3 parts"), std::string::npos);
}

// Each word shows as one token: it stands in the vocabulary whole.
TEST(TokenizerParts, UnicodeScripts) {
  const auto split = [](const std::string& text, const Strings& words) {
    nlohmann::json json = with("pre_tokenizer", R"({"type":"UnicodeScripts"})");
    json["model"]["ignore_merges"] = true;
    int id = 16;
    for (const std::string& word : words) json["model"]["vocab"][word] = id++;
    EXPECT_EQ(tokens(json, text), words) << text;
  };
  split("hello world", {"hello world"});
  split("ab12!привет мир", {"ab", "12!", "привет мир"});
  split("aa あ漢ー字 bb", {"aa ", "あ漢ー字 ", "bb"});
  split("  hi", {"hi"});
  split("aa\u0301б", {"aa", "\u0301", "б"});
  split("aa\u3000bb", {"aa", "\u3000", "bb"});
  split("aa\u0378bb", {"aa\u0378bb"});
}

std::string decoded(const nlohmann::json& json, const Strings& names, bool skip = false) {
  Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "test.json");
  std::vector<int32_t> ids;
  for (const std::string& name : names) ids.push_back(tokenizer.id_of(name));
  return tokenizer.decode(ids, skip);
}

TEST(TokenizerParts, Decoders) {
  EXPECT_EQ(decoded(base(), {"ab", "c"}), "ab c");
  EXPECT_EQ(decoded(with("decoder", R"({"type":"Fuse"})"), {"ab", "c"}), "abc");
  EXPECT_EQ(decoded(with("decoder", R"({"type":"Metaspace","replacement":"▁"})"), {"▁a", "▁a"}),
            "a a");
  EXPECT_EQ(decoded(with("decoder", R"({"type":"Sequence","decoders":[
      {"type":"Fuse"},{"type":"Strip","content":"a","start":1,"stop":2}]})"),
                    {"a", "a", "b", "a", "a", "a"}),
            "aba");
  EXPECT_EQ(decoded(with("decoder", R"({"type":"Strip","content":"a","start":1,"stop":0})"),
                    {"a", "ab", "ab"}),
            "bb");
}

TEST(TokenizerParts, CtcKeepsOneTokenOfARun) {
  const char* ctc = R"({"type":"CTC","pad_token":"-","word_delimiter_token":"1","cleanup":true})";
  EXPECT_EQ(decoded(with("decoder", ctc), {"a", "a", "-", "a", "b", "b", "1", "1", "c"}), "aab c");
  EXPECT_EQ(decoded(with("decoder", R"({"type":"CTC","pad_token":"-","word_delimiter_token":"1",
                                       "cleanup":false})"),
                    {"a", "a", "1", "-", "-", "c"}),
            "a1c");
  EXPECT_EQ(decoded(with("decoder", ctc), {"-", "-"}), "");
}

TEST(TokenizerParts, ByteFallbackDecodesRunsAsAWhole) {
  nlohmann::json json = with("decoder", R"({"type":"ByteFallback"})");
  json["model"]["vocab"]["<0xC3>"] = 16;
  json["model"]["vocab"]["<0xA9>"] = 17;
  EXPECT_EQ(decoded(json, {"a", "<0xC3>", "<0xA9>", "b"}), "aéb");
  EXPECT_EQ(decoded(json, {"<0xC3>", "<0xA9>", "<0xC3>", "b"}), "\uFFFD\uFFFD\uFFFDb");
  EXPECT_EQ(decoded(json, {"<0xC3>"}), "\uFFFD");
}

TEST(TokenizerParts, SpecialTokensAreSkippedOnlyWhenAsked) {
  nlohmann::json json = with("decoder", R"({"type":"Fuse"})");
  json["added_tokens"] = nlohmann::json::parse(R"([{"id":16,"content":"<s>","special":true}])");
  EXPECT_EQ(decoded(json, {"<s>", "a"}, false), "<s>a");
  EXPECT_EQ(decoded(json, {"<s>", "a"}, true), "a");
}

TEST(TokenizerParts, UnigramTakesTheBestScore) {
  nlohmann::json json = nlohmann::json::parse(R"({"model": {"type": "Unigram", "unk_id": 0, "vocab":
      [["<unk>",0],["a",-1],["b",-1],["ab",-1.5],["abb",-9],["c",-2]]},
      "decoder": {"type": "Fuse"}})");
  EXPECT_EQ(tokens(json, "abb"), (Strings{"ab", "b"}));
  EXPECT_EQ(tokens(json, "axxb"), (Strings{"a", "<unk>", "b"}));
}

TEST(TokenizerParts, PatternsMeanWhatTheirDialectMeans) {
  // U+180E is no white space; combining marks are word characters; \h is refused.
  Pattern spaces = Pattern::regex(R"(\s+)", "test");
  EXPECT_EQ(spaces.replace_all("a\u180E\u2003\u0085 b", "_"), "a\u180E_b");
  EXPECT_EQ(Pattern::regex(R"([^\S ]+)", "test").replace_all("a \t\nb", "_"), "a _b");
  EXPECT_EQ(Pattern::regex(R"(\w+)", "test").replace_all("e\u0301-x", "_"), "_-_");
  EXPECT_EQ(Pattern::regex("[]a]+", "test").replace_all("x]a", "_"), "x_");
  auto replace = [](const char* expression, const char* text) {
    return Pattern::regex(expression, "test").replace_all(text, "_");
  };
  // Empty matches count, but for those right behind a match.
  EXPECT_EQ(replace("x*", "axxb"), "_a_b_");
  EXPECT_EQ(replace(R"([\h]+)", "fog"), "_og");
  EXPECT_EQ(replace("[a[bc]]+", "abcd[]"), "_d[]");
  EXPECT_EQ(replace("[a-e&&[^bc]]+", "abcde"), "_bc_");
  EXPECT_EQ(replace("[^a[^b]]", "abc"), "a_c");
  EXPECT_EQ(replace("[^(\\s|[.,!])]+", "ab (c|d), e!"), "_ (_|_), _!");
  EXPECT_EQ(replace(R"([^\W_]+)", "a_b-c"), "___-_");
  EXPECT_EQ(replace(R"(\u0301)", "e\u0301"), "e_");
  EXPECT_EQ(replace("[[:punct:]]", "a+b.c"), "a_b_c");
  // A superscript is a word character alone, not within brackets.
  EXPECT_EQ(replace(R"(\w)", "\u00B2"), "_");
  EXPECT_EQ(replace(R"([\w])", "\u00B2"), "\u00B2");
  // The ideographic comma is shared by scripts and belongs to none.
  EXPECT_EQ(replace(R"(\p{Han})", "\u4E2D\u3001"), "_\u3001");
  EXPECT_EQ(replace(R"(\b)", "e\u0301 "), "_e\u0301_ ");
  EXPECT_THROW(Pattern::regex(R"(\K)", "test"), Error);
  EXPECT_THROW(Pattern::regex("[a", "test"), Error);
  EXPECT_THROW(Pattern::regex("[[:nothing:]]", "test"), Error);
  EXPECT_THROW(Pattern::regex(std::string(100, '[') + "a" + std::string(100, ']'), "test"), Error);
  EXPECT_THROW(Pattern::regex("(", "test"), Error);
  EXPECT_THROW(Pattern::regex("a\\", "test"), Error);
}

TEST(TokenizerParts, NormalizersOfTheRarerKind) {
  auto normalized = [](const char* normalizer, const std::string& text) {
    nlohmann::json json = with("normalizer", normalizer);
    nlohmann::json vocabulary = nlohmann::json::object();
    int id = 0;
    for (char32_t c = 1; c < 0x2600; ++c) {
      std::string name;
      append_utf8(name, c);
      vocabulary[name] = id++;
    }
    json["model"] = {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}};
    json["decoder"] = {{"type", "Fuse"}};
    Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "test.json");
    return tokenizer.decode(tokenizer.encode(text, false), false);
  };
  EXPECT_EQ(normalized(R"({"type":"Nmt"})", "a\u200Bb\u0001\tc\u2581"), "a b c ");
  EXPECT_EQ(normalized(R"({"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,
      "strip_accents":null,"lowercase":true})",
                       "\u00C9\tA\u0000\u00AD"),
            "e a");
  EXPECT_EQ(normalized(R"({"type":"StripAccents"})", "e\u0301\u0903"), "e");
  // One entry: "\u00BD" (two bytes C2 BD) becomes "1/2".
  std::string units;
  auto unit = [&](uint32_t value) {
    for (int i = 0; i < 4; ++i) units += static_cast<char>(value >> (8 * i));
  };
  std::vector<uint32_t> array(1024, 0x80000000U);
  array[0] = 256U << 10;                                               // children at 0 ^ 256
  array[256 ^ 0xC2] = 0xC2U | ((256U ^ 0xC2U ^ 512U) << 10);           // at 512
  array[512 ^ 0xBD] = 0xBDU | 0x100U | ((512U ^ 0xBDU ^ 768U) << 10);  // its value at 768
  array[768] = 0x80000000U;
  unit(4096);
  for (uint32_t value : array) unit(value);
  const Charsmap map(units + std::string("1/2\0", 4), "test");
  EXPECT_EQ(map.longest("\u00BDx").length, 2U);
  EXPECT_EQ(map.longest("\u00BDx").replacement, "1/2");
  EXPECT_EQ(map.longest("\u00BEx").length, 0U);
  EXPECT_THROW(Charsmap("abc", "test"), Error);
  EXPECT_THROW(Charsmap(std::string("\xFF\xFF\xFF\xFF", 4) + units, "test"), Error);
  // Whatever the units say, nothing is read past the array.
  for (size_t i = 4; i < units.size(); i += 37) {
    std::string damaged = units;
    damaged[i] = static_cast<char>(damaged[i] ^ 0xFF);
    Charsmap(damaged, "test").longest("\u00BD\u00BE");
  }
  EXPECT_EQ(decode_base64("MS8yAA=="), std::string("1/2\0", 4));
  EXPECT_EQ(decode_base64("M*"), std::nullopt);
}

TEST(TokenizerParts, WordLevelAndWordPiece) {
  nlohmann::json json =
      nlohmann::json::parse(R"({"model":{"type":"WordLevel","vocab":{"the":0,"<unk>":1},
      "unk_token":"<unk>"},"pre_tokenizer":{"type":"Whitespace"}})");
  EXPECT_EQ(tokens(json, "the cat, the"), (Strings{"the", "<unk>", "<unk>", "the"}));
  json = nlohmann::json::parse(
      R"({"model":{"type":"WordPiece","vocab":{"[UNK]":0,"play":1,"##ing":2,"##s":3},
      "unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":12},
      "pre_tokenizer":{"type":"BertPreTokenizer"},
      "decoder":{"type":"WordPiece","prefix":"##","cleanup":true}})");
  EXPECT_EQ(tokens(json, "plays playing xplay"),
            (Strings{"play", "##s", "play", "##ing", "[UNK]"}));
  EXPECT_EQ(Tokenizer::from_json(json.dump(), "x").decode({1, 3, 1, 2}, false), "plays playing");
}

TEST(TokenizerParts, WordsAreCutWhereNoMergeCrosses) {
  nlohmann::json json = base();
  EXPECT_EQ(tokens(json, "ab\u2581ab\u2581ab"), (Strings{"ab", "\u2581", "ab", "\u2581", "ab"}));
  // A merge that crosses keeps the words together: "b" and the mark join before the mark and "a".
  json["model"]["vocab"]["b\u2581"] = 16;
  json["model"]["merges"].insert(json["model"]["merges"].begin(), "b \u2581");
  EXPECT_EQ(tokens(json, "ab\u2581ab\u2581a"), (Strings{"a", "b\u2581", "a", "b\u2581", "a"}));
}

TEST(TokenizerErrors, MembersThatAreNotKnownAreNamed) {
  for (const char* part : {R"({"type":"Lowercase","locale":"tr"})", R"({"type":"NFC","x":1})"}) {
    EXPECT_NE(message_of(with("normalizer", part)).find("whose meaning is not known"),
              std::string::npos);
  }
  nlohmann::json json = base();
  json["model"]["alpha"] = 0.5;
  EXPECT_NE(message_of(json).find("\"alpha\""), std::string::npos);
  json = base();
  json["surprise"] = 1;
  EXPECT_NE(message_of(json).find("\"surprise\""), std::string::npos);
}

TEST(TokenizerParts, MalformedBytesBecomeOneReplacementAPrefix) {
  auto all = [](std::string bytes) { return take_utf8(bytes, true); };
  EXPECT_EQ(all("a\xE2\x82z"), "a\uFFFDz");
  EXPECT_EQ(all("\xC0\xAF"), "\uFFFD\uFFFD");
  EXPECT_EQ(all("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(all("\xF0\x9F\x91"), "\uFFFD");
  std::string cut = "a\xF0\x9F\x91";
  EXPECT_EQ(take_utf8(cut, false), "a");
  EXPECT_EQ(cut, "\xF0\x9F\x91");
}

TEST(TokenizerErrors, NameTheFileTheFieldExpectedAndFound) {
  EXPECT_THROW(Tokenizer::from_json("{", "x"), Error);
  EXPECT_THROW(Tokenizer::from_json("", "x"), Error);
  EXPECT_THROW(Tokenizer::from_json("[]", "x"), Error);
  EXPECT_THROW(Tokenizer::from_json("{}", "x"), Error);
  auto expect = [](nlohmann::json json, const std::string& part) {
    std::string message = message_of(json, "abc");
    EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks " << part;
    EXPECT_NE(message.find("test.json"), std::string::npos) << message;
  };
  nlohmann::json json = base();
  json["model"].erase("vocab");
  expect(json, "no member \"vocab\"");
  json = base();
  json["model"]["vocab"] = nlohmann::json::array();
  expect(json, "an object");
  json = base();
  json["model"]["vocab"]["a"] = "zero";
  expect(json, "an integer");
  for (int64_t id : {int64_t{-1}, int64_t{1} << 24, int64_t{1} << 40}) {
    json["model"]["vocab"]["a"] = id;
    expect(json, "outside 0..");
  }
  json["model"]["vocab"]["a"] = 1;
  expect(json, "the same id 1");
  json = base();
  json["model"]["merges"].push_back("a x");
  expect(json, "\"x\"");
  json["model"]["merges"].back() = "a b c";
  expect(json, "two tokens");
  json["model"]["merges"].back() = 7;
  expect(json, "a pair of strings");
  json = base();
  json["model"]["unk_token"] = "nowhere";
  EXPECT_EQ(message_of(json, "abc"), "no error");
  EXPECT_NE(message_of(json, "x").find("nowhere"), std::string::npos);
  json = base();
  json["model"]["dropout"] = 0.1;
  EXPECT_EQ(message_of(json, "abc"), "no error");
  json["model"]["dropout"] = 1.5;
  expect(json, "dropout");
}

TEST(TokenizerErrors, NameTheComponentThatIsNotKnown) {
  for (const char* part : {"normalizer", "pre_tokenizer", "post_processor", "decoder", "model"}) {
    nlohmann::json json = base();
    json[part] = {{"type", "Quantum"}};
    EXPECT_NE(message_of(json).find("\"Quantum\""), std::string::npos) << part;
    json[part] = nlohmann::json::object();
    EXPECT_NE(message_of(json).find("\"type\""), std::string::npos) << part;
    json[part] = 7;
    EXPECT_NE(message_of(json).find("an object"), std::string::npos) << part;
  }
}

TEST(TokenizerErrors, NestingWithoutEndIsRefused) {
  nlohmann::json inner = {{"type", "Lowercase"}};
  for (int i = 0; i < 20; ++i) inner = {{"type", "Sequence"}, {"normalizers", {inner}}};
  nlohmann::json json = base();
  json["normalizer"] = inner;
  EXPECT_NE(message_of(json).find("8 deep"), std::string::npos);
}

// Deeper than a function may call itself, in parts that are read and in parts that are passed over.
TEST(TokenizerErrors, NestingOfAnyKindIsNoStackOverflow) {
  const std::string deep(500000, '['), close(500000, ']');
  const std::string text = base().dump();
  for (const char* key : {"\"normalizer\":", "\"decoder\":", "\"surprise\":"}) {
    const std::string bad = "{" + std::string(key) + deep + close + "," + text.substr(1);
    EXPECT_THROW(Tokenizer::from_json(bad, "x"), Error) << key;
  }
  EXPECT_THROW(Tokenizer::from_json("{\"model\":" + deep, "x"), Error);
  // What is passed over may be as deep as JSON may be.
  const auto passed_over = [&](size_t depth) {
    return "{\"truncation\":" + deep.substr(0, depth) + close.substr(0, depth) + "," +
           text.substr(1);
  };
  EXPECT_NO_THROW(Tokenizer::from_json(passed_over(runtime::kMostJsonDepth - 1), "x"));
  EXPECT_THROW(Tokenizer::from_json(passed_over(runtime::kMostJsonDepth), "x"), Error);
}

// A table by id must not be millions long for a few tokens.
TEST(TokenizerErrors, IdsFarBeyondTheVocabulary) {
  nlohmann::json json = base();
  json["model"]["vocab"]["far"] = (1 << 24) - 1;
  EXPECT_NE(message_of(json).find("the id 16777215"), std::string::npos);
  json["model"]["vocab"]["far"] = 100000;  // gaps are fine
  EXPECT_EQ(message_of(json), "no error");
  json = base();
  json["added_tokens"] = {{{"id", (1 << 24) - 1}, {"content", "<far>"}}};
  EXPECT_NE(message_of(json).find("the id 16777215"), std::string::npos);
}

TEST(TokenizerErrors, AddedTokensThatContradict) {
  auto message = [](const char* tokens) {
    nlohmann::json json = base();
    json["added_tokens"] = nlohmann::json::parse(tokens);
    return message_of(json);
  };
  EXPECT_EQ(message(R"([{"id":0,"content":"a"}])"), "no error");
  EXPECT_NE(message(R"([{"id":0,"content":"z"}])").find("the id of \"a\""), std::string::npos);
  EXPECT_NE(message(R"([{"id":40,"content":"a"}])").find("gives it 0"), std::string::npos);
  EXPECT_NE(message(R"([{"id":40,"content":"y"},{"id":41,"content":"y"}])").find("repeats"),
            std::string::npos);
  EXPECT_NE(message(R"([{"id":40,"content":"y"},{"id":40,"content":"z"}])").find("the id of \"y\""),
            std::string::npos);
  EXPECT_NE(message(R"([{"id":40,"content":""}])").find("empty"), std::string::npos);
}

TEST(TokenizerErrors, IdsOutOfRangeAndTextThatIsNotUtf8) {
  Tokenizer tokenizer = Tokenizer::from_json(base().dump(), "test.json");
  EXPECT_THROW(tokenizer.decode({16}, false), Error);
  EXPECT_THROW(tokenizer.decode({-1}, false), Error);
  EXPECT_THROW(tokenizer.token_of(1 << 30), Error);
  EXPECT_EQ(tokenizer.id_of("nowhere"), -1);
  EXPECT_THROW(tokenizer.encode("a\xFF", false), Error);
}

// Cut or changed anywhere, a file loads or is refused with an Error; nothing else.
TEST(TokenizerErrors, DamagedFiles) {
  std::string text = base().dump();
  for (size_t i = 0; i < text.size(); ++i) {
    EXPECT_THROW(Tokenizer::from_json(text.substr(0, i), "x"), Error);
    std::string flipped = text;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 7)));
    try {
      Tokenizer::from_json(flipped, "x").encode("abc", true);
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace nibble::frontends
