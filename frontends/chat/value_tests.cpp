// The tests of Jinja: `x is name`.
#include <unordered_map>

#include "frontends/chat/filters.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

using Checked = const Value&;

template <Comparison op>
bool compares(Checked value, Checked other) {
  return compare(op, value, other);
}

bool remainder_is(Checked value, Checked by, int64_t wanted) {
  return equal(apply(Operator::modulo, value, by), Value::of(wanted));
}
bool odd(Checked value, Checked) { return remainder_is(value, Value::of(int64_t{2}), 1); }
bool even(Checked value, Checked) { return remainder_is(value, Value::of(int64_t{2}), 0); }
bool divisible(Checked value, Checked by) { return remainder_is(value, by, 0); }

bool sequence(Checked value, Checked) {
  if (value.is_object()) return value.object().type_name() == "range";
  return length_if_any(value).has_value();
}

bool callable(Checked value, Checked) {
  return value.is_undefined() || (value.is_object() && value.object().callable());
}

template <bool upper>
bool cased(Checked value, Checked) {
  return is_cased(to_text(value), upper);
}

bool is_filter(Checked value, Checked) {
  require_hashable(value, "a dict key");
  return value.is_text() && find_filter(value.text()) != nullptr;
}
bool is_test(Checked value, Checked) {
  require_hashable(value, "a dict key");
  return value.is_text() && find_test(value.text()) != nullptr;
}

}  // namespace

const Test* find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> tests = {
      {"defined", {[](Checked v, Checked) { return !v.is_undefined(); }, "test_defined(value;)"}},
      {"undefined",
       {[](Checked v, Checked) { return v.is_undefined(); }, "test_undefined(value;)"}},
      {"none", {[](Checked v, Checked) { return v.is_none(); }, "test_none(value;)"}},
      {"boolean", {[](Checked v, Checked) { return v.is_bool(); }, "test_boolean(value;)"}},
      {"true",
       {[](Checked v, Checked) { return v.is_bool() && v.boolean(); }, "test_true(value;)"}},
      {"false",
       {[](Checked v, Checked) { return v.is_bool() && !v.boolean(); }, "test_false(value;)"}},
      {"integer", {[](Checked v, Checked) { return v.is_int(); }, "test_integer(value;)"}},
      {"float", {[](Checked v, Checked) { return v.is_float(); }, "test_float(value;)"}},
      {"number", {[](Checked v, Checked) { return v.is_number(); }, "test_number(value;)"}},
      {"string", {[](Checked v, Checked) { return v.is_text(); }, "test_string(value;)"}},
      {"mapping", {[](Checked v, Checked) { return v.is_dict(); }, "test_mapping(value;)"}},
      {"sequence", {sequence, "test_sequence(value;)"}},
      {"iterable",
       {[](Checked v, Checked) { return iterate_if_any(v) != nullptr; }, "test_iterable(value;)"}},
      {"callable", {callable, "callable(obj; /)"}},
      {"escaped", {[](Checked v, Checked) { return v.is_markup(); }, "test_escaped(value;)"}},
      {"sameas",
       {[](Checked v, Checked other) { return v.same(other); }, "test_sameas(value; other)"}},
      {"in", {[](Checked v, Checked seq) { return contains(seq, v); }, "test_in(value; seq)"}},
      {"odd", {odd, "test_odd(value;)"}},
      {"even", {even, "test_even(value;)"}},
      {"divisibleby", {divisible, "test_divisibleby(value; num)"}},
      {"lower", {cased<false>, "test_lower(value;)"}},
      {"upper", {cased<true>, "test_upper(value;)"}},
      {"filter", {is_filter, "test_filter(env, value;)"}},
      {"test", {is_test, "test_test(env, value;)"}},
      {"==", {compares<Comparison::eq>, "eq(a; b, /)"}},
      {"eq", {compares<Comparison::eq>, "eq(a; b, /)"}},
      {"equalto", {compares<Comparison::eq>, "eq(a; b, /)"}},
      {"!=", {compares<Comparison::ne>, "ne(a; b, /)"}},
      {"ne", {compares<Comparison::ne>, "ne(a; b, /)"}},
      {">", {compares<Comparison::gt>, "gt(a; b, /)"}},
      {"gt", {compares<Comparison::gt>, "gt(a; b, /)"}},
      {"greaterthan", {compares<Comparison::gt>, "gt(a; b, /)"}},
      {">=", {compares<Comparison::ge>, "ge(a; b, /)"}},
      {"ge", {compares<Comparison::ge>, "ge(a; b, /)"}},
      {"<", {compares<Comparison::lt>, "lt(a; b, /)"}},
      {"lt", {compares<Comparison::lt>, "lt(a; b, /)"}},
      {"lessthan", {compares<Comparison::lt>, "lt(a; b, /)"}},
      {"<=", {compares<Comparison::le>, "le(a; b, /)"}},
      {"le", {compares<Comparison::le>, "le(a; b, /)"}},
  };
  const auto found = tests.find(name);
  return found == tests.end() ? nullptr : &found->second;
}

}  // namespace nibble::frontends::chat
