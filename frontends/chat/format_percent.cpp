// "%s" % values.
#include <algorithm>
#include <cmath>

#include "frontends/chat/format.h"
#include "frontends/chat/number_text.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

struct Conversion {
  bool left = false, plus = false, blank = false, alternate = false, zeros = false;
  int64_t width = 0, precision = -1;
  char32_t type = 0;
};

std::string pad(const Conversion& how, const std::string& sign, const std::string& body,
                bool number) {
  const int64_t missing = how.width - count_characters(sign) - count_characters(body);
  if (missing <= 0) return sign + body;
  foresee(static_cast<size_t>(missing), 1);
  const std::string fill(static_cast<size_t>(missing),
                         number && how.zeros && !how.left ? '0' : ' ');
  if (how.left) return sign + body + fill;
  return fill[0] == '0' ? sign + fill + body : fill + sign + body;
}

std::string sign_of(const Conversion& how, bool negative) {
  return negative ? "-" : how.plus ? "+" : how.blank ? " " : "";
}

int64_t whole_of(double value) {
  if (std::isnan(value)) raise("cannot convert float NaN to integer");
  if (std::isinf(value)) raise("cannot convert float infinity to integer");
  if (std::fabs(value) >= 9.2e18) fail("The chat template makes an integer of more than 64 bits.");
  return static_cast<int64_t>(value);
}

std::string integer(const Conversion& how, int64_t number) {
  const bool hexadecimal = how.type == U'x' || how.type == U'X';
  const int base = hexadecimal ? 16 : how.type == U'o' ? 8 : 10;
  std::string digits = integer_digits(size_of(number), base, how.type == U'X');
  const auto missing = how.precision - static_cast<int64_t>(digits.size());
  if (missing > 0) {
    foresee(static_cast<size_t>(missing), 1);
    digits.insert(0, static_cast<size_t>(missing), '0');
  }
  const char* prefix = !how.alternate || base == 10 ? ""
                       : how.type == U'o'           ? "0o"
                       : how.type == U'x'           ? "0x"
                                                    : "0X";
  return pad(how, sign_of(how, number < 0) + prefix, digits, true);
}

std::string character(const Conversion& how, const Value& value) {
  std::string body;
  if (value.is_text()) {
    const int64_t size = count_characters(value.text());
    if (size != 1) {
      raise("%c requires an int or a unicode character, not a string of length {}", size);
    }
    body = value.text();
  } else if (value.is_integral()) {
    if (value.integer() < 0 || value.integer() > 0x10FFFF) raise("%c arg not in range(0x110000)");
    append_utf8(body, static_cast<char32_t>(value.integer()));
  } else {
    raise("%c requires an int or a unicode character, not {}", full_type_name(value));
  }
  return pad(how, "", body, false);
}

std::string converted(const Conversion& how, const Value& value, bool escape) {
  const char name = static_cast<char>(how.type);
  switch (how.type) {
    case U's':
    case U'r':
    case U'a': {
      std::string text = how.type == U's'   ? to_text(value)
                         : how.type == U'r' ? to_repr(value)
                                            : to_ascii(value);
      if (escape && !(how.type == U's' && value.is_markup())) text = escape_html(text);
      if (how.precision >= 0) text.resize(byte_of(text, how.precision));
      return pad(how, "", text, false);
    }
    case U'c':
      return character(how, value);
    case U'd':
    case U'i':
    case U'u':
      require_defined(value);
      if (!value.is_number()) {
        raise("%{} format: a real number is required, not {}", name, type_name(value));
      }
      return integer(how, value.is_float() ? whole_of(value.real()) : value.integer());
    case U'x':
    case U'X':
    case U'o':
      if (!value.is_integral()) {
        raise("%{} format: an integer is required, not {}", name, type_name(value));
      }
      return integer(how, value.integer());
    case U'e':
    case U'E':
    case U'f':
    case U'F':
    case U'g':
    case U'G': {
      require_defined(value);
      if (!value.is_number()) raise("must be real number, not {}", type_name(value));
      const double number = value.real();
      return pad(how, sign_of(how, std::signbit(number) && !std::isnan(number)),
                 real_digits(std::fabs(number), name, how.precision < 0 ? 6 : how.precision,
                             how.alternate, false),
                 true);
    }
    default:
      return {};  // PercentFormat knows no other
  }
}

