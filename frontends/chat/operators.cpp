#include "frontends/chat/operators.h"

#include <cmath>

#include "frontends/chat/format.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

constexpr const char* kOperatorSigns[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
constexpr const char* kComparisons[] = {"==", "!=", "<", "<=", ">", ">="};

[[noreturn]] void unsupported(Operator op, const Value& a, const Value& b) {
  raise("unsupported operand type(s) for {}: '{}' and '{}'", kOperatorSigns[static_cast<int>(op)],
        type_name(a), type_name(b));
}

[[noreturn]] void overflow() {
  fail("The chat template computes with an integer that does not fit into 64 bits.");
}

int64_t integer_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return result;
}

double real_power(double base, double exponent) {
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) {
    raise("(34, 'Numerical result out of range')");
  }
  if (std::isnan(result) && !std::isnan(base) && !std::isnan(exponent)) {
    fail("The chat template computes {} to the power of {}, which is a complex number.", base,
         exponent);
  }
  return result;
}

Value of_integers(Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case Operator::add:
      if (__builtin_add_overflow(a, b, &result)) overflow();
      return Value::of(result);
    case Operator::subtract:
      if (__builtin_sub_overflow(a, b, &result)) overflow();
      return Value::of(result);
    case Operator::multiply:
      if (__builtin_mul_overflow(a, b, &result)) overflow();
      return Value::of(result);
    case Operator::divide:
      if (b == 0) raise("division by zero");
      return Value::of(static_cast<double>(a) / static_cast<double>(b));
    case Operator::floor_divide:
      if (b == 0) raise("division by zero");
      if (b == -1) return of_integers(Operator::subtract, 0, a);
      return Value::of(a / b - int64_t{a % b != 0 && (a < 0) != (b < 0)});
    case Operator::modulo:
      if (b == 0) raise("division by zero");
      if (b == -1) return Value::of(int64_t{0});
      result = a % b;
      return Value::of(result != 0 && (result < 0) != (b < 0) ? result + b : result);
    case Operator::power:
      if (b >= 0) return Value::of(integer_power(a, b));
      if (a == 0) raise("zero to a negative power");
      return Value::of(real_power(static_cast<double>(a), static_cast<double>(b)));
  }
  return {};
}

// With the sign of b.
double floored_remainder(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}

double floored_quotient(double a, double b) {
  const double rest = std::fmod(a, b);
  const double quotient = (a - rest) / b - (rest != 0 && (rest < 0) != (b < 0) ? 1.0 : 0.0);
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1.0 : whole;
}

Value of_reals(Operator op, double a, double b) {
  switch (op) {
    case Operator::add:
      return Value::of(a + b);
    case Operator::subtract:
      return Value::of(a - b);
    case Operator::multiply:
      return Value::of(a * b);
    case Operator::divide:
      if (b == 0) raise("division by zero");
      return Value::of(a / b);
    case Operator::floor_divide:
      if (b == 0) raise("division by zero");
      return Value::of(floored_quotient(a, b));
    case Operator::modulo:
      if (b == 0) raise("division by zero");
      return Value::of(floored_remainder(a, b));
    case Operator::power:
      if (a == 0 && b < 0) raise("zero to a negative power");
      return Value::of(real_power(a, b));
  }
  return {};
}

Value repeat(const Value& value, int64_t times) {
  const auto count = static_cast<size_t>(std::max<int64_t>(times, 0));
  if (value.is_text()) {
    foresee(count, value.text().size());
    std::string out;
    out.reserve(value.text().empty() ? 0 : value.text().size() * count);
    for (size_t i = 0; !value.text().empty() && i < count; ++i) out += value.text();
    return value.is_markup() ? Value::markup(std::move(out)) : Value::of(std::move(out));
  }
  const Items& items = value.items();
  foresee(count, items.size() * sizeof(Value));
  Items out;
  for (size_t i = 0; !items.empty() && i < count; ++i) {
    out.insert(out.end(), items.begin(), items.end());
  }
  return value.is_tuple() ? Value::tuple(std::move(out)) : Value::list(std::move(out));
}

Value add_sequences(const Value& a, const Value& b) {
  if (a.is_tuple() != b.is_tuple() || !b.is_sequence()) {
    raise("can only concatenate {0} (not \"{1}\") to {0}", type_name(a), type_name(b));
  }
  foresee(a.items().size() + b.items().size(), sizeof(Value));
  Items out = a.items();
  out.insert(out.end(), b.items().begin(), b.items().end());
  return a.is_tuple() ? Value::tuple(std::move(out)) : Value::list(std::move(out));
}

