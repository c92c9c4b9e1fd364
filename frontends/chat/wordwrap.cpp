// The filter wordwrap: each line of a text in lines of no more than a width, as Python's textwrap
// cuts them.
#include <algorithm>

#include "frontends/chat/filters.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

using Characters = std::vector<char32_t>;

struct Chunk {  // of the line's characters
  size_t begin, end;
  size_t size() const { return end - begin; }
};

bool is_blank(char32_t c) { return c == U' ' || (c >= U'\t' && c <= U'\r'); }
bool is_word_letter(char32_t c) { return is_word_character(c) && !is_decimal(c); }
bool ends_phrase(char32_t c) {
  return is_word_character(c) ||
         std::u32string_view(U"!\"'&.,?").find(c) != std::u32string_view::npos;
}

class Wrapper {
 public:
  Wrapper(std::string_view line, size_t width, bool break_long_words, bool break_on_hyphens)
      : line_(characters_of(line)),
        width_(width),
        break_long_words_(break_long_words),
        break_on_hyphens_(break_on_hyphens) {}

  std::vector<std::string> run() {
    std::vector<Chunk> chunks = split();
    std::reverse(chunks.begin(), chunks.end());
    std::vector<std::string> lines;
    while (!chunks.empty()) {
      spend();
      if (!lines.empty() && blank(chunks.back())) chunks.pop_back();
      std::vector<Chunk> current;
      size_t length = 0;
      while (!chunks.empty() && length + chunks.back().size() <= width_) {
        length += chunks.back().size();
        current.push_back(chunks.back());
        chunks.pop_back();
      }
      if (!chunks.empty() && chunks.back().size() > width_) {
        take_long(chunks, current, width_ - length);
      }
      if (!current.empty() && blank(current.back())) current.pop_back();
      if (!current.empty()) lines.push_back(text(current.front().begin, current.back().end));
    }
    return lines;
  }

 private:
  bool is(size_t at, bool (*kind)(char32_t)) const { return at < line_.size() && kind(line_[at]); }
  bool before(size_t at, size_t back, bool (*kind)(char32_t)) const {
    return at >= back && kind(line_[at - back]);
  }
  size_t dashes(size_t at) const {
    size_t end = at;
    while (end < line_.size() && line_[end] == U'-') ++end;
    return end - at;
  }
  std::string text(size_t begin, size_t end) const {
    return text_of(Characters(line_.begin() + static_cast<int64_t>(begin),
                              line_.begin() + static_cast<int64_t>(end)));
  }
  bool blank(const Chunk& chunk) const {
    return std::all_of(line_.begin() + static_cast<int64_t>(chunk.begin),
                       line_.begin() + static_cast<int64_t>(chunk.end), is_space);
  }

  // Two or more dashes between words.
  bool is_long_dash(size_t at) const {
    const size_t count = dashes(at);
    return count >= 2 && before(at, 1, ends_phrase) && is(at + count, is_word_character);
  }
  // A dash at `at` within a word, behind which a line may end.
  bool is_hyphen(size_t at) const {
    const bool after_letters =
        before(at, 1, is_word_letter) &&
        (before(at, 2, is_word_letter) ||
         (at >= 3 && line_[at - 2] == U'-' && is_word_letter(line_[at - 3])));
    if (line_[at] != U'-' || !after_letters || !is(at + 1, is_word_letter)) return false;
    const size_t next = at + 2 < line_.size() && line_[at + 2] == U'-' ? at + 3 : at + 2;
    return is(next, is_word_letter);
  }

  size_t end_of_word(size_t at) const {
    if (break_on_hyphens_ && is_long_dash(at)) return at + dashes(at);
    for (++at; at < line_.size() && !is_blank(line_[at]); ++at) {
      if (!break_on_hyphens_) continue;
      if (is_hyphen(at)) return at + 1;
      if (is_long_dash(at)) return at;
    }
    return at;
  }

  std::vector<Chunk> split() const {
    std::vector<Chunk> out;
    for (size_t at = 0; at < line_.size();) {
      const size_t begin = at;
      if (is_blank(line_[at])) {
        while (is(at, is_blank)) ++at;
      } else {
        at = end_of_word(at);
      }
      out.push_back({begin, at});
      foresee(out.size() * sizeof(Chunk));
    }
    return out;
  }

  // Of a word that fits no line: what fits on this one, or all of it.
  void take_long(std::vector<Chunk>& chunks, std::vector<Chunk>& current, size_t left) const {
    Chunk& chunk = chunks.back();
    if (break_long_words_ && left > 0) {
      size_t end = chunk.begin + left;
      if (break_on_hyphens_) {
        size_t hyphen = end;
        while (hyphen > chunk.begin && line_[hyphen - 1] != U'-') --hyphen;
        const size_t dash = hyphen > chunk.begin ? hyphen - 1 : chunk.begin;
        if (dash > chunk.begin && dashes(chunk.begin) < dash - chunk.begin) end = hyphen;
      }
      current.push_back({chunk.begin, end});
      chunk.begin = end;
    } else if (current.empty()) {
      current.push_back(chunk);
      chunks.pop_back();
    }
  }

  Characters line_;
  size_t width_;
  bool break_long_words_, break_on_hyphens_;
};

}  // namespace

Value wrap_words(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given(
      "do_wordwrap(environment, s; width=, break_long_words=, wrapstring=, break_on_hyphens=)",
      arguments);
  require_defined(value);
  if (!value.is_text()) raise("'{}' object has no attribute 'splitlines'", type_name(value));
  const Value between = given.value_or(2, Value());
  if (!between.is_none() && !between.is_text()) {
    require_defined(between);
    raise("'{}' object has no attribute 'join'", type_name(between));
  }
  const int64_t width = given.integer_or(0, 79);
  std::string out;
  bool first = true;
  for (const std::string_view line : split_lines(value.text(), false)) {
    if (width <= 0 && !line.empty()) raise("invalid width {} (must be > 0)", width);
    if (!first) out += between.is_none() ? "\n" : between.text();
    first = false;
    // An empty line has no lines.
    bool begun = false;
    for (const std::string& part : Wrapper(line, static_cast<size_t>(std::max<int64_t>(width, 0)),
                                           given.truth_or(1, true), given.truth_or(3, true))
                                       .run()) {
      if (begun) out += between.is_none() ? "\n" : between.text();
      begun = true;
      out += part;
      foresee(out.size());
    }
  }
  return between.is_markup() ? Value::markup(std::move(out)) : Value::of(std::move(out));
}

}  // namespace nibble::frontends::chat
