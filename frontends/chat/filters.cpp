// Filters on text, numbers and single values, and what all filters share.
#include "frontends/chat/filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "frontends/chat/attributes.h"
#include "frontends/chat/format.h"
#include "frontends/chat/interpreter.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

// str(value), but markup stays markup.
Value soft_text(const Value& value) { return value.is_text() ? value : Value::of(to_text(value)); }

template <std::string (*change)(std::string_view)>
Value change_text(Interpreter&, const Value& value, Arguments&) {
  const Value text = soft_text(value);
  return like(text, change(text.text()));
}

// Words begin after white space, dashes and opening brackets, unlike in str.title.
Value title(Interpreter&, const Value& value, Arguments&) {
  const Value text = soft_text(value);
  std::string out, word;
  const auto flush = [&] {
    if (word.empty()) return;
    const size_t first = utf8_length(word[0]);
    out += to_upper(word.substr(0, first)) + to_lower(word.substr(first));
    word.clear();
  };
  for (const char32_t c : characters_of(text.text())) {
    if (is_space(c) || c == U'-' || c == U'(' || c == U'{' || c == U'[' || c == U'<') {
      flush();
      append_utf8(out, c);
    } else {
      append_utf8(word, c);
    }
  }
  flush();
  return Value::of(std::move(out));
}

Value trim(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_trim(value; chars=)", arguments);
  const Value text = soft_text(value);
  const Value characters = given.value_or(0, Value());
  if (characters.is_none()) return like(text, std::string(strip(text.text(), true, true)));
  if (!characters.is_text()) raise("strip arg must be None or str");
  return like(text, std::string(strip(text.text(), true, true, characters.text())));
}

Value replace(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Parameters given("do_replace(eval_ctx, s; old, new, count=)", arguments);
  const Value count = given.value_or(2, Value());
  const Value &old = given.need(0), &with = given.need(1);
  const int64_t limit = count.is_none() ? -1 : to_index(count);
  Value text = interpreter.autoescape() ? soft_text(value) : Value::of(to_text(value));
  std::string in = to_text(with);
  if (interpreter.autoescape()) {
    if (old.is_markup() || (with.is_markup() && !value.is_markup())) text = escaped(value);
    if (text.is_markup()) in = escaped(with).text();
  }
  return like(text, replace_all(text.text(), to_text(old), in, limit));
}

Value default_value(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_default(value; default_value=, boolean=)", arguments);
  const bool replaced = value.is_undefined() || (given.truth_or(1, false) && !truth(value));
  return replaced ? given.value_or(0, Value::of("")) : value;
}

// With the decimal digits of any script as those of ASCII, less the white space around.
std::string plain_digits(std::string_view text) {
  std::string out;
  for (const char32_t c : characters_of(strip(text, true, true))) {
    if (c < 0x80 || !is_decimal(c)) {
      append_utf8(out, c);
      continue;
    }
    char32_t zero = c;  // they come in tens
    while (is_decimal(zero - 1)) --zero;
    out += static_cast<char>('0' + (c - zero) % 10);
  }
  return out;
}

std::optional<int64_t> parse_integer(std::string_view given, int64_t base) {
  const std::string whole = plain_digits(given);
  std::string_view text = whole;
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.size() > 2 && text[0] == '0' && base != 10) {
    const char kind = static_cast<char>(text[1] | 0x20);
    const int64_t implied = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
    if (implied != 0 && (base == 0 || base == implied)) {
      base = implied;
      text.remove_prefix(2);
    }
  }
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits += text[i];
    } else if (i == 0 || i + 1 == text.size() || text[i + 1] == '_') {
      return std::nullopt;
    }
  }
  if (base == 0) base = 10;
  if (base < 2 || base > 36) raise("int() base must be >= 2 and <= 36, or 0");
  int64_t number = 0;
  const char* end = digits.data() + digits.size();
  const auto parsed = std::from_chars(digits.data(), end, number, static_cast<int>(base));
  if (digits.empty() || parsed.ptr != end || digits[0] == '-') return std::nullopt;
  if (parsed.ec != std::errc()) {
    fail("The chat template makes an integer of more than 64 bits.");
  }
  return negative ? -number : number;
}

std::optional<double> parse_real(std::string_view given) {
  const std::string whole = plain_digits(given);
  const std::string_view text = whole;
  std::string plain(text.starts_with('+') ? text.substr(1) : text);
  std::erase(plain, '_');
  double number = 0;
  const char* end = plain.data() + plain.size();
  const auto parsed = std::from_chars(plain.data(), end, number);
  if (plain.empty() || parsed.ptr != end || parsed.ec == std::errc::invalid_argument) {
    return std::nullopt;
  }
  if (parsed.ec == std::errc::result_out_of_range) number = std::strtod(plain.c_str(), nullptr);
  return number;
}

