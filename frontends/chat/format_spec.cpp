// format(value, specification) of str, int and float.
#include <array>
#include <cmath>

#include "frontends/chat/format.h"
#include "frontends/chat/number_text.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

constexpr size_t kMostSpecDigits = 18;  // of a number in a specification

// [[fill]align][sign][z][#][0][width][grouping][.precision[grouping]][type]
struct Spec {
  std::string fill = " ";
  char align = '\0', sign = '\0', grouping = '\0', fraction_grouping = '\0';
  char32_t type = 0;
  bool no_negative_zero = false, alternate = false;
  int64_t width = -1, precision = -1;
};

bool is_align(char c) { return c == '<' || c == '>' || c == '=' || c == '^'; }

std::string described(char32_t type) {
  if (type > 32 && type < 128) return std::string(1, static_cast<char>(type));
  return fmt::format("\\x{:x}", static_cast<uint32_t>(type));
}

[[noreturn]] void unknown_type(char32_t type, const Value& value) {
  raise("Unknown format code '{}' for object of type '{}'", described(type), type_name(value));
}

class SpecParser {
 public:
  SpecParser(std::string_view text, const Value& value) : text_(text), value_(value) {}

  Spec parse() {
    Spec spec;
    bool filled = false;
    const size_t first = text_.empty() ? 0 : utf8_length(text_[0]);
    if (first > 0 && first < text_.size() && is_align(text_[first])) {
      spec.fill = text_.substr(0, first);
      spec.align = text_[first];
      at_ = first + 1;
      filled = true;
    } else if (!text_.empty() && is_align(text_[0])) {
      spec.align = text_[at_++];
    }
    if (peek() == '+' || peek() == '-' || peek() == ' ') spec.sign = text_[at_++];
    spec.no_negative_zero = skip('z');
    spec.alternate = skip('#');
    if (!filled && skip('0')) {
      spec.fill = "0";
      if (spec.align == '\0' && !value_.is_text()) spec.align = '=';
    }
    spec.width = number();
    if (skip(',')) spec.grouping = ',';
    if (peek() == '_') {
      if (spec.grouping != '\0') both_groupings();
      spec.grouping = text_[at_++];
      if (peek() == ',') both_groupings();
    }
    if (skip('.')) parse_precision(spec);
    parse_type(spec);
    return spec;
  }

 private:
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool skip(char c) { return at_ < text_.size() && text_[at_] == c ? ++at_, true : false; }
  [[noreturn]] static void both_groupings() { raise("Cannot specify both ',' and '_'."); }

  int64_t number() {
    int64_t out = -1;
    const size_t first = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      if (at_ - first >= kMostSpecDigits) raise("Too many decimal digits in format string");
      out = std::max<int64_t>(out, 0) * 10 + (text_[at_] - '0');
    }
    if (out > kWidest) fail("The chat template formats with a width above {}.", kWidest);
    return out;
  }

  void parse_precision(Spec& spec) {
    const size_t first = at_;
    spec.precision = number();
    if (peek() == ',' || peek() == '_') spec.fraction_grouping = text_[at_++];
    if (at_ == first) raise("Format specifier missing precision");
  }

  void parse_type(Spec& spec) {
    if (at_ < text_.size()) spec.type = next_code_point(text_, at_);
    if (at_ < text_.size()) {
      raise("Invalid format specifier '{}' for object of type '{}'", text_, type_name(value_));
    }
    if (spec.grouping == '\0') return;
    const char32_t type = spec.type != 0         ? spec.type
                          : value_.is_text()     ? U's'
                          : value_.is_integral() ? U'd'
                                                 : U'g';
    const auto among = [&](std::u32string_view types) {
      return types.find(type) != std::u32string_view::npos;
    };
    if (among(U"defgEG%F") || (spec.grouping == '_' && among(U"boxX"))) return;
    raise("Cannot specify '{}' with '{}'.", spec.grouping, described(type));
  }

  std::string_view text_;
  const Value& value_;
  size_t at_ = 0;
};

std::string repeated(const std::string& fill, int64_t count) {
  foresee(static_cast<size_t>(count), fill.size());
  std::string out;
  for (int64_t i = 0; i < count; ++i) out += fill;
  return out;
}

std::string pad(const Spec& spec, const std::string& sign, const std::string& body,
                char default_align) {
  const int64_t missing = spec.width - count_characters(sign) - count_characters(body);
  if (missing <= 0) return sign + body;
  switch (spec.align == '\0' ? default_align : spec.align) {
    case '<':
      return sign + body + repeated(spec.fill, missing);
    case '^':
      return repeated(spec.fill, missing / 2) + sign + body +
             repeated(spec.fill, missing - missing / 2);
    case '=':
      return sign + repeated(spec.fill, missing) + body;
    default:
      return repeated(spec.fill, missing) + sign + body;
  }
}

std::string sign_of(bool negative, char rule) {
  if (negative) return "-";
  return rule == '+' || rule == ' ' ? std::string(1, rule) : "";
}

