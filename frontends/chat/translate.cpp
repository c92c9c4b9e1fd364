// str.translate and str.maketrans.
#include "frontends/chat/attributes.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/parameters.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

constexpr int64_t kPastUnicode = 0x110000;

// What stands for a character: table[c], or the character itself where there is no such item.
void append_translated(std::string& out, const Value& table, char32_t c) {
  const Value key = Value::of(static_cast<int64_t>(c));
  if (!table.is_dict() && !table.is_text() && !table.is_sequence() && !table.is_object()) {
    require_defined(table);
    raise("'{}' object is not subscriptable", type_name(table));
  }
  const auto found = item_of(table, key);
  if (!found) {
    append_utf8(out, c);
  } else if (found->is_integral()) {
    const int64_t code = found->integer();
    if (code < 0 || code >= kPastUnicode) {
      raise("character mapping must be in range(0x110000)");
    }
    if (code >= 0xD800 && code < 0xE000) {
      fail("The chat template makes text with a surrogate, {:#x}, which is no character.", code);
    }
    append_utf8(out, static_cast<char32_t>(code));
  } else if (found->is_text()) {
    out += found->text();
  } else if (!found->is_none()) {
    raise("character mapping must return integer, None or str");
  }
}

const std::string& need_text(const Value& value, int position) {
  if (!value.is_text()) {
    raise("maketrans() argument {} must be str, not {}", position,
          value.is_none() ? "None" : type_name(value));
  }
  return value.text();
}

Value code_of(char32_t c) { return Value::of(static_cast<int64_t>(c)); }

// The keys of a dict as code points.
Dict by_code_points(const Value& given) {
  if (!given.is_dict()) raise("if you give only one argument to maketrans it must be a dict");
  Dict out;
  for (const auto& [key, value] : given.dict().entries()) {
    if (key.is_text()) {
      const auto all = characters_of(key.text());
      if (all.size() != 1) raise("string keys in translatetable must be of length 1");
      out.set(code_of(all[0]), value);
    } else if (key.is_integral()) {
      out.set(key, value);
    } else {
      raise("keys in translate table mustbe strings or integers");
    }
  }
  return out;
}

}  // namespace

Value translate(Interpreter&, const Value& self, Arguments& arguments) {
  const Value table = Parameters("str.translate(table, /)", arguments).need(0);
  std::string out;
  for (const char32_t c : characters_of(self.text())) {
    append_translated(out, table, c);
    foresee(out.size());
  }
  spend_bytes(out.size());
  return self.is_markup() ? Value::markup(std::move(out)) : Value::of(std::move(out));
}

Value make_translation(Interpreter&, const Value&, Arguments& arguments) {
  const Parameters given("str.maketrans(x, y=, z=, /)", arguments);
  if (!given.given(1)) return Value::dict(by_code_points(given.need(0)));
  const std::string& to = need_text(given.value_or_none(1), 2);
  if (!given.need(0).is_text()) {
    raise("first maketrans argument must be a string if there is a second argument");
  }
  const auto keys = characters_of(given.need(0).text()), values = characters_of(to);
  if (keys.size() != values.size()) {
    raise("the first two maketrans arguments must have equal length");
  }
  Dict out;
  for (size_t i = 0; i < keys.size(); ++i) {
    out.set(code_of(keys[i]), code_of(values[i]));
    spend(static_cast<int64_t>(1 + out.size() / 64));
  }
  if (given.given(2)) {
    for (const char32_t c : characters_of(need_text(given.value_or_none(2), 3))) {
      out.set(code_of(c), Value());
    }
  }
  return Value::dict(std::move(out));
}

}  // namespace nibble::frontends::chat
