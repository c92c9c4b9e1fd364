// From a GGUF's vocabulary to a tokenizer. "llama" is a SentencePiece BPE and becomes the model of
// a tokenizer.model; "t5" its Unigram; "gpt2" is a byte-level BPE whose way of cutting words is
// named by "pre", with the patterns of llama.cpp (src/llama-vocab.cpp).
#include "frontends/tokenizer/gguf_vocabulary.h"

#include <map>

#include "frontends/tokenizer/sentencepiece_model.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

// Patterns in order, each cutting what the one before left.
using Patterns = std::vector<std::string>;

const std::string kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))";
// Llama 3's and its descendants', which differ in how many digits stay together.
std::string llama3_pattern(const char* digits) {
  return std::string(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)") + digits +
         R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}
const std::string kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string kDeepseek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Letters of alphabets with capitals, spelled out as the tokenizer does.
const std::string kDeepseekLetters =
    R"(\s?[A-Za-z\x{B5})"
    R"(\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386})"
    R"(\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F})"
    R"(\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA})"
    R"(\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A})"
    R"(\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D})"
    R"(\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4})"
    R"(\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3})"
    R"(\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107})"
    R"(\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D})"
    R"(\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184})"
    R"(\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D})"
    R"(\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E})"
    R"(\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A})"
    R"(\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB})"
    R"(\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943})"
    "]+";
const std::string kBloom = " ?[^(\\s|.,!?…。，、।۔،)]+";
// Falcon's has the backtick, llama.cpp's default has not.
const std::string kPunctuation = R"([\p{P}\$\+<=>\^~\|]+)";
const std::string kFalconPunctuation = R"([\p{P}\$\+<=>\^~\|`]+)";
// Llama 3's with spaces in groups of powers of two.
const std::string kJais2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|)"
    R"(\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})";
// Marks are of the letters before them.
const std::string kQwen35 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|)"
                            R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Line ends are apart from what stands before them.
const std::string kSeedCoder =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string kBailing =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]|\s+(?!\S)|\s+)";

struct PreTokenizing {
  Patterns patterns;
  bool llama3 = false;  // whole words before merges, and a bos unless the file says otherwise
};