Value multiply(const Value& a, const Value& b) {
  const auto repeats = [](const Value& v) { return v.is_text() || v.is_sequence(); };
  if (repeats(a) || repeats(b)) {
    if (repeats(a) && b.is_integral()) return repeat(a, b.integer());
    if (repeats(b) && a.is_integral()) return repeat(b, a.integer());
    raise("can't multiply sequence by non-int of type '{}'", type_name(repeats(a) ? b : a));
  }
  unsupported(Operator::multiply, a, b);
}

// -1, 0, 1; 2 when one of them is NaN.
template <typename T>
int sign_of_order(const T& a, const T& b) {
  return a < b ? -1 : b < a ? 1 : a == b ? 0 : 2;
}

int order(Comparison op, const Value& a, const Value& b) {
  const Deeper deeper;
  spend();
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return sign_of_order(a.real(), b.real());
    return sign_of_order(a.integer(), b.integer());
  }
  if (a.is_text() && b.is_text()) {
    spend_bytes(std::min(a.text().size(), b.text().size()));
    return sign_of_order(a.text(), b.text());
  }
  if (a.is_sequence() && b.is_sequence() && a.is_tuple() == b.is_tuple()) {
    const Items &left = a.items(), &right = b.items();
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equal(left[i], right[i])) return order(op, left[i], right[i]);
    }
    return sign_of_order(left.size(), right.size());
  }
  require_defined(a);
  require_defined(b);
  raise("'{}' not supported between instances of '{}' and '{}'", kComparisons[static_cast<int>(op)],
        type_name(a), type_name(b));
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [key, value] : a.entries()) {
    const Value* other = b.find(key);
    if (other == nullptr || !equal(value, *other)) return false;
  }
  return true;
}

// A part of a slice: within [low, high], `fallback` where it is None.
int64_t clamp_part(const Value& part, int64_t size, int64_t low, int64_t high, int64_t fallback) {
  if (part.is_none()) return fallback;
  if (!part.is_integral()) {
    raise("slice indices must be integers or None or have an __index__ method");
  }
  const int64_t at = part.integer() < 0 ? part.integer() + size : part.integer();
  return std::clamp(at, low, high);
}

struct SliceRange {
  int64_t start, past, step, count;
};

SliceRange slice_range(const Value& start, const Value& stop, const Value& step, int64_t size) {
  if (!step.is_none() && !step.is_integral()) {
    raise("slice indices must be integers or None or have an __index__ method");
  }
  const int64_t stride = step.is_none() ? 1 : step.integer();
  if (stride == 0) raise("slice step cannot be zero");
  const bool up = stride > 0;
  const int64_t low = up ? 0 : -1, high = up ? size : size - 1;
  const int64_t first = clamp_part(start, size, low, high, up ? low : high);
  const int64_t past = clamp_part(stop, size, low, high, up ? high : low);
  const int64_t distance = up ? past - first : first - past;
  if (distance <= 0) return {first, past, stride, 0};
  // Steps longer than the text are all one step.
  const int64_t length = std::min(stride == INT64_MIN ? INT64_MAX : std::abs(stride), size + 1);
  return {first, past, up ? length : -length, (distance + length - 1) / length};
}

Value slice_text(const Value& value, const Value& start, const Value& stop, const Value& step) {
  const std::string& text = value.text();
  const SliceRange range = slice_range(start, stop, step, count_characters(text));
  std::string out;
  if (range.count == 0) return value.is_markup() ? Value::markup("") : Value::of("");
  if (range.step == 1) {
    const size_t first = byte_of(text, range.start);
    out = text.substr(first, byte_of(std::string_view(text).substr(first), range.count));
  } else {
    const auto all = characters_of(text);
    for (int64_t i = 0; i < range.count; ++i) {
      append_utf8(out, all[static_cast<size_t>(range.start + i * range.step)]);
    }
  }
  return value.is_markup() ? Value::markup(std::move(out)) : Value::of(std::move(out));
}

}  // namespace

Value escaped(const Value& value) {
  return value.is_markup() ? value : Value::markup(escape_html(to_text(value)));
}

Value like(const Value& from, std::string text) {
  return from.is_markup() ? Value::markup(std::move(text)) : Value::of(std::move(text));
}

