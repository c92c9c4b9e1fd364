// Formatting: `"%s" % x`, "{}".format(x), and the format specifications of str, int and float.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "frontends/chat/attributes.h"
#include "frontends/chat/filters.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

constexpr int64_t kWidest = 1'000'000;

// [[fill]align][sign][#][0][width][,][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = '\0', sign = '-', grouping = '\0', type = '\0';
  bool alternate = false;
  int64_t width = 0, precision = -1;
};

bool is_align(char c) { return c == '<' || c == '>' || c == '=' || c == '^'; }

int64_t read_number(std::string_view text, size_t& at) {
  int64_t number = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    number = number * 10 + (text[at] - '0');
    if (number > kWidest) fail("The chat template formats with a width above {}.", kWidest);
  }
  return number;
}

Spec parse_spec(std::string_view text, const Value& value) {
  Spec spec;
  size_t at = 0;
  const size_t first = text.empty() ? 0 : utf8_length(text[0]);
  if (first < text.size() && is_align(text[first])) {
    spec.fill = text.substr(0, first);
    spec.align = text[first];
    at = first + 1;
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[0];
    at = 1;
  }
  const auto skip = [&](char c) { return at < text.size() && text[at] == c ? ++at, true : false; };
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' ')) {
    spec.sign = text[at++];
  }
  spec.alternate = skip('#');
  if (skip('0') && spec.align == '\0') {
    spec.fill = "0";
    spec.align = value.is_text() ? '<' : '=';
  }
  spec.width = read_number(text, at);
  if (at < text.size() && (text[at] == ',' || text[at] == '_')) spec.grouping = text[at++];
  if (skip('.')) {
    if (at >= text.size() || text[at] < '0' || text[at] > '9') {
      raise("Format specifier missing precision");
    }
    spec.precision = read_number(text, at);
  }
  if (at < text.size()) spec.type = text[at++];
  if (at < text.size()) {
    raise("Invalid format specifier '{}' for object of type '{}'", text, type_name(value));
  }
  return spec;
}

std::string pad(const Spec& spec, const std::string& sign, const std::string& body,
                char default_align) {
  const int64_t missing = spec.width - count_characters(sign) - count_characters(body);
  if (missing <= 0) return sign + body;
  const auto fill = [&](int64_t count) {
    std::string out;
    for (int64_t i = 0; i < count; ++i) out += spec.fill;
    return out;
  };
  foresee(static_cast<size_t>(missing), spec.fill.size());
  switch (spec.align == '\0' ? default_align : spec.align) {
    case '<':
      return sign + body + fill(missing);
    case '^':
      return fill(missing / 2) + sign + body + fill(missing - missing / 2);
    case '=':
      return sign + fill(missing) + body;
    default:
      return fill(missing) + sign + body;
  }
}

void group_digits(std::string& digits, char separator) {
  size_t whole = digits.find_first_not_of("0123456789");
  if (whole == std::string::npos) whole = digits.size();
  for (size_t i = whole; i > 3; i -= 3) digits.insert(i - 3, 1, separator);
}

std::string sign_of(bool negative, char rule) {
  if (negative) return "-";
  return rule == '+' || rule == ' ' ? std::string(1, rule) : "";
}

std::string real_digits(double value, char type, int precision, bool alternate) {
  if (std::isnan(value)) return std::isupper(type) != 0 ? "NAN" : "nan";
  if (std::isinf(value)) return std::isupper(type) != 0 ? "INF" : "inf";
  const char shape[] = {'%',
                        alternate ? '#' : '.',
                        alternate ? '.' : '*',
                        alternate ? '*' : type,
                        alternate ? type : '\0',
                        '\0'};
  const int size = std::snprintf(nullptr, 0, shape, precision, value);
  foresee(static_cast<size_t>(size), 1);
  std::string out(static_cast<size_t>(size), '\0');
  std::snprintf(out.data(), out.size() + 1, shape, precision, value);
  return out;
}