std::optional<Value> truncated(double value) {
  if (!std::isfinite(value)) return std::nullopt;
  if (std::fabs(value) >= 9.2e18) fail("The chat template makes an integer of more than 64 bits.");
  return Value::of(static_cast<int64_t>(value));
}

Value to_int(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_int(value; default=, base=)", arguments);
  require_defined(value);
  const Value otherwise = given.value_or(0, Value::of(int64_t{0}));
  if (value.is_integral()) return Value::of(value.integer());
  if (value.is_float()) return truncated(value.real()).value_or(otherwise);
  if (!value.is_text()) return otherwise;
  if (const auto number = parse_integer(value.text(), given.integer_or(1, 10))) {
    return Value::of(*number);
  }
  const auto real = parse_real(value.text());
  return real ? truncated(*real).value_or(otherwise) : otherwise;
}

Value to_float(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_float(value; default=)", arguments);
  require_defined(value);
  if (value.is_number()) return Value::of(value.real());
  const auto real = value.is_text() ? parse_real(value.text()) : std::nullopt;
  return real ? Value::of(*real) : given.value_or(0, Value::of(0.0));
}

// To `precision` places, halves to even, as Python rounds the exact value.
Value round_half_even(const Value& value, int64_t precision) {
  if (!value.is_number()) raise("type {} doesn't define __round__ method", type_name(value));
  if (value.is_integral()) {
    if (precision >= 0) return Value::of(value.integer());
    if (precision < -18) return Value::of(int64_t{0});
    int64_t unit = 1;
    for (int64_t i = 0; i < -precision; ++i) unit *= 10;
    const int64_t number = value.integer(), below = number - ((number % unit) + unit) % unit;
    const int64_t rest = number - below;
    const bool up = rest > unit / 2 || (rest == unit - rest && (below / unit) % 2 != 0);
    return Value::of(up ? below + unit : below);
  }
  if (precision > 300 || !std::isfinite(value.real())) return value;
  if (precision >= 0) {
    const std::string text = fmt::format("{:.{}f}", value.real(), static_cast<int>(precision));
    return Value::of(std::strtod(text.c_str(), nullptr));
  }
  const double unit = std::pow(10.0, static_cast<double>(std::min<int64_t>(-precision, 308)));
  return Value::of(std::nearbyint(value.real() / unit) * unit);
}

Value round_number(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_round(value; precision=, method=)", arguments);
  const std::string method = given.text_or(1, "common");
  const int64_t precision = given.integer_or(0, 0);
  if (method == "common") {
    require_defined(value);
    return round_half_even(value, precision);
  }
  if (method != "ceil" && method != "floor") raise("method must be common, ceil or floor");
  const Value unit = apply(Operator::power, Value::of(int64_t{10}), Value::of(precision));
  const Value scaled = apply(Operator::multiply, value, unit);
  if (!scaled.is_number()) raise("must be real number, not {}", type_name(scaled));
  const double whole = method == "ceil" ? std::ceil(scaled.real()) : std::floor(scaled.real());
  return apply(Operator::divide, Value::of(whole + 0.0), unit);  // an int, which has no -0
}

Value absolute(Interpreter&, const Value& value, Arguments&) {
  if (value.is_float()) return Value::of(std::fabs(value.real()));
  if (!value.is_integral()) raise("bad operand type for abs(): '{}'", type_name(value));
  return value.integer() < 0 ? negate(value) : plus(value);
}

Value to_string(Interpreter&, const Value& value, Arguments&) { return soft_text(value); }
Value safe(Interpreter&, const Value& value, Arguments&) { return Value::markup(to_text(value)); }

Value escape(Interpreter&, const Value& value, Arguments&) { return escaped(value); }

Value force_escape(Interpreter&, const Value& value, Arguments&) {
  return Value::markup(escape_html(to_text(value)));
}

Value format(Interpreter&, const Value& value, Arguments& arguments) {
  const Value text = soft_text(value);
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    raise("can't handle positional and keyword arguments at the same time");
  }
  if (arguments.named.empty()) {
    return format_percent(text, Value::tuple(std::move(arguments.positional)));
  }
  Dict named;
  for (auto& [name, argument] : arguments.named) named.set(Value::of(name), std::move(argument));
  return format_percent(text, Value::dict(std::move(named)));
}