Value join_escaped(const Items& items, const Value& between) {
  bool markup = between.is_markup();
  for (const Value& item : items) markup = markup || item.is_markup();
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += markup ? escaped(between).text() : to_text(between);
    out += markup ? escaped(items[i]).text() : to_text(items[i]);
    foresee(out.size());
  }
  spend_bytes(out.size());
  return markup ? Value::markup(std::move(out)) : Value::of(std::move(out));
}

Value join_texts(const Value& left, const Value& right) {
  foresee(left.text().size() + right.text().size(), 1);
  if (left.is_markup() || right.is_markup()) {
    return Value::markup(escaped(left).text() + escaped(right).text());
  }
  return Value::of(left.text() + right.text());
}

Value apply(Operator op, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return of_reals(op, a.real(), b.real());
    return of_integers(op, a.integer(), b.integer());
  }
  if (op == Operator::modulo && a.is_text()) return format_percent(a, b);
  require_defined(a);
  require_defined(b);
  if (op == Operator::multiply) return multiply(a, b);
  if (op != Operator::add) unsupported(op, a, b);
  if (a.is_text() && b.is_text()) return join_texts(a, b);
  if (a.is_text() && !a.is_markup())
    raise("can only concatenate str (not \"{}\") to str", type_name(b));
  if (a.is_sequence()) return add_sequences(a, b);
  unsupported(op, a, b);
}

Value negate(const Value& value) {
  require_defined(value);
  if (value.is_float()) return Value::of(-value.real());
  if (value.is_integral()) return of_integers(Operator::subtract, 0, value.integer());
  raise("bad operand type for unary -: '{}'", type_name(value));
}

Value plus(const Value& value) {
  require_defined(value);
  if (value.is_float()) return value;
  if (value.is_integral()) return Value::of(value.integer());
  raise("bad operand type for unary +: '{}'", type_name(value));
}

bool equal(const Value& a, const Value& b) {
  const Deeper deeper;
  spend();
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.real() == b.real();
    return a.integer() == b.integer();
  }
  if (a.is_text() && b.is_text()) {
    spend_bytes(std::min(a.text().size(), b.text().size()));
    return a.text() == b.text();
  }
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_sequence() && b.is_sequence() && a.is_tuple() == b.is_tuple()) {
    if (a.items().size() != b.items().size()) return false;
    for (size_t i = 0; i < a.items().size(); ++i) {
      if (!equal(a.items()[i], b.items()[i])) return false;
    }
    return true;
  }
  if (a.is_dict() && b.is_dict()) return equal_dicts(a.dict(), b.dict());
  if (a.is_object() && b.is_object() && a.object().type_name() == "range" &&
      b.object().type_name() == "range") {
    return equal(Value::list(to_items(a)), Value::list(to_items(b)));
  }
  return a.same(b);
}

bool compare(Comparison op, const Value& a, const Value& b) {
  switch (op) {
    case Comparison::eq:
      return equal(a, b);
    case Comparison::ne:
      return !equal(a, b);
    case Comparison::lt:
      return order(op, a, b) == -1;
    case Comparison::gt:
      return order(op, a, b) == 1;
    case Comparison::le:
      return order(op, a, b) <= 0;
    case Comparison::ge: {
      const int sign = order(op, a, b);
      return sign == 0 || sign == 1;
    }
    case Comparison::in:
      return contains(b, a);
    case Comparison::not_in:
      return !contains(b, a);
  }
  return false;
}

bool contains(const Value& container, const Value& item) {
  if (container.is_text()) {
    if (!item.is_text()) {
      raise("'in <string>' requires string as left operand, not {}", type_name(item));
    }
    spend_bytes(container.text().size());
    return container.text().find(item.text()) != std::string::npos;
  }
  if (container.is_dict()) {
    Dict probe;
    probe.set(item, {});  // raises what an unhashable key raises
    return container.dict().find(item) != nullptr;
  }
  const Next next = iterate_if_any(container);
  if (!next) raise("argument of type '{}' is not a container or iterable", type_name(container));
  Value value;
  while (next(value)) {
    if (equal(value, item)) return true;
  }
  return false;
}

