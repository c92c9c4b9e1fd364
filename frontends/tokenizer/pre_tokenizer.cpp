#include "frontends/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "frontends/tokenizer/pattern.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

// GPT-2's words: contractions, letters, numbers and the rest, each with the space before it.
constexpr const char* kByteLevelExpression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

enum class Behavior : uint8_t { removed, isolated, with_previous, with_next, contiguous };

Behavior parse_behavior(const JsonView& json) {
  const std::string& name = json.string();
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::with_previous;
  if (name == "MergedWithNext") return Behavior::with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  fail("{} is \"{}\", which is no behaviour of a split.", json.where(), name);
}

// Joins a match to the span before it (in the order given), unless that was a match as well.
std::vector<Span> merge_matches(const std::vector<Span>& spans) {
  std::vector<Span> out;
  bool previous_match = false;
  for (const Span& span : spans) {
    if (span.match && !previous_match && !out.empty()) {
      out.back().begin = std::min(out.back().begin, span.begin);
      out.back().end = std::max(out.back().end, span.end);
    } else {
      out.push_back(span);
    }
    previous_match = span.match;
  }
  return out;
}

std::vector<Span> join(std::vector<Span> spans, Behavior behavior) {
  switch (behavior) {
    case Behavior::isolated:
      return spans;
    case Behavior::removed:
      std::erase_if(spans, [](const Span& span) { return span.match; });
      return spans;
    case Behavior::with_previous:
      return merge_matches(spans);
    case Behavior::with_next: {
      std::reverse(spans.begin(), spans.end());
      spans = merge_matches(spans);
      std::reverse(spans.begin(), spans.end());
      return spans;
    }
    case Behavior::contiguous: {
      std::vector<Span> out;
      for (const Span& span : spans) {
        if (!out.empty() && out.back().match == span.match) {
          out.back().end = span.end;
        } else {
          out.push_back(span);
        }
      }
      return out;
    }
  }
  return spans;
}

void split(const Word& word, const Pattern& pattern, Behavior behavior, bool invert,
           std::vector<Word>& out) {
  std::vector<Span> spans = pattern.find(word.text);
  if (invert) {
    for (Span& span : spans) span.match = !span.match;
  }
  for (const Span& span : join(std::move(spans), behavior)) {
    out.push_back(
        {word.text.substr(span.begin, span.end - span.begin), word.at_start && span.begin == 0});
  }
}

PreTokenizer::Step split_step(Pattern pattern, Behavior behavior, bool invert = false) {
  return
      [pattern = std::move(pattern), behavior, invert](const Word& word, std::vector<Word>& out) {
        split(word, pattern, behavior, invert, out);
      };
}

PreTokenizer::Step byte_level(bool prefix, bool use_regex) {
  Pattern pattern = Pattern::regex(kByteLevelExpression, "The expression of ByteLevel");
  return [prefix, use_regex, pattern](const Word& word, std::vector<Word>& out) {
    Word whole = word;
    if (prefix && !whole.text.starts_with(' ')) whole.text.insert(whole.text.begin(), ' ');
    size_t first = out.size();
    if (use_regex) {
      split(whole, pattern, Behavior::isolated, false, out);
    } else {
      out.push_back(std::move(whole));
    }
    for (size_t i = first; i < out.size(); ++i) out[i].text = bytes_to_characters(out[i].text);
  };
}

PreTokenizer::Step metaspace(const JsonView& json) {
  json.allow_only(
      {"type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"});
  std::string replacement = json.at("replacement").string();
  if (replacement.empty() || utf8_length(replacement[0]) != replacement.size()) {
    fail("{} should be one character, found \"{}\".", json.at("replacement").where(), replacement);
  }
  std::string scheme = json.string_or(
      "prepend_scheme", json.boolean_or("add_prefix_space", true) ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    fail("{} is \"{}\", expected always, first or never.", json.at("prepend_scheme").where(),
         scheme);
  }
  bool cut = json.boolean_or("split", true);
  return [=, spaces = Pattern::literal(" "), marks = Pattern::literal(replacement)](
             const Word& word, std::vector<Word>& out) {
    Word whole{spaces.replace_all(word.text, replacement), word.at_start};
    bool prepend = scheme == "always" || (scheme == "first" && word.at_start);
    if (prepend && !whole.text.starts_with(replacement)) whole.text.insert(0, replacement);
    if (cut) {
      split(whole, marks, Behavior::with_next, false, out);
    } else {
      out.push_back(std::move(whole));
    }
  };
}

