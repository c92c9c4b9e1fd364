// Rewrites regular expressions from Oniguruma's dialect to PCRE2's: character classes are spelled
// out where the two disagree, and brackets within brackets, which PCRE2 does not know, become
// unions and intersections of what matches one character.
#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "frontends/tokenizer/pattern.h"
#include "jit/error.h"

namespace nibble::frontends {
namespace {

constexpr std::string_view kSpaces =
    R"(\t-\r\x20\x85\xA0\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
// The complement of kSpaces.
constexpr std::string_view kNotSpaces =
    R"(\x00-\x08\x0E-\x1F\x21-\x84\x86-\x9F\xA1-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027})"
    R"(\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF})";
// Letters, marks, digits, connectors and enclosed letters.
constexpr std::string_view kWords =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169})"
    R"(\x{1F170}-\x{1F189})";
// Outside brackets alone the superscripts and fractions of Latin-1 are word characters too.
constexpr std::string_view kLatinNumbers = R"(\xB2\xB3\xB9\xBC-\xBE)";
constexpr int kMostNesting = 16;

// What a name in [:name:] or \p{name} means, as the inside of a bracket; empty: not known here.
std::string_view named_set(std::string_view name) {
  static const std::map<std::string_view, std::string_view> sets = {
      {"alpha", R"(\p{Alphabetic})"},
      {"alnum", R"(\p{Alphabetic}\p{Nd})"},
      {"ascii", R"(\x00-\x7F)"},
      {"blank", R"(\p{Zs}\t)"},
      {"cntrl", R"(\p{Cc})"},
      {"digit", R"(\p{Nd})"},
      {"graph", R"(\p{L}\p{M}\p{N}\p{P}\p{S}\p{Cf}\p{Co})"},
      {"lower", R"(\p{Lowercase})"},
      {"print", R"(\p{L}\p{M}\p{N}\p{P}\p{S}\p{Cf}\p{Co}\p{Zs})"},
      {"punct", R"(\p{P}\p{S})"},
      {"space", kSpaces},
      {"upper", R"(\p{Uppercase})"},
      {"xdigit", "0-9A-Fa-f"},
      {"word", kWords},
  };
  const auto it = sets.find(name);
  return it == sets.end() ? std::string_view() : it->second;
}