Value indent(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_indent(s; width=, first=, blank=)", arguments);
  const Value width = given.value_or(0, Value::of(int64_t{4}));
  const std::string space =
      width.is_text()
          ? width.text()
          : apply(Operator::multiply, Value::of(" "), Value::of(to_index(width))).text();
  require_defined(value);
  if (value.is_list()) raise("'list' object has no attribute 'splitlines'");  // after +=
  if (!value.is_text() && !value.is_sequence()) {
    raise("unsupported operand type(s) for +=: '{}' and 'str'", type_name(value));
  }
  const std::string text = apply(Operator::add, value, Value::of("\n")).text();
  std::string out = given.truth_or(1, false) ? space : "";
  bool first = true;
  for (const std::string_view line : split_lines(text, false)) {
    if (!first) out += "\n";
    if (!first && (given.truth_or(2, false) || !line.empty())) out += space;
    out += line;
    first = false;
    foresee(out.size());
  }
  return like(value, std::move(out));
}

Value truncate(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_truncate(env, s; length=, killwords=, end=, leeway=)", arguments);
  const std::string end = given.text_or(2, "...");
  const int64_t most = given.integer_or(0, 255), tail = count_characters(end);
  const int64_t leeway = given.given(3) && !given.need(3).is_none() ? given.integer_or(3, 5) : 5;
  if (most < tail) raise("expected length >= {}, got {}", tail, most);
  if (leeway < 0) raise("expected leeway >= 0, got {}", leeway);
  if (length(value) <= most + leeway) return value;
  const std::string text = to_text(value);
  std::string kept = text.substr(0, byte_of(text, most - tail));
  if (!given.truth_or(1, false)) kept = kept.substr(0, kept.rfind(' '));
  return Value::of(kept + end);
}

Value center(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Parameters given("do_center(value; width=)", arguments);
  Arguments width{{given.value_or(0, Value::of(int64_t{80}))}, {}};
  return find_text_method("center")->function(interpreter, soft_text(value), width);
}

Value count_words(Interpreter&, const Value& value, Arguments&) {
  int64_t count = 0;
  bool inside = false;
  for (const char32_t c : characters_of(to_text(value))) {
    const bool word = is_word_character(c);
    count += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value::of(count);
}

Value without_tags(Interpreter&, const Value& value, Arguments&) {
  return Value::of(strip_tags(to_text(value)));
}

std::string quote_url(const Value& value, bool query) {
  std::string out;
  for (const char c : to_text(value)) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' ||
                       c == '-' || c == '~' || (c == '/' && !query);
    if (plain) {
      out += c;
    } else if (c == ' ' && query) {
      out += '+';
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  foresee(out.size(), 1);
  return out;
}

Value encode_url(Interpreter&, const Value& value, Arguments&) {
  if (value.is_text() || !iterate_if_any(value)) return Value::of(quote_url(value, false));
  const Value pairs = value.is_dict()
                          ? Value::object(std::make_shared<DictView>(value, DictView::Part::items))
                          : value;
  std::string out;
  for (const Value& pair : to_items(pairs)) {
    const Items parts = to_items(pair);
    if (parts.size() != 2) raise("not enough values to unpack (expected 2, got {})", parts.size());
    out += (out.empty() ? "" : "&") + quote_url(parts[0], true) + "=" + quote_url(parts[1], true);
  }
  return Value::of(std::move(out));
}

Value json(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given(
      "_cached_compile_jinja_template.<locals>.tojson(x; ensure_ascii=, indent=, separators=, "
      "sort_keys=)",
      arguments);
  return Value::of(to_json(value, {.ensure_ascii = given.truth_or(0, false),
                                   .indent = given.value_or(1, Value()),
                                   .separators = given.value_or(2, Value()),
                                   .sort_keys = given.truth_or(3, false)}));
}

Value attribute(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_attr(environment, obj; name)", arguments);
  // Without the items that x.name would find too.
  const Value found = get_attribute(value, to_text(given.need(0)));
  if (value.is_dict() && value.dict().find(to_text(given.need(0))) != nullptr &&
      find_container_method(value, to_text(given.need(0))) == nullptr) {
    return Value::undefined(fmt::format("{} has no attribute {}", repr_of_text(object_name(value)),
                                        to_repr(given.need(0))));
  }
  return found;
}

Value xml_attributes(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Parameters given("do_xmlattr(eval_ctx, d; autospace=)", arguments);
  if (!value.is_dict()) raise("'{}' object has no attribute 'items'", type_name(value));
  std::string out;
  for (const auto& [key, item] : value.dict().entries()) {
    if (item.is_none() || item.is_undefined()) continue;
    const std::string name = to_text(key);
    if (name.find_first_of(" \t\n\r\f\v/>=") != std::string::npos) {
      raise("Invalid character in attribute name: {}", to_repr(key));
    }
    const std::string text = to_text(item);
    out += fmt::format("{}{}=\"{}\"", out.empty() ? "" : " ", escape_html(name),
                       item.is_markup() ? text : escape_html(text));
  }
  if (given.truth_or(0, true) && !out.empty()) out = " " + out;
  return interpreter.autoescape() ? Value::markup(std::move(out)) : Value::of(std::move(out));
}

Value file_size(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_filesizeformat(value; binary=)", arguments);
  if (!value.is_text() && !value.is_number()) {
    require_defined(value);
    raise("float() argument must be a string or a real number, not '{}'", type_name(value));
  }
  const auto parsed = value.is_text() ? parse_real(value.text()) : std::optional(0.0);
  if (!parsed) raise("could not convert string to float: {}", to_repr(value));
  const double bytes = value.is_text() ? *parsed : value.real();
  const bool binary = given.truth_or(0, false);
  const double base = binary ? 1024 : 1000;
  if (bytes == 1) return Value::of("1 Byte");
  if (bytes < base) return Value::of(fmt::format("{} Bytes", static_cast<int64_t>(bytes)));
  double unit = base;
  size_t prefix = 0;
  while (prefix < 7 && bytes >= unit * base) {
    unit *= base;
    ++prefix;
  }
  const std::string letter(1, (binary ? "KMGTPEZY" : "kMGTPEZY")[prefix]);
  return Value::of(fmt::format("{:.1f} {}{}", bytes / unit, letter, binary ? "iB" : "B"));
}

// With the keys of dictionaries in order, as Python's pprint; which breaks what is longer than a
// line.
Value in_order(const Value& value) {
  const Deeper deeper;
  if (!value.is_dict() && !value.is_sequence()) return value;
  Items items;
  if (value.is_sequence()) {
    for (const Value& item : value.items()) items.push_back(in_order(item));
    return value.is_list() ? Value::list(std::move(items)) : Value::tuple(std::move(items));
  }
  auto entries = value.dict().entries();
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return compare(Comparison::lt, a.first, b.first);
  });
  Dict out;
  for (auto& [key, item] : entries) out.set(key, in_order(item));
  return Value::dict(std::move(out));
}