std::string format_real(double value, const Spec& spec) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  const double size = std::fabs(value);
  std::string body;
  const int precision = spec.precision < 0 ? 6 : static_cast<int>(spec.precision);
  if (spec.type == '\0' && spec.precision < 0) {
    body = repr_of_real(size);
  } else if (spec.type == '\0') {
    body = real_digits(size, 'g', std::max(precision, 1), false);
    if (body.find_first_of(".en") == std::string::npos) body += ".0";
  } else if (spec.type == '%') {
    body = real_digits(size * 100, 'f', precision, spec.alternate) + "%";
  } else if (std::string_view("eEfFgG").find(spec.type) != std::string_view::npos) {
    body = real_digits(size, spec.type, precision, spec.alternate);
  } else if (spec.type == 'n') {
    body = real_digits(size, 'g', precision, spec.alternate);
  } else {
    raise("Unknown format code '{}' for object of type 'float'", spec.type);
  }
  if (spec.grouping != '\0') group_digits(body, spec.grouping);
  return pad(spec, sign_of(negative, spec.sign), body, '>');
}

std::string digits_in(uint64_t value, int base, bool upper) {
  std::array<char, 65> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, base).ptr;
  std::string out(buffer.data(), end);
  if (upper) std::transform(out.begin(), out.end(), out.begin(), ::toupper);
  return out;
}

std::string format_integer(const Value& value, const Spec& spec) {
  if (spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos) {
    return format_real(value.real(), spec);
  }
  const int64_t number = value.integer();
  const uint64_t size =
      number < 0 ? 0 - static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
  std::string body, prefix;
  switch (spec.type) {
    case '\0':
    case 'd':
    case 'n':
      body = digits_in(size, 10, false);
      break;
    case 'x':
    case 'X':
      body = digits_in(size, 16, spec.type == 'X');
      prefix = spec.type == 'X' ? "0X" : "0x";
      break;
    case 'o':
      body = digits_in(size, 8, false);
      prefix = "0o";
      break;
    case 'b':
      body = digits_in(size, 2, false);
      prefix = "0b";
      break;
    case 'c':
      if (number < 0 || number > 0x10FFFF) raise("%c arg not in range(0x110000)");
      append_utf8(body, static_cast<char32_t>(number));
      return pad(spec, "", body, '<');
    default:
      raise("Unknown format code '{}' for object of type 'int'", spec.type);
  }
  if (spec.grouping != '\0') group_digits(body, spec.grouping);
  const std::string sign = sign_of(number < 0, spec.sign) + (spec.alternate ? prefix : "");
  return pad(spec, sign, body, '>');
}

std::string format_text(const std::string& text, const Spec& spec) {
  if (spec.type != '\0' && spec.type != 's') {
    raise("Unknown format code '{}' for object of type 'str'", spec.type);
  }
  if (spec.align == '=') raise("'=' alignment not allowed in string format specifier");
  if (spec.precision < 0) return pad(spec, "", text, '<');
  return pad(spec, "", text.substr(0, byte_of(text, spec.precision)), '<');
}

// One conversion of a "%" format.
std::string percent_one(const Value& value, Spec spec) {
  switch (spec.type) {
    case 's':
    case 'r':
    case 'a': {
      const bool text = spec.type == 's';
      spec.type = 's';
      spec.align = spec.align == '<' ? '<' : '>';
      spec.fill = " ";
      return format_text(text ? to_text(value) : to_repr(value), spec);
    }
    case 'c': {
      std::string body;
      if (value.is_text() && count_characters(value.text()) == 1) {
        body = value.text();
      } else if (value.is_integral() && value.integer() >= 0 && value.integer() < 0x110000) {
        append_utf8(body, static_cast<char32_t>(value.integer()));
      } else {
        raise("%c requires an int or a unicode character, not {}", type_name(value));
      }
      spec.type = 's';
      return format_text(body, spec);
    }
    case 'd':
    case 'i':
    case 'u':
      require_defined(value);
      if (!value.is_number()) {
        raise("%{} format: a real number is required, not {}", spec.type, type_name(value));
      }
      spec.type = 'd';
      if (value.is_float()) {
        return format_integer(Value::of(static_cast<int64_t>(value.real())), spec);
      }
      return format_integer(value, spec);
    case 'x':
    case 'X':
    case 'o':
      require_defined(value);
      if (!value.is_integral()) {
        raise("%{} format: an integer is required, not {}", spec.type, type_name(value));
      }
      return format_integer(value, spec);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      require_defined(value);
      if (!value.is_number()) raise("must be real number, not {}", type_name(value));
      return format_real(value.real(), spec);
    default:
      break;
  }
  raise("unsupported format character '{}' ({:#x})", spec.type, static_cast<int>(spec.type));
}