// Digits with separators, padded with zeros up to the width where the padding belongs between.
std::string grouped(const Spec& spec, const std::string& sign, const std::string& whole,
                    const std::string& rest, size_t group) {
  if (spec.grouping == '\0') return whole + rest;
  const bool zeros = spec.fill == "0" && spec.align == '=';
  const auto others = static_cast<int64_t>(sign.size() + rest.size());
  const int64_t width = zeros ? std::max<int64_t>(spec.width - others, 0) : 0;
  return group_digits(whole, spec.grouping, group, static_cast<size_t>(width)) + rest;
}

// Separators between groups of three digits, counted from the point.
std::string grouped_fraction(const std::string& rest, char separator) {
  if (separator == '\0' || !rest.starts_with('.')) return rest;
  const size_t end = std::min(rest.find_first_not_of("0123456789", 1), rest.size());
  std::string out = ".";
  for (size_t i = 1; i < end; ++i) {
    if (i > 1 && (i - 1) % 3 == 0) out += separator;
    out += rest[i];
  }
  return out + rest.substr(end);
}

std::string format_real(double value, const Spec& spec, const Value& given) {
  bool negative = std::signbit(value) && !std::isnan(value);
  const bool percent = spec.type == U'%';
  const char32_t type = spec.type == 0      ? (spec.precision < 0 ? U'r' : U'g')
                        : percent           ? U'f'
                        : spec.type == U'n' ? U'g'
                                            : spec.type;
  if (std::u32string_view(U"reEfFgG").find(type) == std::u32string_view::npos ||
      spec.type == U'r') {
    unknown_type(spec.type, given);
  }
  const double size = std::fabs(value) * (percent ? 100 : 1);
  std::string body =
      real_digits(size, static_cast<char>(type), spec.precision < 0 ? 6 : spec.precision,
                  spec.alternate, spec.type == 0 && spec.precision >= 0);
  if (spec.no_negative_zero && body.find_first_of("123456789infa") == std::string::npos) {
    negative = false;
  }
  if (percent) body += "%";
  const size_t digits = std::min(body.find_first_not_of("0123456789"), body.size());
  const std::string sign = sign_of(negative, spec.sign);
  if (digits == 0) return pad(spec, sign, body, '>');  // not finite
  return pad(spec, sign,
             grouped(spec, sign, body.substr(0, digits),
                     grouped_fraction(body.substr(digits), spec.fraction_grouping), 3),
             '>');
}

std::string format_integer(const Value& value, const Spec& spec) {
  if (std::u32string_view(U"eEfFgG%").find(spec.type) != std::u32string_view::npos &&
      spec.type != 0) {
    return format_real(value.real(), spec, value);
  }
  if (spec.type != 0 &&
      std::u32string_view(U"bcdnoxX").find(spec.type) == std::u32string_view::npos) {
    unknown_type(spec.type, value);
  }
  if (spec.precision >= 0) raise("Precision not allowed in integer format specifier");
  if (spec.no_negative_zero) {
    raise("Negative zero coercion (z) not allowed in integer format specifier");
  }
  const int64_t number = value.integer();
  std::string body, prefix;
  size_t group = 3;
  const auto based = [&](int base, const char* mark) {
    body = integer_digits(size_of(number), base, spec.type == U'X');
    prefix = mark;
    group = 4;
  };
  switch (spec.type) {
    case 0:
    case U'd':
    case U'n':
      body = integer_digits(size_of(number), 10, false);
      break;
    case U'x':
      based(16, "0x");
      break;
    case U'X':
      based(16, "0X");
      break;
    case U'o':
      based(8, "0o");
      break;
    case U'b':
      based(2, "0b");
      break;
    case U'c':
      if (spec.sign != '\0') raise("Sign not allowed with integer format specifier 'c'");
      if (spec.alternate) {
        raise("Alternate form (#) not allowed with integer format specifier 'c'");
      }
      if (number < 0 || number > 0x10FFFF) raise("%c arg not in range(0x110000)");
      append_utf8(body, static_cast<char32_t>(number));
      return pad(spec, "", body, '>');
    default:
      break;
  }
  const std::string sign = sign_of(number < 0, spec.sign) + (spec.alternate ? prefix : "");
  return pad(spec, sign, grouped(spec, sign, body, "", group), '>');
}

std::string format_text(const Value& value, const Spec& spec) {
  if (spec.type != 0 && spec.type != U's') unknown_type(spec.type, value);
  constexpr const char* kWhere = "not allowed in string format specifier";
  if (spec.sign != '\0') raise("{} {}", spec.sign == ' ' ? "Space" : "Sign", kWhere);
  if (spec.no_negative_zero) raise("Negative zero coercion (z) {}", kWhere);
  if (spec.alternate) raise("Alternate form (#) {}", kWhere);
  if (spec.align == '=') raise("'=' alignment {}", kWhere);
  const std::string& text = value.text();
  if (spec.precision < 0) return pad(spec, "", text, '<');
  return pad(spec, "", text.substr(0, byte_of(text, spec.precision)), '<');
}

}  // namespace

std::string format_value(const Value& value, std::string_view spec) {
  if (spec.empty()) return to_text(value);
  if (!value.is_text() && !value.is_number()) {
    raise("unsupported format string passed to {}.__format__", type_name(value));
  }
  const Spec parsed = SpecParser(spec, value).parse();
  if (value.is_text()) return format_text(value, parsed);
  if (value.is_float()) return format_real(value.real(), parsed, value);
  return format_integer(value, parsed);
}

}  // namespace nibble::frontends::chat
