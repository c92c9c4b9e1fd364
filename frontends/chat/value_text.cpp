// How Python writes values: str(), repr() and the names of types.
#include <charconv>
#include <cmath>

#include "frontends/chat/unicode_text.h"
#include "frontends/chat/value.h"

namespace nibble::frontends::chat {
namespace {

// Shortest digits that read back as the same number; `exponent` of the first of them.
std::string shortest_digits(double value, int& exponent) {
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  exponent = std::stoi(std::string(text.substr(e + 1)));
  std::string digits(1, text[0]);
  if (e > 2) digits += text.substr(2, e - 2);
  return digits;
}

void append_escape(std::string& out, char32_t c) {
  const auto code = static_cast<uint32_t>(c);
  out += code < 0x100     ? fmt::format("\\x{:02x}", code)
         : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                          : fmt::format("\\U{:08x}", code);
}

void append_repr(std::string& out, const Value& value);

void append_items(std::string& out, const Items& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(out, items[i]);
  }
}

void append_repr(std::string& out, const Value& value) {
  const Deeper deeper;
  spend();
  foresee(out.size());
  if (value.is_text()) {
    out += value.is_markup() ? "Markup(" + repr_of_text(value.text()) + ")"
                             : repr_of_text(value.text());
  } else if (value.is_sequence()) {
    out += value.is_tuple() ? '(' : '[';
    append_items(out, value.items());
    if (value.is_tuple() && value.items().size() == 1) out += ',';
    out += value.is_tuple() ? ')' : ']';
  } else if (value.is_dict()) {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : value.dict().entries()) {
      if (!first) out += ", ";
      first = false;
      append_repr(out, key);
      out += ": ";
      append_repr(out, item);
    }
    out += '}';
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_object()) {
    out += value.object().repr();
  } else {
    out += to_text(value);
  }
}

}  // namespace

std::string repr_of_real(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string out = std::signbit(value) ? "-" : "";
  int exponent = 0;
  const std::string digits = shortest_digits(std::fabs(value), exponent);
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) {
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  if (count <= exponent + 1) {
    return out + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  }
  const auto point = static_cast<size_t>(exponent + 1);
  return out + digits.substr(0, point) + "." + digits.substr(point);
}

std::string repr_of_text(std::string_view text) {
  const bool single = text.find('\'') != std::string_view::npos;
  const char quote = single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t c = next_code_point(text, at);
    if (c == U'\n') {
      out += "\\n";
    } else if (c == U'\r') {
      out += "\\r";
    } else if (c == U'\t') {
      out += "\\t";
    } else if (c == U'\\' || c == static_cast<unsigned char>(quote)) {
      out += '\\';
      out += static_cast<char>(c);
    } else if (is_printable(c)) {
      out += text.substr(start, at - start);
    } else {
      append_escape(out, c);
    }
  }
  return out + quote;
}

std::string to_repr(const Value& value) {
  std::string out;
  append_repr(out, value);
  spend_bytes(out.size());
  return out;
}

std::string to_ascii(const Value& value) {
  std::string out;
  const std::string text = to_repr(value);
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else {
      append_escape(out, c);
    }
  }
  return out;
}

std::string to_text(const Value& value) {
  if (value.is_text()) return value.text();
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (value.is_bool()) return value.boolean() ? "True" : "False";
  if (value.is_int()) return std::to_string(value.integer());
  if (value.is_float()) return repr_of_real(value.real());
  return to_repr(value);
}

std::string type_name(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "NoneType";
  if (value.is_bool()) return "bool";
  if (value.is_int()) return "int";
  if (value.is_float()) return "float";
  if (value.is_text()) return value.is_markup() ? "Markup" : "str";
  if (value.is_sequence()) {
    return value.is_list() ? "list" : value.is_group() ? "_GroupTuple" : "tuple";
  }
  return value.is_dict() ? "dict" : value.object().type_name();
}

std::string full_type_name(const Value& value) {
  if (value.is_undefined()) return "jinja2.runtime.Undefined";
  if (value.is_markup()) return "markupsafe.Markup";
  if (value.is_group()) return "jinja2.filters._GroupTuple";
  return value.is_object() ? value.object().qualified_name() : type_name(value);
}

std::string object_name(const Value& value) {
  if (value.is_none()) return "None";
  return (value.is_undefined() ? type_name(value) : full_type_name(value)) + " object";
}

bool truth(const Value& value) {
  if (value.is_bool()) return value.boolean();
  if (value.is_int()) return value.integer() != 0;
  if (value.is_float()) return value.real() != 0;
  if (value.is_text()) return !value.text().empty();
  if (value.is_sequence()) return !value.items().empty();
  if (value.is_dict()) return value.dict().size() > 0;
  return value.is_object() && value.object().truth();
}

}  // namespace nibble::frontends::chat
