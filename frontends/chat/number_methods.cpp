// The methods of int, bool and float.
#include <bit>
#include <cmath>
#include <unordered_map>

#include "frontends/chat/attributes.h"
#include "frontends/chat/number_text.h"
#include "frontends/chat/operators.h"

namespace nibble::frontends::chat {
namespace {

constexpr int kFractionBits = 52;

Value conjugate(Interpreter&, const Value& self, Arguments&) { return plus(self); }

Value is_integer(Interpreter&, const Value& self, Arguments&) {
  return Value::of(!self.is_float() || std::floor(self.real()) == self.real());
}

Value bit_length(Interpreter&, const Value& self, Arguments&) {
  return Value::of(static_cast<int64_t>(std::bit_width(size_of(self.integer()))));
}

Value bit_count(Interpreter&, const Value& self, Arguments&) {
  return Value::of(static_cast<int64_t>(std::popcount(size_of(self.integer()))));
}

Value ratio(int64_t numerator, int64_t denominator) {
  return Value::tuple({Value::of(numerator), Value::of(denominator)});
}

Value integer_ratio(Interpreter&, const Value& self, Arguments&) {
  return ratio(self.integer(), 1);
}

Value real_ratio(Interpreter&, const Value& self, Arguments&) {
  const double value = self.real();
  if (std::isnan(value)) raise("cannot convert NaN to integer ratio");
  if (std::isinf(value)) raise("cannot convert Infinity to integer ratio");
  int exponent = 0;
  auto numerator = static_cast<int64_t>(std::ldexp(std::frexp(value, &exponent), 53));
  if (numerator == 0) return ratio(0, 1);
  exponent -= 53;
  for (; numerator % 2 == 0; ++exponent) numerator /= 2;
  const int most = 63 - std::bit_width(size_of(numerator));
  if (exponent > most || exponent < -62) {
    fail("The chat template makes an integer of more than 64 bits.");
  }
  if (exponent < 0) return ratio(numerator, int64_t{1} << -exponent);
  return ratio(numerator * (int64_t{1} << exponent), 1);
}

Value hexadecimal(Interpreter&, const Value& self, Arguments&) {
  const double value = self.real();
  if (!std::isfinite(value)) return Value::of(repr_of_real(value));
  const auto bits = std::bit_cast<uint64_t>(value);
  const uint64_t fraction = bits & ((uint64_t{1} << kFractionBits) - 1);
  const auto exponent = static_cast<int>(bits >> kFractionBits & 0x7FF);
  const std::string sign = std::signbit(value) ? "-" : "";
  if (exponent == 0 && fraction == 0) return Value::of(sign + "0x0.0p+0");
  return Value::of(fmt::format("{}0x{}.{:013x}p{:+}", sign, exponent == 0 ? 0 : 1, fraction,
                               exponent == 0 ? -1022 : exponent - 1023));
}

// There are no bytes here.
Value to_bytes(Interpreter&, const Value&, Arguments&) {
  fail("The chat template calls int.to_bytes(), but the bytes that it makes are not supported.");
}

}  // namespace

const Method* find_number_method(const Value& value, std::string_view name) {
  static const std::unordered_map<std::string_view, Method> of_int = {
      {"as_integer_ratio", {integer_ratio, "int.as_integer_ratio()"}},
      {"bit_count", {bit_count, "int.bit_count()"}},
      {"bit_length", {bit_length, "int.bit_length()"}},
      {"conjugate", {conjugate, "int.conjugate()"}},
      {"is_integer", {is_integer, "int.is_integer()"}},
      {"to_bytes", {to_bytes}},
  };
  static const std::unordered_map<std::string_view, Method> of_float = {
      {"as_integer_ratio", {real_ratio, "float.as_integer_ratio()"}},
      {"conjugate", {conjugate, "float.conjugate()"}},
      {"hex", {hexadecimal, "float.hex()"}},
      {"is_integer", {is_integer, "float.is_integer()"}},
  };
  const auto& methods = value.is_float() ? of_float : of_int;
  const auto found = methods.find(name);
  return found == methods.end() ? nullptr : &found->second;
}

}  // namespace nibble::frontends::chat