std::string lowercase(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

// A union of bracket items and of expressions that match one character each, or its complement.
struct CharacterSet {
  bool negated = false;
  std::string items;
  std::vector<std::string> others;

  bool plain() const { return others.empty(); }
  std::string expression() const {
    if (plain()) return items.empty() ? "(?!)" : fmt::format("[{}{}]", negated ? "^" : "", items);
    std::string either = items.empty() ? "" : fmt::format("[{}]", items);
    for (const std::string& other : others) either += (either.empty() ? "" : "|") + other;
    return negated ? fmt::format("(?:(?!{})(?s:.))", either) : fmt::format("(?:{})", either);
  }
};

class Translator {
 public:
  Translator(const std::string& expression, const std::string& where)
      : text_(expression), where_(where) {}

  std::string translate() {
    std::string out;
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c == '[') {
        out += read_brackets(0);
      } else if (c == '\\') {
        out += escape_outside();
      } else {
        out += c;
      }
    }
    return out;
  }

 private:
  bool follows(std::string_view what) const {
    return std::string_view(text_).substr(at_).starts_with(what);
  }

  [[noreturn]] void refuse(std::string_view what) const {
    fail("{} uses {} at {}, which is not supported.", where_, what, at_);
  }

  // The character after a backslash, which has been read.
  char escaped() {
    if (at_ == text_.size()) fail("{} ends in a backslash.", where_);
    return text_[at_++];
  }

  // After a backslash outside brackets.
  std::string escape_outside() {
    const std::string word = fmt::format("[{}{}]", kWords, kLatinNumbers);
    switch (const char c = escaped()) {
      case 'w':
        return word;
      case 'W':
        return fmt::format("[^{}{}]", kWords, kLatinNumbers);
      case 'b':
        return fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word);
      case 'B':
        return fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word);
      case 'R':
      case 'X':
        return std::string("\\") + c;
      default: {
        --at_;
        CharacterSet set;
        const bool one = read_escape(set);
        return one ? set.items : set.expression();
      }
    }
  }

  // After a backslash: what it means goes into `set`. True: as an escape of one character.
  bool read_escape(CharacterSet& set) {
    switch (const char c = escaped()) {
      case 's':
        set.items += kSpaces;
        return false;
      case 'S':
        set.items += kNotSpaces;
        return false;
      case 'w':
        set.items += kWords;
        return false;
      case 'W':
        set.others.push_back(fmt::format("[^{}]", kWords));
        return false;
      case 'h':
        set.items += named_set("xdigit");
        return false;
      case 'H':
        set.others.push_back(fmt::format("[^{}]", named_set("xdigit")));
        return false;
      case 'p':
      case 'P':
        if (!follows("{")) break;
        read_property(c == 'P', set);
        return false;
      case 'u':
        set.items += fmt::format("\\x{{{}}}", four_digits());
        return true;
      default:
        if (std::string_view("KRXCNOGyYkg").find(c) != std::string_view::npos) {
          refuse(fmt::format("the escape \\{}", c));
        }
        set.items += {'\\', c};
        return true;
    }
    refuse("a property without braces");
  }

  std::string four_digits() {
    const std::string digits = text_.substr(at_, 4);
    if (digits.size() < 4 ||
        digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
      fail("{} should have four hexadecimal digits after \\u at {}.", where_, at_);
    }
    at_ += 4;
    return digits;
  }

  // {name} or {^name} of a property.
  void read_property(bool negated, CharacterSet& set) {
    const size_t close = text_.find('}', at_);
    if (close == std::string::npos) fail("{} has an open \"{{\" at {}.", where_, at_);
    std::string name = text_.substr(at_ + 1, close - at_ - 1);
    at_ = close + 1;
    if (name.starts_with('^')) {
      negated = !negated;
      name.erase(0, 1);
    }
    if (const std::string_view known = named_set(lowercase(name)); !known.empty()) {
      return add(known, negated, set);
    }
    // Three letters and more: a script (itself, not its extensions), but for these.
    static const std::vector<std::string_view> properties = {
        "any",         "alphabetic", "lowercase",   "uppercase",          "white_space", "emoji",
        "ideographic", "id_start",   "id_continue", "emoji_presentation", "assigned"};
    static const std::map<std::string_view, std::string_view> categories = {
        {"letter", "L"}, {"mark", "M"},      {"number", "N"}, {"punctuation", "P"},
        {"symbol", "S"}, {"separator", "Z"}, {"other", "C"}};
    const std::string lower = lowercase(name);
    if (const auto it = categories.find(lower); it != categories.end()) {
      name = it->second;
    } else if (name.size() > 2 &&
               std::find(properties.begin(), properties.end(), lower) == properties.end()) {
      name = "sc:" + name;
    }
    set.items += fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', name);
  }

  static void add(std::string_view items, bool negated, CharacterSet& set) {
    if (negated) {
      set.others.push_back(fmt::format("[^{}]", items));
    } else {
      set.items += items;
    }
  }

  // [:name:] or [:^name:], of which "[:" has been seen but not read.
  void read_posix(CharacterSet& set) {
    const size_t close = text_.find(":]", at_ + 2);
    if (close == std::string::npos) fail("{} has an open \"[:\" at {}.", where_, at_);
    std::string name = text_.substr(at_ + 2, close - at_ - 2);
    const bool negated = name.starts_with('^');
    if (negated) name.erase(0, 1);
    const std::string_view known = named_set(name);
    if (known.empty()) refuse(fmt::format("the class [:{}:]", name));
    at_ = close + 2;
    add(known, negated, set);
  }

  // Up to the bracket that closes; the opening one has been read.
  std::string read_brackets(int depth) {
    const CharacterSet set = read_set(depth);
    return set.expression();
  }

  CharacterSet read_set(int depth) {
    if (depth > kMostNesting) fail("{} nests brackets more than {} deep.", where_, kMostNesting);
    CharacterSet set;
    std::vector<CharacterSet> factors;  // of an intersection, all but the last
    bool negated = false;
    if (follows("^")) {
      negated = true;
      ++at_;
    }
    // A closing bracket right after the opening is an ordinary character.
    if (follows("]")) {
      set.items += "\\]";
      ++at_;
    }
    for (;;) {
      if (at_ >= text_.size()) fail("{} has an open bracket.", where_);
      if (follows("]")) break;
      if (follows("&&")) {
        factors.push_back(std::exchange(set, {}));
        at_ += 2;
      } else if (follows("[:")) {
        read_posix(set);
      } else if (follows("[")) {
        ++at_;
        CharacterSet inner = read_set(depth + 1);
        if (inner.plain() && !inner.negated) {
          set.items += inner.items;
        } else {
          set.others.push_back(inner.expression());
        }
      } else if (follows("\\")) {
        ++at_;
        read_escape(set);
      } else {
        set.items += text_[at_++];
      }
    }
    ++at_;
    if (!factors.empty()) {
      std::string all = "(?:";
      for (const CharacterSet& factor : factors) all += "(?=" + factor.expression() + ")";
      set = CharacterSet{.negated = false, .items = "", .others = {all + set.expression() + ")"}};
    }
    set.negated = negated;
    return set;
  }

  const std::string& text_;
  const std::string& where_;
  size_t at_ = 0;
};

}  // namespace

std::string to_pcre(const std::string& expression, const std::string& where) {
  return Translator(expression, where).translate();
}

}  // namespace nibble::frontends