class PercentFormat {
 public:
  PercentFormat(const std::string& format, const Value& values)
      : format_(format), values_(values) {}

  std::string run() {
    std::string out;
    while (at_ < format_.size()) {
      if (format_[at_] != '%') {
        out += format_[at_++];
        continue;
      }
      ++at_;
      out += conversion();
      foresee(out.size());
    }
    const bool all = values_.is_tuple() ? taken_ == values_.items().size()
                                        : taken_ == 1 || values_.is_dict() || values_.is_list();
    if (!all && !named_) raise("not all arguments converted during string formatting");
    return out;
  }

 private:
  const Value& next() {
    if (values_.is_tuple()) {
      if (taken_ >= values_.items().size()) raise("not enough arguments for format string");
      return values_.items()[taken_++];
    }
    if (taken_++ > 0) raise("not enough arguments for format string");
    return values_;
  }

  int64_t number() {
    if (at_ < format_.size() && format_[at_] == '*') {
      ++at_;
      return std::min(to_index(next()), kWidest);
    }
    return read_number(format_, at_);
  }

  std::string conversion() {
    std::optional<Value> named;
    if (at_ < format_.size() && format_[at_] == '(') {
      const size_t end = format_.find(')', at_);
      if (end == std::string::npos) raise("incomplete format key");
      if (!values_.is_dict()) raise("format requires a mapping");
      const std::string key = format_.substr(at_ + 1, end - at_ - 1);
      const Value* found = values_.dict().find(key);
      if (found == nullptr) raise("{}", repr_of_text(key));
      named = *found;
      named_ = true;
      at_ = end + 1;
    }
    Spec spec;
    spec.align = '>';
    for (; at_ < format_.size(); ++at_) {
      const char c = format_[at_];
      if (c == '-') {
        spec.align = '<';
      } else if (c == '+' || (c == ' ' && spec.sign != '+')) {
        spec.sign = c;
      } else if (c == '#') {
        spec.alternate = true;
      } else if (c == '0') {
        if (spec.align != '<') spec.align = '=';
        spec.fill = spec.align == '<' ? " " : "0";
      } else {
        break;
      }
    }
    spec.width = number();
    if (at_ < format_.size() && format_[at_] == '.') {
      ++at_;
      spec.precision = number();
    }
    if (at_ >= format_.size()) raise("incomplete format");
    spec.type = format_[at_++];
    if (spec.type == '%') return "%";
    return percent_one(named ? *named : next(), spec);
  }

  const std::string& format_;
  const Value& values_;
  size_t at_ = 0, taken_ = 0;
  bool named_ = false;
};

// "{...}" of str.format: what stands before a '!' or ':' names the value.
class BraceFormat {
 public:
  BraceFormat(Arguments& arguments) : arguments_(arguments) {}

  std::string run(std::string_view format, int depth) {
    if (depth > 2) raise("Max string recursion exceeded");
    std::string out;
    for (size_t at = 0; at < format.size();) {
      const char c = format[at];
      if (c != '{' && c != '}') {
        out += format[at++];
      } else if (at + 1 < format.size() && format[at + 1] == c) {
        out += c;
        at += 2;
      } else if (c == '}') {
        raise("Single '}}' encountered in format string");
      } else {
        out += field(format, ++at, depth);
      }
      if ((out.size() & 1023U) == 0) foresee(out.size());
    }
    foresee(out.size(), 1);
    return out;
  }

