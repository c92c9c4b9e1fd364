#define PCRE2_CODE_UNIT_WIDTH 8
#include "frontends/tokenizer/pattern.h"

#include <pcre2.h>

#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

std::string pcre_message(int code) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(code, buffer, sizeof buffer) < 0) return "unknown error";
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Pattern::Regex {
  pcre2_code* code = nullptr;
  std::string where;

  Regex() = default;
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;
  ~Regex() { pcre2_code_free(code); }

  // The first match at or after `from`; false when there is none.
  bool match(std::string_view text, size_t from, pcre2_match_data* data, Span& span) const {
    auto run = [&](uint32_t options) {
      return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | options, data, nullptr);
    };
    int count = run(0);
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) count = run(PCRE2_NO_JIT);  // its stack is the heap
    if (count == PCRE2_ERROR_NOMATCH) return false;
    if (count < 0) fail("{} could not be matched: {}.", where, pcre_message(count));
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data);
    span = {offsets[0], offsets[1], true};
    return true;
  }
};

Pattern Pattern::literal(std::string text) {
  Pattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

Pattern Pattern::characters(std::function<bool(char32_t)> holds) {
  Pattern pattern;
  pattern.holds_ = std::move(holds);
  return pattern;
}

Pattern Pattern::regex(const std::string& expression, const std::string& where) {
  auto regex = std::make_shared<Regex>();
  regex->where = where;
  std::string translated = to_pcre(expression, where);
  std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  if (!context) fail("{} could not be compiled: no memory.", where);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE offset = 0;
  // Ruby's ^ and $ always match at line ends, hence MULTILINE.
  regex->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                              &code, &offset, context.get());
  if (regex->code == nullptr) {
    fail("{} is no regular expression: {} at offset {} of \"{}\".", where, pcre_message(code),
         offset, translated);
  }
  pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);  // refused: the interpreter does the same
  Pattern pattern;
  pattern.regex_ = std::move(regex);
  return pattern;
}

Pattern Pattern::from_json(const JsonView& json) {
  if (auto text = json.find("String")) {
    if (text->string().empty()) fail("{} is an empty pattern.", text->where());
    return literal(text->string());
  }
  if (auto expression = json.find("Regex")) return regex(expression->string(), expression->where());
  fail("{} should hold \"String\" or \"Regex\".", json.where());
}

std::vector<Span> Pattern::find(std::string_view text) const {
  std::vector<Span> spans;
  if (text.empty()) return spans;
  size_t covered = 0;
  auto add = [&](size_t begin, size_t end) {
    if (covered != begin) spans.push_back({covered, begin, false});
    spans.push_back({begin, end, true});
    covered = end;
  };
  if (regex_) {
    std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
        pcre2_match_data_create_from_pattern(regex_->code, nullptr), &pcre2_match_data_free);
    if (!data) fail("{} could not be matched: no memory.", regex_->where);
    Span span;
    size_t last_end = std::string_view::npos;
    for (size_t from = 0; from <= text.size() && regex_->match(text, from, data.get(), span);) {
      if (span.begin == span.end && span.end == last_end) {
        // Nothing, right after a match: not counted, and looked for again a character on.
        from += from < text.size() ? utf8_length(text[from]) : 1;
        continue;
      }
      add(span.begin, span.end);
      from = last_end = span.end;
    }
  } else if (holds_) {
    for (size_t at = 0; at < text.size();) {
      size_t begin = at;
      if (holds_(next_code_point(text, at))) add(begin, at);
    }
  } else {
    for (size_t at = 0; (at = text.find(literal_, at)) != std::string_view::npos;) {
      add(at, at + literal_.size());
      at += literal_.size();
    }
  }
  if (covered != text.size()) spans.push_back({covered, text.size(), false});
  return spans;
}

std::string Pattern::replace_all(std::string_view text, std::string_view content) const {
  std::string out;
  for (const Span& span : find(text)) {
    out += span.match ? content : text.substr(span.begin, span.end - span.begin);
  }
  return out;
}

}  // namespace nibble::frontends
