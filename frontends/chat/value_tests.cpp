// The tests of Jinja: `x is name`.
#include <unordered_map>

#include "frontends/chat/attributes.h"
#include "frontends/chat/filters.h"
#include "frontends/chat/operators.h"

namespace nibble::frontends::chat {
namespace {

const Value& operand(const Arguments& arguments, const char* name) {
  if (arguments.positional.empty()) {
    raise("test_{}() missing 1 required positional argument: 'other'", name);
  }
  return arguments.positional[0];
}

template <Comparison op>
bool compares(Interpreter&, const Value& value, Arguments& arguments) {
  return compare(op, value, operand(arguments, "eq"));
}

int64_t remainder_of(const Value& value, const Value& by) {
  const Value rest = apply(Operator::modulo, value, by);
  if (rest.is_float()) return rest.real() == 0 ? 0 : rest.real() == 1 ? 1 : 2;
  return rest.is_integral() ? rest.integer() : 2;
}

bool odd(Interpreter&, const Value& value, Arguments&) {
  return remainder_of(value, Value::of(int64_t{2})) == 1;
}
bool even(Interpreter&, const Value& value, Arguments&) {
  return remainder_of(value, Value::of(int64_t{2})) == 0;
}
bool divisible(Interpreter&, const Value& value, Arguments& arguments) {
  return remainder_of(value, operand(arguments, "divisibleby")) == 0;
}

bool sequence(Interpreter&, const Value& value, Arguments&) {
  if (value.is_object()) {
    return value.object().type_name() == "range" || value.object().type_name() == "_GroupTuple";
  }
  return length_if_any(value).has_value();
}

template <bool upper>
bool cased(Interpreter& interpreter, const Value& value, Arguments&) {
  Arguments none;
  const Method method = find_text_method(upper ? "isupper" : "islower");
  return method(interpreter, Value::of(to_text(value)), none).boolean();
}

bool is_filter(Interpreter&, const Value& value, Arguments&) {
  return value.is_text() && find_filter(value.text()) != nullptr;
}
bool is_test(Interpreter&, const Value& value, Arguments&) {
  return value.is_text() && find_test(value.text()) != nullptr;
}

using Checked = const Value&;

}  // namespace

Test find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> tests = {
      {"defined", [](Interpreter&, Checked v, Arguments&) { return !v.is_undefined(); }},
      {"undefined", [](Interpreter&, Checked v, Arguments&) { return v.is_undefined(); }},
      {"none", [](Interpreter&, Checked v, Arguments&) { return v.is_none(); }},
      {"boolean", [](Interpreter&, Checked v, Arguments&) { return v.is_bool(); }},
      {"true", [](Interpreter&, Checked v, Arguments&) { return v.is_bool() && v.boolean(); }},
      {"false", [](Interpreter&, Checked v, Arguments&) { return v.is_bool() && !v.boolean(); }},
      {"integer", [](Interpreter&, Checked v, Arguments&) { return v.is_int(); }},
      {"float", [](Interpreter&, Checked v, Arguments&) { return v.is_float(); }},
      {"number", [](Interpreter&, Checked v, Arguments&) { return v.is_number(); }},
      {"string", [](Interpreter&, Checked v, Arguments&) { return v.is_text(); }},
      {"mapping", [](Interpreter&, Checked v, Arguments&) { return v.is_dict(); }},
      {"sequence", sequence},
      {"iterable",
       [](Interpreter&, Checked v, Arguments&) { return iterate_if_any(v) != nullptr; }},
      {"callable",
       [](Interpreter&, Checked v, Arguments&) {
         return v.is_undefined() || (v.is_object() && v.object().callable());
       }},
      {"escaped", [](Interpreter&, Checked v, Arguments&) { return v.is_markup(); }},
      {"sameas",
       [](Interpreter&, Checked v, Arguments& a) { return v.same(operand(a, "sameas")); }},
      {"in", [](Interpreter&, Checked v, Arguments& a) { return contains(operand(a, "in"), v); }},
      {"odd", odd},
      {"even", even},
      {"divisibleby", divisible},
      {"lower", cased<false>},
      {"upper", cased<true>},
      {"filter", is_filter},
      {"test", is_test},
      {"==", compares<Comparison::eq>},
      {"eq", compares<Comparison::eq>},
      {"equalto", compares<Comparison::eq>},
      {"!=", compares<Comparison::ne>},
      {"ne", compares<Comparison::ne>},
      {">", compares<Comparison::gt>},
      {"gt", compares<Comparison::gt>},
      {"greaterthan", compares<Comparison::gt>},
      {">=", compares<Comparison::ge>},
      {"ge", compares<Comparison::ge>},
      {"<", compares<Comparison::lt>},
      {"lt", compares<Comparison::lt>},
      {"lessthan", compares<Comparison::lt>},
      {"<=", compares<Comparison::le>},
      {"le", compares<Comparison::le>},
  };
  const auto found = tests.find(name);
  return found == tests.end() ? nullptr : found->second;
}

}  // namespace nibble::frontends::chat
