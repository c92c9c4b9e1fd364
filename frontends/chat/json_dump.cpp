// json.dumps as transformers' tojson calls it.
#include <algorithm>
#include <cmath>

#include "frontends/chat/filters.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style), pretty_(!style.indent.is_none()) {
    if (pretty_) item_separator_ = ",";
    if (pretty_) {
      step_ = style.indent.is_text() ? style.indent.text() : spaces(to_index(style.indent));
    }
    if (!style.separators.is_none()) {
      const Items parts = to_items(style.separators);
      if (parts.size() < 2) {
        raise("not enough values to unpack (expected 2, got {})", parts.size());
      }
      if (parts.size() > 2) raise("too many values to unpack (expected 2, got {})", parts.size());
      item_separator_ = to_text(parts[0]);
      key_separator_ = to_text(parts[1]);
    }
  }

  std::string write(const Value& value) {
    any(value);
    return std::move(out_);
  }

 private:
  static std::string spaces(int64_t count) {
    foresee(static_cast<size_t>(std::max<int64_t>(count, 0)), 1);
    return std::string(static_cast<size_t>(std::max<int64_t>(count, 0)), ' ');
  }

  static std::string real(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return repr_of_real(value);
  }

  void any(const Value& value) {
    const Deeper deeper;
    spend();
    foresee(out_.size());
    if (value.is_none()) {
      out_ += "null";
    } else if (value.is_bool()) {
      out_ += value.boolean() ? "true" : "false";
    } else if (value.is_int()) {
      out_ += std::to_string(value.integer());
    } else if (value.is_float()) {
      out_ += real(value.real());
    } else if (value.is_text()) {
      text(value.text());
    } else if (value.is_sequence()) {
      list(value.items());
    } else if (value.is_dict()) {
      dict(value.dict());
    } else {
      raise("Object of type {} is not JSON serializable", type_name(value));
    }
  }

  void new_line() {
    if (!pretty_) return;
    out_ += '\n';
    foresee(step_.size() * static_cast<size_t>(level_) + out_.size());
    for (int i = 0; i < level_; ++i) out_ += step_;
  }

  void list(const Items& items) {
    if (items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += item_separator_;
      new_line();
      any(items[i]);
    }
    --level_;
    new_line();
    out_ += ']';
  }

  void dict(const Dict& dict) {
    if (dict.size() == 0) {
      out_ += "{}";
      return;
    }
    std::vector<Dict::Entry> entries = dict.entries();
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
        return compare(Comparison::lt, a.first, b.first);
      });
    }
    out_ += '{';
    ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += item_separator_;
      new_line();
      key(entries[i].first);
      out_ += key_separator_;
      any(entries[i].second);
    }
    --level_;
    new_line();
    out_ += '}';
  }

  void key(const Value& key) {
    if (key.is_text()) {
      text(key.text());
    } else if (key.is_bool()) {
      out_ += key.boolean() ? "\"true\"" : "\"false\"";
    } else if (key.is_none()) {
      out_ += "\"null\"";
    } else if (key.is_int()) {
      out_ += '"' + std::to_string(key.integer()) + '"';
    } else if (key.is_float()) {
      out_ += '"' + real(key.real()) + '"';
    } else {
      raise("keys must be str, int, float, bool or None, not {}", type_name(key));
    }
  }

  void text(std::string_view text) {
    spend_bytes(text.size());
    foresee(out_.size() + text.size());
    out_ += '"';
    for (size_t at = 0; at < text.size();) {
      const size_t start = at;
      const char32_t c = next_code_point(text, at);
      switch (c) {
        case U'"':
          out_ += "\\\"";
          break;
        case U'\\':
          out_ += "\\\\";
          break;
        case U'\n':
          out_ += "\\n";
          break;
        case U'\r':
          out_ += "\\r";
          break;
        case U'\t':
          out_ += "\\t";
          break;
        case U'\b':
          out_ += "\\b";
          break;
        case U'\f':
          out_ += "\\f";
          break;
        default:
          if (c < 0x20 || (style_.ensure_ascii && c > 0x7E)) {
            escape(c);
          } else {
            out_ += text.substr(start, at - start);
          }
      }
    }
    out_ += '"';
  }

  void escape(char32_t c) {
    const auto code = static_cast<uint32_t>(c);
    if (code < 0x10000) {
      out_ += fmt::format("\\u{:04x}", code);
    } else {
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((code - 0x10000) >> 10),
                          0xDC00 + ((code - 0x10000) & 0x3FF));
    }
  }

  const JsonStyle& style_;
  bool pretty_;
  std::string step_, item_separator_ = ", ", key_separator_ = ": ";
  int level_ = 0;
  std::string out_;
};

}  // namespace

std::string to_json(const Value& value, const JsonStyle& style) {
  return JsonWriter(style).write(value);
}

}  // namespace nibble::frontends::chat