const std::map<std::string, PreTokenizing>& pre_tokenizings() {
  static const auto* table = [] {
    auto* all = new std::map<std::string, PreTokenizing>;
    auto add = [&](std::initializer_list<const char*> names, const Patterns& patterns,
                   bool llama3 = false) {
      for (const char* name : names) (*all)[name] = {patterns, llama3};
    };
    add({"default"}, {kPunctuation, kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"});
    add({"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0",
         "mellum", "modern-bert", "mpt", "olmo", "jais", "roberta-bpe", "jina-v1-en",
         "jina-v2-code", "trillion", "granite-docling", "exaone4"},
        {kGpt2});
    add({"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
        {llama3_pattern(R"(\p{N}{1,3})")}, true);
    add({"dbrx", "smaug-bpe", "chatglm-bpe", "glm4"}, {llama3_pattern(R"(\p{N}{1,3})")});
    add({"qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "kormo", "f2llmv2",
         "grok-2", "solar-open"},
        {llama3_pattern(R"(\p{N})")});
    add({"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"},
        {R"(\p{N})", kGpt2});
    add({"falcon"}, {kFalconPunctuation, kGpt2, "[0-9][0-9][0-9]"});
    add({"bloom", "poro-chat", "gpt3-finnish"}, {kBloom});
    add({"tekken"}, {kTekken}, true);
    add({"gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie"}, {kGpt4o});
    add({"jais-2"}, {kJais2});
    add({"qwen35"}, {kQwen35});
    add({"seed-coder"}, {kSeedCoder});
    add({"bailingmoe", "bailingmoe2", "llada-moe"}, {kBailing});
    add({"deepseek-v3", "hunyuan-dense", "joyai-llm"},
        {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+", kDeepseek3});
    add({"deepseek-llm"}, {"[\r\n]", kDeepseekLetters, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+$",
                           "[一-龥ࠀ-一가-퟿]+", R"(\p{N}+)"});
    add({"deepseek-coder"},
        {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", "[一-龥ࠀ-一가-퟿]+", R"(\p{N})"});
    add({"viking"}, {kBloom, R"(\p{N})"});
    return all;
  }();
  return *table;
}

int32_t check_type(const GgufVocabulary& vocabulary, size_t id, const std::string& origin) {
  if (vocabulary.token_types.empty()) return 1;
  const int32_t type = vocabulary.token_types[id];
  if (type >= 0 && type <= 6) return type == 0 ? 1 : type;  // 0: undefined
  fail("{}: tokenizer.ggml.token_type[{}] is {}, outside 0..6.", origin, id, type);
}

void check_sizes(const GgufVocabulary& vocabulary, const std::string& origin) {
  const size_t count = vocabulary.tokens.size();
  if (count == 0 || static_cast<int64_t>(count) > kMostIds) {
    fail("{}: tokenizer.ggml.tokens has {} tokens, expected 1..{}.", origin, count, kMostIds);
  }
  if (!vocabulary.token_types.empty() && vocabulary.token_types.size() != count) {
    fail("{}: tokenizer.ggml.token_type has {} entries for {} tokens.", origin,
         vocabulary.token_types.size(), count);
  }
  if (!vocabulary.scores.empty() && vocabulary.scores.size() != count) {
    fail("{}: tokenizer.ggml.scores has {} entries for {} tokens.", origin,
         vocabulary.scores.size(), count);
  }
  for (const std::string& token : vocabulary.tokens) {
    if (find_invalid_utf8(token) != std::string_view::npos) {
      fail("{}: tokenizer.ggml.tokens[{}] is not valid UTF-8.", origin,
           &token - vocabulary.tokens.data());
    }
  }
}

// What stands around a text, when the file asks for it or, saying nothing, the format does.
void add_ends(const GgufVocabulary& vocabulary, bool add_bos, bool add_eos,
              const std::string& origin, TokenizerParts& parts) {
  auto check = [&](const char* name, int64_t id) {
    if (id >= 0 && id < static_cast<int64_t>(vocabulary.tokens.size())) {
      return static_cast<int32_t>(id);
    }
    fail("{}: tokenizer.ggml.{}_token_id is {}, but the ids are 0..{}.", origin, name, id,
         vocabulary.tokens.size() - 1);
  };
  if (vocabulary.add_bos >= 0) add_bos = vocabulary.add_bos != 0;
  if (vocabulary.add_eos >= 0) add_eos = vocabulary.add_eos != 0;
  if (add_bos && vocabulary.bos_id >= 0) {
    parts.post_processor.before.push_back(check("bos", vocabulary.bos_id));
  }
  if (add_eos && vocabulary.eos_id >= 0) {
    parts.post_processor.after.push_back(check("eos", vocabulary.eos_id));
  }
}

TokenizerParts sentencepiece(const GgufVocabulary& vocabulary, const std::string& origin) {
  const bool bpe = vocabulary.model == "llama";
  if (vocabulary.scores.empty()) fail("{}: tokenizer.ggml.scores is missing.", origin);
  SentencePieceModel model;
  model.origin = origin;
  model.kind = bpe ? SentencePieceModel::Kind::bpe : SentencePieceModel::Kind::unigram;
  model.add_dummy_prefix = vocabulary.add_space_prefix != 0;
  model.remove_extra_whitespaces = vocabulary.remove_extra_whitespaces > 0;
  model.charsmap =
      Charsmap(vocabulary.precompiled_charsmap, origin + ": tokenizer.ggml.precompiled_charsmap");
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const auto type = static_cast<PieceType>(check_type(vocabulary, i, origin));
    model.byte_fallback = model.byte_fallback || type == PieceType::byte;
    model.pieces.push_back({vocabulary.tokens[i], vocabulary.scores[i], type});
  }
  TokenizerParts parts = sentencepiece_parts(model);
  add_ends(vocabulary, bpe, !bpe, origin, parts);
  return parts;
}

std::vector<std::pair<std::string, std::string>> read_merges(const GgufVocabulary& vocabulary,
                                                             const std::string& origin) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (const std::string& merge : vocabulary.merges) {
    // The left part may itself begin with a space, so the search starts behind its first byte.
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos) {
      fail("{}: tokenizer.ggml.merges[{}] should be two tokens with a space between, found \"{}\".",
           origin, merges.size(), merge);
    }
    merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return merges;
}

TokenizerParts byte_level(const GgufVocabulary& vocabulary, const std::string& origin) {
  const std::string pre = vocabulary.pre.empty() ? "default" : vocabulary.pre;
  const auto known = pre_tokenizings().find(pre);
  if (known == pre_tokenizings().end()) {
    fail("{}: tokenizer.ggml.pre is \"{}\", a way of cutting words that is not known.", origin,
         pre);
  }
  TokenizerParts parts;
  BpeParts bpe;
  bpe.origin = origin;
  bpe.merges = read_merges(vocabulary, origin);
  bpe.ignore_merges = known->second.llama3;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const auto type = static_cast<PieceType>(check_type(vocabulary, i, origin));
    const std::string& text = vocabulary.tokens[i];
    const auto id = static_cast<int32_t>(i);
    if (text.empty()) fail("{}: tokenizer.ggml.tokens[{}] is empty.", origin, i);
    if (!bpe.vocabulary.emplace(text, id).second) {
      fail("{}: tokenizer.ggml.tokens[{}] repeats \"{}\".", origin, i, text);
    }
    const bool special = type == PieceType::control || type == PieceType::unknown;
    if (!special && type != PieceType::user_defined) continue;
    AddedToken token;
    token.content = text;
    token.id = id;
    token.special = special;
    parts.added.push_back(std::move(token));
  }
  parts.origin = origin;
  parts.model = make_bpe(std::move(bpe));
  for (const std::string& pattern : known->second.patterns) {
    parts.pre_tokenizer.add_split(pattern, fmt::format("{}: the pattern of \"{}\"", origin, pre));
  }
  parts.pre_tokenizer.add_bytes(vocabulary.add_space_prefix > 0);
  parts.decoder.add_byte_level();
  // Llama 3's tokenizers and Tekken begin a text with their bos, the others when the file says so.
  add_ends(vocabulary, known->second.llama3, false, origin, parts);
  return parts;
}

}  // namespace

Tokenizer Tokenizer::from_gguf(const GgufVocabulary& vocabulary, const std::string& origin) {
  check_sizes(vocabulary, origin);
  if (vocabulary.model == "llama" || vocabulary.model == "t5") {
    return make_tokenizer(sentencepiece(vocabulary, origin));
  }
  if (vocabulary.model == "gpt2") return make_tokenizer(byte_level(vocabulary, origin));
  fail("{}: tokenizer.ggml.model is \"{}\", but only llama, gpt2 and t5 are supported.", origin,
       vocabulary.model);
}

}  // namespace nibble::frontends
