// Tokenizers of a few tokens each, and the templates of the chat reference test, several in one.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tests/fuzz/seeds/seeds.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/onnx_builder.h"

namespace nibble::fuzz {
namespace {

using nlohmann::json;
using runtime::read_file;

json byte_level(bool llama3) {
  json vocabulary, merges = json::array({"a b", "ab c"});
  int id = 0;
  for (const char* token : {"<s>", "</s>", "a", "b", "c", "d", "e", "o", "n", "t", "1", "2", "3",
                            "\xC4\xA0", "\xC4\x8A", "ab", "abc"}) {
    vocabulary[token] = id++;
  }
  if (llama3) merges = json::array({{"a", "b"}, {"ab", "c"}});
  const char* pattern = "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+";
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const json level = {{"type", "ByteLevel"},
                      {"add_prefix_space", !llama3},
                      {"trim_offsets", true},
                      {"use_regex", !llama3}};
  return {{"version", "1.0"},
          {"added_tokens",
           {{{"id", 0},
             {"content", "<s>"},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", true},
             {"normalized", false},
             {"special", true}}}},
          {"normalizer", llama3 ? json() : json{{"type", "NFC"}}},
          {"pre_tokenizer",
           llama3 ? json{{"type", "Sequence"}, {"pretokenizers", {split, level}}} : level},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
              {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
            {"pair",
             {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
              {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
            {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {0}}, {"tokens", {"<s>"}}}}}}}},
          {"decoder", level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", llama3},
            {"vocab", vocabulary},
            {"merges", merges}}}};
}

json unigram() {
  json pieces = json::array({{"<unk>", 0.0}, {"<s>", 0.0}, {"\xE2\x96\x81", -2.0}, {"a", -3.0}});
  for (const char* piece : {"o", "n", "c", "e", "once", "\xE2\x96\x81t", "time"}) {
    pieces.push_back({piece, -4.5});
  }
  const json space = {{"type", "Metaspace"},
                      {"replacement", "\xE2\x96\x81"},
                      {"prepend_scheme", "always"},
                      {"split", true}};
  const json replace = {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}};
  return {
      {"version", "1.0"},
      {"normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFKC"}}, replace}}}},
      {"pre_tokenizer", space},
      {"decoder", space},
      {"model", {{"type", "Unigram"}, {"unk_id", 0}, {"byte_fallback", false}, {"vocab", pieces}}}};
}

json word_piece() {
  return {{"version", "1.0"},
          {"normalizer", {{"type", "Lowercase"}}},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers",
             {{{"type", "WhitespaceSplit"}}, {{"type", "Digits"}, {"individual_digits", true}}}}}},
          {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
          {"model",
           {{"type", "WordPiece"},
            {"unk_token", "[UNK]"},
            {"continuing_subword_prefix", "##"},
            {"max_input_chars_per_word", 100},
            {"vocab", {{"[UNK]", 0}, {"on", 1}, {"##ce", 2}, {"a", 3}, {"upon", 4}}}}}};
}

// A tokenizer.model: pieces of {text, score, type}, the trainer's type, the normalizer.
std::string sentencepiece(int64_t type) {
  test::WireMessage model;
  const auto add = [&](const char* text, float score, int64_t kind) {
    model.message(1, test::WireMessage().text(1, text).real(2, score).integer(3, kind));
  };
  add("<unk>", 0, 2);
  add("<s>", 0, 3);
  add("</s>", 0, 3);
  for (int i = 0; i < 256; ++i) {
    if (i % 16 == 0) add(fmt::format("<0x{:02X}>", i).c_str(), 0, 6);
  }
  for (const char* text : {"\xE2\x96\x81", "o", "n", "on", "c", "e", "\xE2\x96\x81t", "time"}) {
    add(text, -1.5F, 1);
  }
  model.message(2, test::WireMessage().integer(3, type).integer(35, 0));
  model.message(3,
                test::WireMessage().text(1, "identity").integer(3, 1).integer(4, 1).integer(5, 1));
  return model.bytes();
}

}  // namespace

void tokenizer_seeds(const Corpus& corpus) {
  corpus.add("tokenizer", "byte_level", byte_level(false).dump());
  corpus.add("tokenizer", "split", byte_level(true).dump());
  corpus.add("tokenizer", "unigram", unigram().dump());
  corpus.add("tokenizer", "word_piece", word_piece().dump());
  corpus.add("tokenizer", "unigram.model", sentencepiece(1));
  corpus.add("tokenizer", "bpe.model", sentencepiece(2));
}

void chat_seeds(const Corpus& corpus) {
  const json all =
      json::parse(read_file(std::string(NIBBLE_SOURCE_DIR) + "/tests/frontends/chat_cases.json"));
  const std::string variables = all["variables"].dump();
  std::string text;
  int count = 0, files = 0;
  for (const json& one : all["cases"]) {
    if (!one.contains("rendered")) continue;
    text += one["template"].get<std::string>() + "\n";
    if (++count % 40 != 0) continue;
    corpus.add("chat", fmt::format("{:02}", files++), joined({text, variables}));
    text.clear();
  }
  corpus.add("chat", "talk",
             joined({"{% for m in messages %}<|{{ m.role }}|>\n{{ m['content'] | trim }}<|end|>\n"
                     "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
                     R"({"messages": [{"role": "user", "content": " hi "}],
                         "add_generation_prompt": true})"}));
}

}  // namespace nibble::fuzz
