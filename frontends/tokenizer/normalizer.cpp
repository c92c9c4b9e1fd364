#include "frontends/tokenizer/normalizer.h"

#include "frontends/tokenizer/pattern.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

void strip(std::string& text, bool left, bool right) {
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!is_white_space(next_code_point(text, next))) break;
    begin = next;
  }
  while (right && end > begin) {
    if (!is_white_space(previous_code_point(text, end))) break;
    do --end;
    while ((static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U);
  }
  text = text.substr(begin, end - begin);
}

// f(out, code point) for every character.
template <typename Map>
void map_characters(std::string& text, Map&& map) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) map(out, next_code_point(text, at));
  text = std::move(out);
}

}  // namespace

void Normalizer::add(const JsonView& json, int depth) {
  if (depth > 8) fail("{} nests sequences more than 8 deep.", json.where());
  const std::string& type = json.type();
  auto form = [&](NormalForm f) {
    steps.emplace_back([f](std::string& text) { text = normalize_form(text, f); });
  };
  if (type == "Sequence") {
    for (const JsonView& item : json.at("normalizers").items()) add(item, depth + 1);
  } else if (type == "NFC") {
    form(NormalForm::nfc);
  } else if (type == "NFD") {
    form(NormalForm::nfd);
  } else if (type == "NFKC") {
    form(NormalForm::nfkc);
  } else if (type == "NFKD") {
    form(NormalForm::nfkd);
  } else if (type == "Prepend") {
    steps.emplace_back([prefix = json.at("prepend").string()](std::string& text) {
      if (!text.empty()) text.insert(0, prefix);
    });
  } else if (type == "Replace") {
    steps.emplace_back([pattern = Pattern::from_json(json.at("pattern")),
                        content = json.at("content").string()](std::string& text) {
      text = pattern.replace_all(text, content);
    });
  } else if (type == "Lowercase") {
    steps.emplace_back([](std::string& text) { map_characters(text, append_lowercase); });
  } else if (type == "Strip") {
    bool left = json.boolean_or("strip_left", true), right = json.boolean_or("strip_right", true);
    steps.emplace_back([left, right](std::string& text) { strip(text, left, right); });
  } else if (type == "StripAccents") {
    steps.emplace_back([](std::string& text) {
      map_characters(text, [](std::string& out, char32_t c) {
        if (!is_nonspacing_mark(c)) append_utf8(out, c);
      });
    });
  } else if (type == "ByteLevel") {
    steps.emplace_back([](std::string& text) { text = bytes_to_characters(text); });
  } else {
    fail("{} is a normalizer of type \"{}\", which is not supported.", json.where(), type);
  }
}

}  // namespace nibble::frontends
