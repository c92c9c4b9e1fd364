// The methods of str.
#include <algorithm>
#include <unordered_map>

#include "frontends/chat/attributes.h"
#include "frontends/chat/filters.h"
#include "frontends/chat/format.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

// What a method of Markup takes into its text is escaped first.
Value escaped_like(const Value& self, const Value& value) {
  return self.is_markup() ? escaped(value) : value;
}

const std::string& need_text(const Value& value, std::string_view what) {
  if (!value.is_text()) {
    raise("{} must be str, not {}", what, value.is_none() ? "None" : type_name(value));
  }
  return value.text();
}

template <bool left, bool right>
Value strip_method(Interpreter&, const Value& self, Arguments& arguments) {
  const char* name = left && right ? "strip" : left ? "lstrip" : "rstrip";
  const Parameters given(left && right ? "str.strip(chars=, /)"
                         : left        ? "str.lstrip(chars=, /)"
                                       : "str.rstrip(chars=, /)",
                         arguments);
  if (!given.given(0) || given.need(0).is_none()) {
    return like(self, std::string(strip(self.text(), left, right)));
  }
  const Value& characters = given.need(0);
  if (!characters.is_text()) raise("{} arg must be None or str", name);
  return like(self, std::string(strip(self.text(), left, right, characters.text())));
}

template <bool from_right>
Value split_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given(from_right ? "str.rsplit(sep=, maxsplit=)" : "str.split(sep=, maxsplit=)",
                         arguments);
  const int64_t limit = given.integer_or(1, -1);
  const Value separator = given.value_or(0, Value());
  std::vector<std::string_view> parts;
  if (separator.is_none()) {
    parts = split_white(self.text(), limit, from_right);
  } else {
    if (!separator.is_text()) raise("must be str or None, not {}", type_name(separator));
    if (separator.text().empty()) raise("empty separator");
    parts = split_at(self.text(), separator.text(), limit, from_right);
  }
  foresee(parts.size(), sizeof(Value) + sizeof(Text));
  Items items;
  for (const std::string_view part : parts) items.push_back(like(self, std::string(part)));
  return Value::list(std::move(items));
}

Value split_lines_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given("str.splitlines(keepends=)", arguments);
  Items items;
  for (const auto line : split_lines(self.text(), given.truth_or(0, false))) {
    items.push_back(like(self, std::string(line)));
  }
  return Value::list(std::move(items));
}

// The part of the text that the arguments `start` and `end` leave, and where it starts.
std::string_view window(const Value& self, const Parameters& given, int64_t& first) {
  const std::string& text = self.text();
  const int64_t size = count_characters(text);
  const auto place = [&](size_t i, int64_t otherwise) {
    const Value value = given.value_or(i, Value());
    if (value.is_none()) return otherwise;
    if (!value.is_integral()) {
      raise("slice indices must be integers or None or have an __index__ method");
    }
    const int64_t at = value.integer();
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size + 1);
  };
  first = place(1, 0);
  const int64_t past = std::min(place(2, size), size);
  if (first > past) {
    first = size + 1;
    return {};
  }
  const size_t from = byte_of(text, first);
  return std::string_view(text).substr(from, byte_of(text, past) - from);
}

template <bool at_start>
Value affix_method(Interpreter&, const Value& self, Arguments& arguments) {
  const char* name = at_start ? "startswith" : "endswith";
  const Parameters given(at_start ? "str.startswith(prefix, start=, end=, /)"
                                  : "str.endswith(suffix, start=, end=, /)",
                         arguments);
  int64_t first = 0;
  const std::string_view text = window(self, given, first);
  const bool outside = first > count_characters(self.text());
  const auto matches = [&](const Value& affix) {
    if (!affix.is_text()) {
      raise("tuple for {} must only contain str, not {}", name, type_name(affix));
    }
    if (outside) return false;
    return at_start ? text.starts_with(affix.text()) : text.ends_with(affix.text());
  };
  const Value& affix = given.need(0);
  if (affix.is_tuple()) {
    return Value::of(std::any_of(affix.items().begin(), affix.items().end(), matches));
  }
  if (!affix.is_text()) {
    raise("{} first arg must be str or a tuple of str, not {}", name, type_name(affix));
  }
  return Value::of(matches(affix));
}

