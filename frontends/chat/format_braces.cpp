// "{}".format(values), with attributes and items looked up as the sandbox allows.
#include "frontends/chat/attributes.h"
#include "frontends/chat/format.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

constexpr int kMostFormatDepth = 2;      // of formats within specifications
constexpr size_t kMostIndexDigits = 18;  // of an index

// "name!conversion:specification"
struct ReplacementField {
  std::string_view name, spec;
  std::optional<char32_t> conversion;
};

class BraceFormat {
 public:
  BraceFormat(const Arguments& arguments, const Value* mapping, bool escape)
      : arguments_(arguments), mapping_(mapping), escape_(escape) {}

  std::string run(std::string_view format, int depth) {
    if (depth > kMostFormatDepth) raise("Max string recursion exceeded");
    std::string out;
    for (size_t at = 0; at < format.size();) {
      const size_t mark = std::min(format.find_first_of("{}", at), format.size());
      out += format.substr(at, mark - at);
      at = mark;
      if (at == format.size()) break;
      const char c = format[at++];
      const bool doubled = at < format.size() && format[at] == c;
      if (doubled) {
        out += c;
        ++at;
      } else if (c == '}' || at == format.size()) {
        raise("Single '{}' encountered in format string", c);
      } else {
        out += written(parse(format, at), depth);
      }
      foresee(out.size());
    }
    return out;
  }

 private:
  // The field that starts at `at`, which is past its end afterwards.
  static ReplacementField parse(std::string_view format, size_t& at) {
    ReplacementField out;
    const size_t first = at;
    char c = '\0';
    for (; at < format.size(); ++at) {
      c = format[at];
      if (c == '{') raise("unexpected '{{' in field name");
      if (c == '[') {
        at = std::min(format.find(']', at), format.size() - 1);
      } else if (c == '}' || c == ':' || c == '!') {
        break;
      }
    }
    if (at == format.size()) raise("expected '}}' before end of string");
    out.name = format.substr(first, at - first);
    ++at;
    if (c == '}') return out;
    if (c == '!') {
      if (at == format.size()) raise("end of string while looking for conversion specifier");
      out.conversion = next_code_point(format, at);
      if (at < format.size()) {
        c = format[at++];
        if (c == '}') return out;
        if (c != ':') raise("expected ':' after conversion specifier");
      }
    }
    const size_t spec = at;
    for (int open = 1; at < format.size(); ++at) {
      open += format[at] == '{' ? 1 : format[at] == '}' ? -1 : 0;
      if (open > 0) continue;
      out.spec = format.substr(spec, at - spec);
      ++at;
      return out;
    }
    raise("unmatched '{{' in format spec");
  }

  std::string written(const ReplacementField& field, int depth) {
    Value value = looked_up(field.name);
    if (field.conversion == U'r') {
      value = Value::of(to_repr(value));
    } else if (field.conversion == U'a') {
      value = Value::of(to_ascii(value));
    } else if (field.conversion == U's') {
      value = Value::of(to_text(value));
    } else if (field.conversion) {
      std::string name;
      append_utf8(name, *field.conversion);
      raise("Unknown conversion specifier {}", name);
    }
    const std::string spec = run(field.spec, depth + 1);
    if (!escape_) return format_value(value, spec);
    if (!value.is_markup()) return escape_html(format_value(value, spec));
    if (!spec.empty()) raise("Unsupported format specification for Markup.");
    return value.text();
  }

  // A whole number where it is one, as an index.
  static std::optional<int64_t> index_of(std::string_view text) {
    int64_t number = 0;
    for (const char c : text) {
      if (c < '0' || c > '9') return std::nullopt;
      if (text.size() > kMostIndexDigits) raise("Too many decimal digits in format string");
      number = number * 10 + (c - '0');
    }
    return text.empty() ? std::nullopt : std::optional(number);
  }

  // "first.attribute[item]"
  Value looked_up(std::string_view path) {
    size_t at = std::min(path.find_first_of(".["), path.size());
    Value value = first(path.substr(0, at));
    while (at < path.size()) {
      const char kind = path[at++];
      if (kind != '.' && kind != '[') {
        raise("Only '.' or '[' may follow ']' in format field specifier");
      }
      const size_t end = path.find_first_of(kind == '.' ? ".[" : "]", at);
      if (kind == '[' && end == std::string_view::npos) raise("Missing ']' in format string");
      const std::string_view name = path.substr(at, std::min(end, path.size()) - at);
      if (name.empty()) raise("Empty attribute in format string");
      if (kind == '.') {
        value = get_attribute(value, std::string(name));
      } else {
        const auto index = index_of(name);
        value = get_item(value, index ? Value::of(*index) : Value::of(std::string(name)));
      }
      at = std::min(end, path.size()) + (kind == '[' ? 1 : 0);
    }
    return value;
  }

  Value first(std::string_view name) {
    std::optional<int64_t> index = index_of(name);
    if (name.empty()) {
      if (manual_) {
        raise("cannot switch from manual field specification to automatic field numbering");
      }
      index = automatic_++;
    } else if (index) {
      if (automatic_ > 0) {
        raise("cannot switch from automatic field numbering to manual field specification");
      }
      manual_ = true;
    }
    if (index) {
      if (*index >= static_cast<int64_t>(arguments_.positional.size())) {
        raise("tuple index out of range");
      }
      return arguments_.positional[static_cast<size_t>(*index)];
    }
    const Value key = Value::of(std::string(name));
    if (mapping_ != nullptr) return need_item(*mapping_, key);
    for (const auto& [known, value] : arguments_.named) {
      if (known == name) return value;
    }
    raise("{}", to_repr(key));
  }

  const Arguments& arguments_;
  const Value* mapping_;
  bool escape_;
  int64_t automatic_ = 0;
  bool manual_ = false;
};

}  // namespace

Value format_braces(const Value& format, const Arguments& arguments, const Value* mapping) {
  const bool markup = format.is_markup();
  std::string out = BraceFormat(arguments, mapping, markup).run(format.text(), 0);
  spend_bytes(out.size());
  return markup ? Value::markup(std::move(out)) : Value::of(std::move(out));
}

}  // namespace nibble::frontends::chat