std::optional<int64_t> length_if_any(const Value& value) {
  if (value.is_text()) return count_characters(value.text());
  if (value.is_sequence()) return static_cast<int64_t>(value.items().size());
  if (value.is_dict()) return static_cast<int64_t>(value.dict().size());
  if (value.is_undefined()) return 0;
  return value.is_object() ? value.object().length() : std::nullopt;
}

int64_t length(const Value& value) {
  const auto found = length_if_any(value);
  if (!found) raise("object of type '{}' has no len()", type_name(value));
  return *found;
}

Next iterate_if_any(const Value& value) {
  if (value.is_text()) {
    return [value, at = size_t{0}](Value& out) mutable {
      const std::string& text = value.text();
      if (at >= text.size()) return false;
      const size_t start = at;
      spend();
      next_code_point(text, at);
      out = Value::of(text.substr(start, at - start));  // plain even of markup
      return true;
    };
  }
  if (value.is_sequence()) {
    return [value, i = size_t{0}](Value& out) mutable {
      if (i == value.items().size()) return false;
      spend();
      out = value.items()[i++];
      return true;
    };
  }
  if (value.is_dict()) return DictView(value, DictView::Part::keys).iterate();
  if (value.is_undefined()) return [](Value&) { return false; };
  if (!value.is_object()) return nullptr;
  Next next = value.object().iterate();
  if (!next) return nullptr;
  return [value, next = std::move(next)](Value& out) {
    spend();
    return next(out);
  };
}

Next iterate(const Value& value) {
  Next next = iterate_if_any(value);
  if (!next) raise("'{}' object is not iterable", type_name(value));
  return next;
}

Items to_items(const Value& value) {
  if (value.is_sequence()) {
    foresee(value.items().size(), sizeof(Value));
    return value.items();
  }
  Items out;
  const Next next = iterate(value);
  Value item;
  while (next(item)) {
    out.push_back(item);
    if ((out.size() & 1023U) == 0) foresee(out.size() * sizeof(Value));
  }
  return out;
}

std::optional<Value> item_of(const Value& value, const Value& key) {
  if (value.is_dict()) {
    const Value* found = value.dict().find(key);
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  if (value.is_object()) return value.object().item(key);
  if (!key.is_integral() || !(value.is_text() || value.is_sequence())) return std::nullopt;
  const int64_t size = length(value);
  const int64_t i = key.integer() < 0 ? key.integer() + size : key.integer();
  if (i < 0 || i >= size) return std::nullopt;
  if (value.is_sequence()) return value.items()[static_cast<size_t>(i)];
  const size_t at = byte_of(value.text(), i);
  std::string character = value.text().substr(at, utf8_length(value.text()[at]));
  return value.is_markup() ? Value::markup(std::move(character)) : Value::of(std::move(character));
}

Value need_item(const Value& value, const Value& key) {
  require_defined(value);
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(key)) return *found;
    raise("{}", to_repr(key));  // a KeyError
  }
  if (auto found = item_of(value, key)) return *found;
  if (value.is_text()) raise("string indices must be integers, not '{}'", type_name(key));
  if (value.is_sequence() || (value.is_object() && value.object().type_name() == "range")) {
    raise("{} indices must be integers or slices, not {}", type_name(value), type_name(key));
  }
  raise("'{}' object is not subscriptable", type_name(value));
}

std::optional<Value> slice_of(const Value& value, const Value& start, const Value& stop,
                              const Value& step) {
  if (value.is_text()) return slice_text(value, start, stop, step);
  if (value.is_object() && value.object().type_name() == "range") {
    const auto& range = static_cast<const Range&>(value.object());
    const SliceRange part = slice_range(start, stop, step, *value.object().length());
    return Value::object(std::make_shared<Range>(range.at(part.start), range.at(part.past),
                                                 range.step() * part.step));
  }
  if (!value.is_sequence()) return std::nullopt;
  const SliceRange range =
      slice_range(start, stop, step, static_cast<int64_t>(value.items().size()));
  foresee(static_cast<size_t>(range.count), sizeof(Value));
  Items out;
  for (int64_t i = 0; i < range.count; ++i) {
    out.push_back(value.items()[static_cast<size_t>(range.start + i * range.step)]);
  }
  return value.is_tuple() ? Value::tuple(std::move(out)) : Value::list(std::move(out));
}

int64_t to_index(const Value& value) {
  if (!value.is_integral()) {
    raise("'{}' object cannot be interpreted as an integer", type_name(value));
  }
  return value.integer();
}

}  // namespace nibble::frontends::chat
