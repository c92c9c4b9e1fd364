#include "frontends/tokenizer/normalizer.h"

#include <memory>
#include <optional>

#include "frontends/tokenizer/charsmap.h"
#include "frontends/tokenizer/pattern.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

void strip(std::string& text, bool left, bool right) {
  text = std::string(strip_if(text, left, right, is_white_space));
}

// Of a transformer's text cleaning: control characters, tags and the like.
bool is_control(char32_t c) { return c != U'\t' && c != U'\n' && c != U'\r' && is_other(c); }

bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// SentencePiece's rules of the name: ASCII controls go, what else separates becomes a space.
void normalize_nmt(std::string& out, char32_t c) {
  const bool dropped = (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) ||
                       c == 0x7F || c == 0x8F || c == 0x9F;
  const bool space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
                     (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                     c == 0xFEFF || c == 0xFFFD;
  if (!dropped) append_utf8(out, space ? U' ' : c);
}

// The table as Hugging Face's library applies it: to clusters of up to 5 bytes by the shortest of
// their prefixes that it holds, else to each character.
std::string apply_charsmap(const Charsmap& charsmap, std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t cluster = grapheme_length(text, at);
    const Charsmap::Match whole =
        cluster < 6 ? charsmap.shortest(text.substr(at, cluster)) : Charsmap::Match{};
    if (whole.length > 0) {
      out += whole.replacement;
      at += cluster;
      continue;
    }
    for (const size_t end = at + cluster; at < end;) {
      const std::string_view character = text.substr(at, utf8_length(text[at]));
      const Charsmap::Match match = charsmap.shortest(character);
      out += match.length > 0 ? match.replacement : character;
      at += character.size();
    }
  }
  return out;
}

// f(out, code point) for every character.
template <typename Map>
void map_characters(std::string& text, Map&& map) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) map(out, next_code_point(text, at));
  text = std::move(out);
}

Normalizer::Step precompiled(const JsonView& json) {
  json.allow_only({"type", "precompiled_charsmap"});
  const JsonView field = json.at("precompiled_charsmap");
  const std::optional<std::string> bytes = decode_base64(field.string());
  if (!bytes) fail("{} should be in base 64, but it is not.", field.where());
  return [charsmap = std::make_shared<const Charsmap>(*bytes, field.where())](std::string& text) {
    text = apply_charsmap(*charsmap, text);
  };
}

Normalizer::Step per_character(void (*map)(std::string&, char32_t)) {
  return [map](std::string& text) { map_characters(text, map); };
}

// Texts as BERT wants them.
void add_bert(const JsonView& json, std::vector<Normalizer::Step>& steps) {
  json.allow_only({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
  const bool lowercase = json.boolean_or("lowercase", true);
  if (json.boolean_or("clean_text", true)) {
    steps.push_back(per_character([](std::string& out, char32_t c) {
      if (c == 0 || c == 0xFFFD || is_control(c)) return;
      append_utf8(out, is_white_space(c) ? U' ' : c);
    }));
  }
  if (json.boolean_or("handle_chinese_chars", true)) {
    steps.push_back(per_character([](std::string& out, char32_t c) {
      if (is_chinese(c)) out += ' ';
      append_utf8(out, c);
      if (is_chinese(c)) out += ' ';
    }));
  }
  if (json.boolean_or("strip_accents", lowercase)) {
    steps.emplace_back([](std::string& text) { text = normalize_form(text, NormalForm::nfd); });
    steps.push_back(per_character([](std::string& out, char32_t c) {
      if (!is_nonspacing_mark(c)) append_utf8(out, c);
    }));
  }
  if (lowercase) steps.push_back(per_character(append_lowercase));
}

std::optional<NormalForm> form_of(const std::string& type) {
  if (type == "NFC") return NormalForm::nfc;
  if (type == "NFD") return NormalForm::nfd;
  if (type == "NFKC") return NormalForm::nfkc;
  if (type == "NFKD") return NormalForm::nfkd;
  return std::nullopt;
}

}  // namespace

void Normalizer::add(const JsonView& json, int depth) {
  if (depth > 8) fail("{} nests sequences more than 8 deep.", json.where());
  const std::string& type = json.type();
  if (type == "Sequence") {
    json.allow_only({"type", "normalizers"});
    for (const JsonView& item : json.at("normalizers").items()) add(item, depth + 1);
  } else if (type == "Precompiled") {
    steps.push_back(precompiled(json));
  } else if (type == "BertNormalizer") {
    add_bert(json, steps);
  } else if (type == "Prepend") {
    json.allow_only({"type", "prepend"});
    steps.emplace_back([prefix = json.at("prepend").string()](std::string& text) {
      if (!text.empty()) text.insert(0, prefix);
    });
  } else if (type == "Replace") {
    json.allow_only({"type", "pattern", "content"});
    steps.emplace_back([pattern = Pattern::from_json(json.at("pattern")),
                        content = json.at("content").string()](std::string& text) {
      text = pattern.replace_all(text, content);
    });
  } else if (type == "Strip") {
    json.allow_only({"type", "strip_left", "strip_right"});
    bool left = json.boolean_or("strip_left", true), right = json.boolean_or("strip_right", true);
    strips_left = strips_left || left;
    steps.emplace_back([left, right](std::string& text) { strip(text, left, right); });
  } else {
    json.allow_only({"type"});
    if (const auto form = form_of(type)) {
      steps.emplace_back([form](std::string& text) { text = normalize_form(text, *form); });
    } else if (type == "Lowercase") {
      steps.push_back(per_character(append_lowercase));
    } else if (type == "Nmt") {
      steps.push_back(per_character(normalize_nmt));
    } else if (type == "StripAccents") {
      steps.push_back(per_character([](std::string& out, char32_t c) {
        if (!is_mark(c)) append_utf8(out, c);
      }));
    } else if (type == "ByteLevel") {
      steps.emplace_back([](std::string& text) { text = bytes_to_characters(text); });
    } else {
      fail("{} is a normalizer of type \"{}\", which is not supported.", json.where(), type);
    }
  }
}

}  // namespace nibble::frontends