template <bool from_right, bool must>
Value find_method(Interpreter&, const Value& self, Arguments& arguments) {
  const std::string name =
      must ? (from_right ? "rindex" : "index") : (from_right ? "rfind" : "find");
  const Parameters given("str." + name + "(sub, start=, end=, /)", arguments);
  const std::string& wanted = need_text(given.need(0), name + "() argument 1");
  int64_t first = 0;
  const std::string_view text = window(self, given, first);
  const bool outside = first > count_characters(self.text());
  const size_t at = outside      ? std::string_view::npos
                    : from_right ? text.rfind(wanted)
                                 : text.find(wanted);
  if (at != std::string_view::npos) {
    return Value::of(first + count_characters(text.substr(0, at)));
  }
  if (must) raise("substring not found");
  return Value::of(int64_t{-1});
}

Value count_text_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given("str.count(sub, start=, end=, /)", arguments);
  const std::string& wanted = need_text(given.need(0), "count() argument 1");
  int64_t first = 0;
  std::string_view text = window(self, given, first);
  if (first > count_characters(self.text())) return Value::of(int64_t{0});
  if (wanted.empty()) return Value::of(count_characters(text) + 1);
  return Value::of(static_cast<int64_t>(split_at(text, wanted, -1, false).size()) - 1);
}

Value replace_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given("str.replace(old, new, /, count=)", arguments);
  const std::string& old = need_text(given.need(0), "replace() argument 1");
  const Value with = escaped_like(self, given.need(1));
  return like(self, replace_all(self.text(), old, need_text(with, "replace() argument 2"),
                                given.integer_or(2, -1)));
}

Value join_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given("str.join(iterable, /)", arguments);
  const Next next = iterate_if_any(given.need(0));
  if (!next) raise("can only join an iterable");
  std::string out;
  Value item;
  for (int64_t i = 0; next(item); ++i) {
    item = escaped_like(self, item);
    if (!item.is_text()) {
      raise("sequence item {}: expected str instance, {} found", i, type_name(item));
    }
    if (i > 0) out += self.text();
    out += item.text();
    foresee(out.size());
  }
  return like(self, std::move(out));
}

// ljust, rjust, center; zfill has a filler of its own.
template <char align>
Value justify_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given(align == '<'   ? "str.ljust(width, fillchar=, /)"
                         : align == '>' ? "str.rjust(width, fillchar=, /)"
                                        : "str.center(width, fillchar=, /)",
                         arguments);
  const int64_t wanted = to_index(given.need(0));
  const Value filler = escaped_like(self, given.value_or(1, Value::of(" ")));
  if (!filler.is_text()) {
    raise("The fill character must be a unicode character, not {}", type_name(filler));
  }
  const std::string& fill = filler.text();
  if (count_characters(fill) != 1) {
    raise("The fill character must be exactly one character long");
  }
  const int64_t missing = wanted - count_characters(self.text());
  if (missing <= 0) return self;
  foresee(static_cast<size_t>(missing), fill.size());
  const int64_t width = missing + count_characters(self.text());
  const int64_t left = align == '<'   ? 0
                       : align == '>' ? missing
                                      : missing / 2 + (missing & width & 1);
  const auto repeat = [&](int64_t count) {
    std::string out;
    for (int64_t i = 0; i < count; ++i) out += fill;
    return out;
  };
  return like(self, repeat(left) + self.text() + repeat(missing - left));
}

Value zfill_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given("str.zfill(width, /)", arguments);
  const int64_t missing = to_index(given.need(0)) - count_characters(self.text());
  if (missing <= 0) return self;
  foresee(static_cast<size_t>(missing), 1);
  const std::string& text = self.text();
  const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  return like(self, text.substr(0, sign) + std::string(static_cast<size_t>(missing), '0') +
                        text.substr(sign));
}