 private:
  std::string field(std::string_view format, size_t& at, int depth) {
    size_t end = at;
    for (int open = 1; end < format.size(); ++end) {
      open += format[end] == '{' ? 1 : format[end] == '}' ? -1 : 0;
      if (open == 0) break;
    }
    if (end >= format.size()) {
      if (at >= format.size()) raise("Single '{{' encountered in format string");
      raise("expected '}}' before end of string");
    }
    const std::string_view inside = format.substr(at, end - at);
    at = end + 1;
    const size_t mark = inside.find_first_of("!:");
    Value value = lookup(inside.substr(0, mark));
    std::string_view spec;
    if (mark != std::string_view::npos && inside[mark] == '!') {
      const char conversion = mark + 1 < inside.size() ? inside[mark + 1] : '\0';
      if (conversion == 'r' || conversion == 'a') {
        value = Value::of(to_repr(value));
      } else if (conversion == 's') {
        value = Value::of(to_text(value));
      } else {
        raise("Unknown conversion specifier {}", conversion);
      }
      if (mark + 2 < inside.size() && inside[mark + 2] == ':') spec = inside.substr(mark + 3);
    } else if (mark != std::string_view::npos) {
      spec = inside.substr(mark + 1);
    }
    return format_value(value, run(spec, depth + 1));
  }

  Value lookup(std::string_view path) {
    size_t at = std::min(path.find_first_of(".["), path.size());
    Value value = first(path.substr(0, at));
    while (at < path.size()) {
      if (path[at] == '.') {
        const size_t end = std::min(path.find_first_of(".[", at + 1), path.size());
        value = get_attribute(value, std::string(path.substr(at + 1, end - at - 1)));
        at = end;
      } else {
        const size_t end = path.find(']', at);
        if (path[at] != '[' || end == std::string_view::npos) {
          raise("expected '}}' before end of string");
        }
        const std::string_view key = path.substr(at + 1, end - at - 1);
        value = get_item(value, to_key(key));
        at = end + 1;
      }
    }
    return value;
  }

  static Value to_key(std::string_view text) {
    int64_t number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool whole = !text.empty() && text[0] != '-' && parsed.ec == std::errc() &&
                       parsed.ptr == text.data() + text.size();
    return whole ? Value::of(number) : Value::of(std::string(text));
  }

  Value first(std::string_view name) {
    const Value key = name.empty() ? Value::of(automatic_++) : to_key(name);
    if (key.is_int()) {
      if (key.integer() >= static_cast<int64_t>(arguments_.positional.size())) {
        raise("tuple index out of range");
      }
      return arguments_.positional[static_cast<size_t>(key.integer())];
    }
    for (const auto& [known, value] : arguments_.named) {
      if (known == key.text()) return value;
    }
    raise("{}", repr_of_text(key.text()));
  }

  Arguments& arguments_;
  int64_t automatic_ = 0;
};

}  // namespace

Value format_percent(const Value& format, const Value& values) {
  std::string out = PercentFormat(format.text(), values).run();
  return format.is_markup() ? Value::markup(std::move(out)) : Value::of(std::move(out));
}

std::string format_braces(Interpreter&, const std::string& format, Arguments& arguments) {
  return BraceFormat(arguments).run(format, 0);
}

std::string format_value(const Value& value, std::string_view spec) {
  if (spec.empty()) return to_text(value);
  const Spec parsed = parse_spec(spec, value);
  if (value.is_text()) return format_text(value.text(), parsed);
  if (value.is_float()) return format_real(value.real(), parsed);
  if (value.is_integral()) return format_integer(value, parsed);
  raise("unsupported format string passed to {}.__format__", type_name(value));
}

}  // namespace nibble::frontends::chat