Value pretty(Interpreter&, const Value& value, Arguments&) {
  constexpr int64_t kLine = 80;
  std::string out = to_repr(in_order(value));
  const bool breaks = value.is_dict() || value.is_sequence() || value.is_text();
  if (breaks && count_characters(out) > kLine) {
    fail(
        "The chat template uses the filter 'pprint' on a value of more than the {} characters that "
        "it can show here.",
        kLine);
  }
  return Value::of(std::move(out));
}

}  // namespace

const Filter* find_text_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> filters = {
      {"abs", {absolute, "abs(x; /)"}},
      {"attr", {attribute}},
      {"capitalize", {change_text<capitalize>, "do_capitalize(s;)"}},
      {"center", {center}},
      {"d", {default_value}},
      {"default", {default_value}},
      {"e", {escape, "escape(s;)"}},
      {"escape", {escape, "escape(s;)"}},
      {"filesizeformat", {file_size}},
      {"float", {to_float}},
      {"forceescape", {force_escape, "do_forceescape(value;)"}},
      {"format", {format}},
      {"indent", {indent}},
      {"int", {to_int}},
      {"lower", {change_text<to_lower>, "do_lower(s;)"}},
      {"pprint", {pretty, "do_pprint(value;)"}},
      {"replace", {replace}},
      {"round", {round_number}},
      {"safe", {safe, "do_mark_safe(value;)"}},
      {"string", {to_string, "soft_str(s;)"}},
      {"striptags", {without_tags, "do_striptags(value;)"}},
      {"title", {title, "do_title(s;)"}},
      {"tojson", {json}},
      {"trim", {trim}},
      {"truncate", {truncate}},
      {"upper", {change_text<to_upper>, "do_upper(s;)"}},
      {"urlencode", {encode_url, "do_urlencode(value;)"}},
      {"urlize", {urlize}},
      {"wordcount", {count_words, "do_wordcount(s;)"}},
      {"wordwrap", {wrap_words}},
      {"xmlattr", {xml_attributes}},
  };
  const auto found = filters.find(name);
  return found == filters.end() ? nullptr : &found->second;
}

const Filter* find_filter(std::string_view name) {
  const Filter* found = find_text_filter(name);
  return found != nullptr ? found : find_sequence_filter(name);
}

}  // namespace nibble::frontends::chat