template <bool from_right>
Value partition_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given(from_right ? "str.rpartition(sep, /)" : "str.partition(sep, /)",
                         arguments);
  if (!given.need(0).is_text()) raise("must be str, not {}", type_name(given.need(0)));
  const std::string& separator = given.need(0).text();
  if (separator.empty()) raise("empty separator");
  const std::string& text = self.text();
  const size_t at = from_right ? text.rfind(separator) : text.find(separator);
  const auto part = [&](std::string piece) { return like(self, std::move(piece)); };
  if (at == std::string::npos) {
    return from_right ? Value::tuple({part(""), part(""), self})
                      : Value::tuple({self, part(""), part("")});
  }
  return Value::tuple(
      {part(text.substr(0, at)), part(separator), part(text.substr(at + separator.size()))});
}

template <bool prefix>
Value remove_affix_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given(prefix ? "str.removeprefix(prefix, /)" : "str.removesuffix(suffix, /)",
                         arguments);
  const std::string& affix =
      need_text(given.need(0), prefix ? "removeprefix() argument" : "removesuffix() argument");
  const std::string& text = self.text();
  if (prefix && text.starts_with(affix)) return like(self, text.substr(affix.size()));
  if (!prefix && text.ends_with(affix)) {
    return like(self, text.substr(0, text.size() - affix.size()));
  }
  return self;
}

template <std::string (*change)(std::string_view)>
Value change_method(Interpreter&, const Value& self, Arguments&) {
  return like(self, change(self.text()));
}

template <bool (*belongs)(char32_t)>
Value all_method(Interpreter&, const Value& self, Arguments&) {
  const auto all = characters_of(self.text());
  return Value::of(!all.empty() && std::all_of(all.begin(), all.end(), belongs));
}

bool is_letter_or_number(char32_t c) { return is_letter(c) || is_decimal(c) || is_numeral(c); }
bool is_ascii(char32_t c) { return c < 0x80; }

template <bool upper>
Value case_method(Interpreter&, const Value& self, Arguments&) {
  return Value::of(is_cased(self.text(), upper));
}

Value is_title_method(Interpreter&, const Value& self, Arguments&) {
  bool any = false, inside = false;
  for (const char32_t c : characters_of(self.text())) {
    const bool begins = is_upper(c) || is_title(c);
    if ((begins && inside) || (is_lower(c) && !inside)) return Value::of(false);
    inside = begins || is_lower(c);
    any = any || inside;
  }
  return Value::of(any);
}

Value is_identifier_method(Interpreter&, const Value& self, Arguments&) {
  const auto all = characters_of(self.text());
  const bool starts = !all.empty() && (is_letter(all[0]) || all[0] == U'_');
  return Value::of(starts && std::all_of(all.begin(), all.end(), is_word_character));
}

Value is_printable_method(Interpreter&, const Value& self, Arguments&) {
  const auto all = characters_of(self.text());
  return Value::of(std::all_of(all.begin(), all.end(), is_printable));
}

Value is_ascii_method(Interpreter&, const Value& self, Arguments&) {
  const auto all = characters_of(self.text());
  return Value::of(std::all_of(all.begin(), all.end(), is_ascii));
}

Value format_method(Interpreter&, const Value& self, Arguments& arguments) {
  return format_braces(self, arguments, nullptr);
}

Value format_map_method(Interpreter&, const Value& self, Arguments& arguments) {
  if (!arguments.named.empty()) raise("format_map() takes no keyword arguments");
  if (arguments.positional.size() != 1) {
    raise("format_map() takes exactly one argument ({} given)", arguments.positional.size());
  }
  Arguments none;
  return format_braces(self, none, &arguments.positional[0]);
}

// There are no bytes here.
Value encode_method(Interpreter&, const Value&, Arguments&) {
  fail("The chat template calls str.encode(), but the bytes that it makes are not supported.");
}

