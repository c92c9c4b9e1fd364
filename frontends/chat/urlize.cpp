// The filter urlize: addresses in a text as links of HTML.
#include <algorithm>
#include <set>

#include "frontends/chat/filters.h"
#include "frontends/chat/interpreter.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/unicode_text.h"
#include "frontends/tokenizer/pattern.h"

namespace nibble::frontends::chat {
namespace {

constexpr size_t kLongestWord = 4096;  // in which an address is looked for

// Python's \w, which knows no marks.
#define W R"([\p{L}\p{N}_])"
const char* const kWeb =
    R"(\A(?i:)"
    R"((?:https?://|www\.)(?:(?:[\p{L}\p{N}_%\-]+\.)+)?(?:[a-z]{2,63}|xn--[\p{L}\p{N}_%]{2,59}))"
    R"(|(?:[\p{L}\p{N}_%\-]{2,63}\.)+(?:com|net|int|edu|gov|org|info|mil))"
    R"(|https?://(?:\p{Nd}{1,3}(?:\.\p{Nd}{1,3}){3})"
    R"(|\[(?:[\p{Nd}a-f]{0,4}:){2}(?:[\p{Nd}a-f]{0,4}:?){1,6}\]))"
    R"()(?::\p{Nd}{1,5})?(?:[/?#].*)?\z)";
const char* const kMail = R"(\A.+@)" W R"([\p{L}\p{N}_.\-]*\.)" W R"(+\z)";
const char* const kScheme = R"(\A[\p{L}\p{N}_.+\-]{2,}:/{0,2}\z)";
#undef W

bool matches(const Pattern& pattern, const std::string& text) {
  spend_bytes(text.size() * 16);
  if (text.empty() || text.size() > kLongestWord) return false;
  const auto spans = pattern.find(text);
  return !spans.empty() && spans[0].match;
}

bool is_web_address(const std::string& text) {
  static const Pattern pattern = Pattern::regex(kWeb, "urlize");
  return matches(pattern, text);
}
bool is_mail_address(const std::string& text) {
  static const Pattern pattern = Pattern::regex(kMail, "urlize");
  return matches(pattern, text);
}

size_t count_of(std::string_view text, std::string_view part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string_view::npos; at += part.size()) {
    ++count;
  }
  return count;
}

// The length of the longest start, or end, of `text` that these parts make up.
size_t affix(std::string_view text, bool front, std::initializer_list<std::string_view> parts) {
  size_t length = 0;
  bool more = true;
  while (more) {
    more = false;
    for (const std::string_view part : parts) {
      const std::string_view rest =
          front ? text.substr(length) : text.substr(0, text.size() - length);
      if (!(front ? rest.starts_with(part) : rest.ends_with(part))) continue;
      length += part.size();
      more = true;
      break;
    }
  }
  return length;
}

struct Links {
  std::optional<int64_t> longest;  // of what is shown of an address
  std::string attributes;
  std::vector<std::string> schemes;

  std::string shown(const std::string& text) const {
    if (!longest || count_characters(text) <= *longest) return text;
    const int64_t kept =
        *longest >= 0 ? *longest : std::max<int64_t>(count_characters(text) + *longest, 0);
    return text.substr(0, byte_of(text, kept)) + "...";
  }

  std::string link(const std::string& text) const {
    if (is_web_address(text)) {
      const bool whole = text.starts_with("https://") || text.starts_with("http://");
      return fmt::format("<a href=\"{}{}\"{}>{}</a>", whole ? "" : "https://", text, attributes,
                         shown(text));
    }
    if (text.starts_with("mailto:") && is_mail_address(text.substr(7))) {
      return fmt::format("<a href=\"{}\">{}</a>", text, text.substr(7));
    }
    if (text.find('@') != std::string::npos && !text.starts_with("www.") &&
        !text.starts_with("@") && text.find(':') == std::string::npos && is_mail_address(text)) {
      return fmt::format("<a href=\"mailto:{0}\">{0}</a>", text);
    }
    std::string out = text;
    for (const std::string& scheme : schemes) {
      if (out != scheme && out.starts_with(scheme)) {
        out = fmt::format("<a href=\"{0}\"{1}>{0}</a>", out, attributes);
      }
    }
    return out;
  }

  std::string word(std::string_view word) const {
    const size_t front = affix(word, true, {"(", "<", "&lt;"});
    std::string middle(word.substr(front)), tail;
    if (const size_t back = affix(middle, false, {")", ">", ".", ",", "&gt;"}); back > 0) {
      tail = middle.substr(middle.size() - back);
      middle.resize(middle.size() - back);
    }
    // Brackets that belong to the address.
    for (const auto& [open, close] :
         {std::pair<std::string_view, std::string_view>("(", ")"), {"<", ">"}, {"&lt;", "&gt;"}}) {
      const size_t opened = count_of(middle, open);
      if (opened <= count_of(middle, close)) continue;
      for (size_t i = std::min(opened, count_of(tail, close)); i > 0; --i) {
        const size_t end = tail.find(close) + close.size();
        middle += tail.substr(0, end);
        tail.erase(0, end);
      }
    }
    return std::string(word.substr(0, front)) + link(middle) + tail;
  }
};

// The words of `rel` and those of Jinja's policy, in order.
std::string relations(const std::string& rel, bool nofollow) {
  std::set<std::string> all = {"noopener"};
  for (const std::string_view word : split_white(rel, -1, false)) all.emplace(word);
  if (nofollow) all.emplace("nofollow");
  std::string out;
  for (const std::string& word : all) out += (out.empty() ? "" : " ") + word;
  return out;
}

std::vector<std::string> schemes_of(const Value& given) {
  static const Pattern pattern = Pattern::regex(kScheme, "urlize");
  std::vector<std::string> out;
  if (given.is_none()) return out;
  for (const Value& scheme : to_items(given)) {
    if (!scheme.is_text()) {
      raise("expected string or bytes-like object, got '{}'", type_name(scheme));
    }
    if (!matches(pattern, scheme.text())) {
      raise("{} is not a valid URI scheme prefix.", to_repr(scheme));
    }
    out.push_back(scheme.text());
  }
  return out;
}

std::string attribute(const char* name, const std::string& value) {
  return value.empty() ? "" : fmt::format(" {}=\"{}\"", name, value);
}

}  // namespace

Value urlize(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Parameters given(
      "do_urlize(eval_ctx, value; trim_url_limit=, nofollow=, target=, rel=, extra_schemes=)",
      arguments);
  Links links;
  const Value limit = given.value_or(0, Value()), rel = given.value_or(3, Value());
  const Value target = given.value_or(2, Value());
  if (truth(rel) && !rel.is_text()) {
    raise("'{}' object has no attribute 'split'", type_name(rel));
  }
  links.schemes = schemes_of(given.value_or(4, Value()));
  if (!limit.is_none()) links.longest = to_index(limit);
  links.attributes = attribute(
      "rel", escape_html(relations(truth(rel) ? rel.text() : "", given.truth_or(1, false))));
  if (truth(target)) links.attributes += attribute("target", escaped(target).text());
  const std::string text = escaped(value).text();
  std::string out;
  const auto is_word = [](char32_t c) { return !is_space(c); };
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view after = strip_if(rest, true, false, is_word);
    out += links.word(rest.substr(0, rest.size() - after.size()));
    rest = strip(after, true, false);
    out += after.substr(0, after.size() - rest.size());
    foresee(out.size());
  }
  return interpreter.autoescape() ? Value::markup(std::move(out)) : Value::of(std::move(out));
}

}  // namespace nibble::frontends::chat