class PercentFormat {
 public:
  PercentFormat(const Value& format, const Value& values)
      : format_(format.text()), escape_(format.is_markup()), values_(values) {
    tuple_ = values.is_tuple();
    mapping_ = values.is_dict() || values.is_list() || values.is_undefined() ||
               (values.is_object() && values.object().type_name() == "range");
  }

  std::string run() {
    std::string out;
    while (at_ < format_.size()) {
      const size_t mark = std::min(format_.find('%', at_), format_.size());
      out.append(format_, at_, mark - at_);
      at_ = mark + 1;
      if (mark < format_.size()) out += conversion();
      foresee(out.size());
    }
    const size_t given = tuple_ ? values_.items().size() : 1;
    if (taken_ < given && !mapping_ && !named_) {
      raise("not all arguments converted during string formatting");
    }
    return out;
  }

 private:
  const Value& next() {
    if (named_ && left_) {
      left_ = false;
      return *named_;
    }
    const size_t given = named_ ? 0 : tuple_ ? values_.items().size() : 1;
    if (taken_ >= given) raise("not enough arguments for format string");
    const size_t at = taken_++;
    return tuple_ ? values_.items()[at] : values_;
  }

  char peek() const { return at_ < format_.size() ? format_[at_] : '\0'; }

  int64_t number(int64_t otherwise) {
    int64_t out = otherwise;
    if (peek() == '*') {
      ++at_;
      const Value& value = next();
      if (!value.is_integral()) raise("* wants int");
      out = value.integer();
    } else {
      for (; peek() >= '0' && peek() <= '9'; ++at_) {
        out = std::max<int64_t>(out, 0) * 10 + (peek() - '0');
        if (out > kWidest) break;
      }
    }
    if (out > kWidest || out < -kWidest) {
      fail("The chat template formats with a width above {}.", kWidest);
    }
    return out;
  }

  // "(name)": the value of that name, from then on the only one there is.
  void take_named() {
    size_t end = ++at_;
    for (int open = 1; end < format_.size(); ++end) {
      open += format_[end] == '(' ? 1 : format_[end] == ')' ? -1 : 0;
      if (open == 0) break;
    }
    if (!mapping_) raise("format requires a mapping");
    if (end >= format_.size()) raise("incomplete format key");
    const std::string key = format_.substr(at_, end - at_);
    at_ = end + 1;
    named_ = need_item(values_, Value::of(key));
    left_ = true;
  }

  void flags(Conversion& how) {
    for (;; ++at_) {
      switch (peek()) {
        case '-':
          how.left = true;
          break;
        case '+':
          how.plus = true;
          break;
        case ' ':
          how.blank = true;
          break;
        case '#':
          how.alternate = true;
          break;
        case '0':
          how.zeros = true;
          break;
        default:
          return;
      }
    }
  }

  std::string conversion() {
    if (peek() == '%') {
      ++at_;
      return "%";
    }
    if (peek() == '(') take_named();
    Conversion how;
    flags(how);
    how.width = number(0);
    if (how.width < 0) {
      how.left = true;
      how.width = -how.width;
    }
    if (peek() == '.') {
      ++at_;
      how.precision = std::max<int64_t>(number(0), 0);
    }
    if (peek() == 'h' || peek() == 'l' || peek() == 'L') ++at_;
    if (at_ >= format_.size()) raise("incomplete format");
    const size_t where = at_;
    how.type = next_code_point(format_, at_);
    const Value value = next();
    if (std::u32string_view(U"sracdiuxXoeEfFgG").find(how.type) == std::u32string_view::npos) {
      raise("unsupported format character '{}' ({:#x}) at index {}",
            how.type > 30 && how.type < 127 ? static_cast<char>(how.type) : '?',
            static_cast<uint32_t>(how.type),
            count_characters(std::string_view(format_).substr(0, where)));
    }
    return converted(how, value, escape_);
  }

  const std::string& format_;
  bool escape_;
  const Value& values_;
  bool tuple_ = false, mapping_ = false;
  std::optional<Value> named_;
  bool left_ = false;  // of named_
  size_t at_ = 0, taken_ = 0;
};

}  // namespace

Value format_percent(const Value& format, const Value& values) {
  std::string out = PercentFormat(format, values).run();
  return format.is_markup() ? Value::markup(std::move(out)) : Value::of(std::move(out));
}

}  // namespace nibble::frontends::chat