Value expand_tabs_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given("str.expandtabs(tabsize=)", arguments);
  const int64_t size = given.integer_or(0, 8);
  std::string out;
  int64_t column = 0;
  for (const char32_t c : characters_of(self.text())) {
    if (c == U'\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      foresee(out.size() + static_cast<size_t>(spaces));
      spend_bytes(static_cast<size_t>(spaces));
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
      continue;
    }
    append_utf8(out, c);
    column = c == U'\n' || c == U'\r' ? 0 : column + 1;
  }
  return like(self, std::move(out));
}

Value escape_method(Interpreter&, const Value&, Arguments& arguments) {
  return escaped(Parameters("Markup.escape(cls; s)", arguments).need(0));
}
Value strip_tags_method(Interpreter&, const Value& self, Arguments&) {
  return Value::of(strip_tags(self.text()));
}
Value unescape_method(Interpreter&, const Value& self, Arguments&) {
  return Value::of(unescape_html(self.text()));
}

}  // namespace

const Method* find_text_method(std::string_view name) {
  static const std::unordered_map<std::string_view, Method> methods = {
      {"strip", {strip_method<true, true>}},
      {"lstrip", {strip_method<true, false>}},
      {"rstrip", {strip_method<false, true>}},
      {"split", {split_method<false>}},
      {"rsplit", {split_method<true>}},
      {"splitlines", {split_lines_method}},
      {"startswith", {affix_method<true>}},
      {"endswith", {affix_method<false>}},
      {"find", {find_method<false, false>}},
      {"rfind", {find_method<true, false>}},
      {"index", {find_method<false, true>}},
      {"rindex", {find_method<true, true>}},
      {"count", {count_text_method}},
      {"replace", {replace_method}},
      {"join", {join_method}},
      {"ljust", {justify_method<'<'>}},
      {"rjust", {justify_method<'>'>}},
      {"center", {justify_method<'^'>}},
      {"zfill", {zfill_method}},
      {"partition", {partition_method<false>}},
      {"rpartition", {partition_method<true>}},
      {"removeprefix", {remove_affix_method<true>}},
      {"removesuffix", {remove_affix_method<false>}},
      {"translate", {translate}},
      {"maketrans", {make_translation}},
      {"format", {format_method}},
      {"format_map", {format_map_method}},
      {"expandtabs", {expand_tabs_method}},
      {"encode", {encode_method}},
      {"upper", {change_method<to_upper>, "str.upper()"}},
      {"lower", {change_method<to_lower>, "str.lower()"}},
      {"casefold", {change_method<fold_case>, "str.casefold()"}},
      {"title", {change_method<to_title>, "str.title()"}},
      {"capitalize", {change_method<capitalize>, "str.capitalize()"}},
      {"swapcase", {change_method<swap_case>, "str.swapcase()"}},
      {"isalpha", {all_method<is_letter>, "str.isalpha()"}},
      {"isdigit", {all_method<is_digit>, "str.isdigit()"}},
      {"isdecimal", {all_method<is_decimal>, "str.isdecimal()"}},
      {"isnumeric", {all_method<is_numeral>, "str.isnumeric()"}},
      {"isalnum", {all_method<is_letter_or_number>, "str.isalnum()"}},
      {"isspace", {all_method<is_space>, "str.isspace()"}},
      {"isupper", {case_method<true>, "str.isupper()"}},
      {"islower", {case_method<false>, "str.islower()"}},
      {"istitle", {is_title_method, "str.istitle()"}},
      {"isidentifier", {is_identifier_method, "str.isidentifier()"}},
      {"isprintable", {is_printable_method, "str.isprintable()"}},
      {"isascii", {is_ascii_method, "str.isascii()"}},
  };
  const auto found = methods.find(name);
  return found == methods.end() ? nullptr : &found->second;
}

const Method* find_markup_method(std::string_view name) {
  static const std::unordered_map<std::string_view, Method> methods = {
      {"escape", {escape_method}},
      {"striptags", {strip_tags_method, "Markup.striptags()"}},
      {"unescape", {unescape_method, "Markup.unescape()"}},
  };
  const auto found = methods.find(name);
  return found == methods.end() ? nullptr : &found->second;
}

}  // namespace nibble::frontends::chat