// Between scripts. Spaces belong to what precedes them, and to nothing at the front.
void split_scripts(const Word& word, std::vector<Word>& out) {
  const std::string& text = word.text;
  size_t begin = text.size();
  int script = 0;
  const auto add = [&](size_t end) {
    if (begin < end) out.push_back({text.substr(begin, end - begin), word.at_start && begin == 0});
  };
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const int next = script_of(next_code_point(text, at));
    if (next == 0 || next == script) continue;
    add(start);
    begin = start;
    script = next;
  }
  add(text.size());
}

// Chunks of so many characters.
PreTokenizer::Step fixed_length(const JsonView& json) {
  json.allow_only({"type", "length"});
  const int64_t length = json.integer_or("length", 5);
  if (length < 1) fail("{} should be at least 1, found {}.", json.at("length").where(), length);
  return [length](const Word& word, std::vector<Word>& out) {
    for (size_t at = 0; at < word.text.size();) {
      const size_t begin = at;
      for (int64_t i = 0; i < length && at < word.text.size(); ++i) {
        at += utf8_length(word.text[at]);
      }
      out.push_back({word.text.substr(begin, at - begin), word.at_start && begin == 0});
    }
  };
}

}  // namespace

void PreTokenizer::add(const JsonView& json, int depth) {
  if (depth > 8) fail("{} nests sequences more than 8 deep.", json.where());
  const std::string& type = json.type();
  if (type == "Sequence") {
    json.allow_only({"type", "pretokenizers"});
    for (const JsonView& item : json.at("pretokenizers").items()) add(item, depth + 1);
  } else if (type == "ByteLevel") {
    json.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    steps.push_back(
        byte_level(json.boolean_or("add_prefix_space", true), json.boolean_or("use_regex", true)));
  } else if (type == "Metaspace") {
    steps.push_back(metaspace(json));
  } else if (type == "Split") {
    json.allow_only({"type", "pattern", "behavior", "invert"});
    steps.push_back(split_step(Pattern::from_json(json.at("pattern")),
                               parse_behavior(json.at("behavior")),
                               json.boolean_or("invert", false)));
  } else if (type == "Digits") {
    json.allow_only({"type", "individual_digits"});
    bool individual = json.boolean_or("individual_digits", false);
    steps.push_back(split_step(Pattern::characters(is_numeric),
                               individual ? Behavior::isolated : Behavior::contiguous));
  } else if (type == "Punctuation") {
    json.allow_only({"type", "behavior"});
    auto behavior = json.find("behavior");
    steps.push_back(split_step(Pattern::characters(is_punctuation),
                               behavior ? parse_behavior(*behavior) : Behavior::isolated));
  } else if (type == "UnicodeScripts") {
    json.allow_only({"type"});
    steps.push_back(split_scripts);
  } else if (type == "FixedLength") {
    steps.push_back(fixed_length(json));
  } else if (type == "BertPreTokenizer") {
    json.allow_only({"type"});
    steps.push_back(split_step(Pattern::characters(is_white_space), Behavior::removed));
    steps.push_back(split_step(Pattern::characters(is_punctuation), Behavior::isolated));
  } else if (type == "Whitespace") {
    json.allow_only({"type"});
    // Between words and other characters, whose runs stay together.
    for (const auto& kind : {is_word, is_white_space}) {
      steps.push_back(split_step(Pattern::characters(kind), kind == is_white_space
                                                                ? Behavior::removed
                                                                : Behavior::contiguous));
    }
  } else if (type == "WhitespaceSplit") {
    json.allow_only({"type"});
    steps.push_back(split_step(Pattern::characters(is_white_space), Behavior::removed));
  } else if (type == "CharDelimiterSplit") {
    json.allow_only({"type", "delimiter"});
    const JsonView delimiter = json.at("delimiter");
    if (delimiter.string().empty()) fail("{} is empty.", delimiter.where());
    steps.push_back(split_step(Pattern::literal(delimiter.string()), Behavior::removed));
  } else {
    fail("{} is a pre-tokenizer of type \"{}\", which is not supported.", json.where(), type);
  }
}

void PreTokenizer::add_split(const std::string& expression, const std::string& where) {
  steps.push_back(split_step(Pattern::regex(expression, where), Behavior::isolated));
}

void PreTokenizer::add_bytes(bool prefix) { steps.push_back(byte_level(prefix, false)); }

std::vector<Word> PreTokenizer::apply(Word word) const {
  std::vector<Word> words;
  if (!word.text.empty()) words.push_back(std::move(word));
  for (const Step& step : steps) {
    std::vector<Word> next;
    next.reserve(words.size());
    for (const Word& w : words) step(w, next);
    std::erase_if(next, [](const Word& w) { return w.text.empty(); });
    words = std::move(next);
  }
  return words;
}

}  // namespace nibble::frontends
