#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "graph/interpreter_broadcast.h"
#include "graph/interpreter_ops.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

using Kind = Array::Kind;

// Integers wrap as in two's complement: signed overflow is no operation in C++.
int64_t wrap_add(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
int64_t wrap_sub(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
}
int64_t wrap_mul(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}

int64_t saturate(double value) {
  if (std::isnan(value)) return 0;
  if (value >= 9223372036854775808.0) return std::numeric_limits<int64_t>::max();
  if (value <= -9223372036854775808.0) return std::numeric_limits<int64_t>::min();
  return static_cast<int64_t>(value);
}

template <typename Out, typename In, typename F>
std::vector<Out> zip(const Shape& shape, const Array& a, const Array& b, const std::vector<In>& x,
                     const std::vector<In>& y, const F& f) {
  std::vector<Out> out(static_cast<size_t>(array_size(shape, sizeof(Out))));
  const LoopNest<2> loop(shape,
                         {broadcast_strides(a.shape, shape), broadcast_strides(b.shape, shape)});
  loop.run([&](int64_t at, const auto& offsets, int64_t count, const auto& steps) {
    const In* px = x.data() + offsets[0];
    const In* py = y.data() + offsets[1];
    Out* to = out.data() + at;
    if (steps[0] == 1 && steps[1] == 1) {
      for (int64_t j = 0; j < count; ++j) to[j] = f(px[j], py[j]);
    } else if (steps[0] == 1 && steps[1] == 0) {
      const In right = *py;
      for (int64_t j = 0; j < count; ++j) to[j] = f(px[j], right);
    } else {
      for (int64_t j = 0; j < count; ++j) to[j] = f(px[j * steps[0]], py[j * steps[1]]);
    }
  });
  return out;
}

void check_same_kind(const Array& a, const Array& b) {
  if (a.kind != b.kind) {
    fail("The operands are of different types (one float, integer or boolean, the other not).");
  }
}

// A numeric operator on two arrays of one kind.
template <typename F, typename G>
Array arithmetic(const Array& a, const Array& b, const F& on_floats, const G& on_ints) {
  check_same_kind(a, b);
  if (a.kind == Kind::boolean) fail("Booleans are no operands of arithmetic.");
  const Shape shape = broadcast_shape(a.shape, b.shape);
  if (a.kind == Kind::f32) return Array::of(shape, zip<float>(shape, a, b, *a.f, *b.f, on_floats));
  return like(a, shape, zip<int64_t>(shape, a, b, *a.i, *b.i, on_ints));
}

template <typename F>
Array compare(const OpCall& call, const F& f) {
  const Array &a = call.in(0), &b = call.in(1);
  check_same_kind(a, b);
  const Shape shape = broadcast_shape(a.shape, b.shape);
  return Array::of_bool(shape, a.kind == Kind::f32 ? zip<int64_t>(shape, a, b, *a.f, *b.f, f)
                                                   : zip<int64_t>(shape, a, b, *a.i, *b.i, f));
}

template <typename F>
Outputs logic(const OpCall& call, const F& f) {
  if (call.in(0).kind != Kind::boolean || call.in(1).kind != Kind::boolean) {
    fail("Both operands must be booleans.");
  }
  return {compare(call, f)};
}

int64_t divide_int(int64_t a, int64_t b) {
  if (b == 0) fail("An integer is divided by zero.");
  return b == -1 ? wrap_sub(0, a) : a / b;
}

// The remainder with the divisor's sign (Mod with fmod = 0).
int64_t modulo_int(int64_t a, int64_t b) {
  if (b == 0) fail("An integer is divided by zero.");
  if (b == -1) return 0;
  const int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

int64_t remainder_int(int64_t a, int64_t b) {
  if (b == 0) fail("An integer is divided by zero.");
  return b == -1 ? 0 : a % b;
}

// NaN wins, as numpy has it.
float max_float(float a, float b) { return std::isnan(a) || a > b ? a : b; }
float min_float(float a, float b) { return std::isnan(a) || a < b ? a : b; }
int64_t max_int(int64_t a, int64_t b) { return std::max(a, b); }
int64_t min_int(int64_t a, int64_t b) { return std::min(a, b); }

Outputs op_add(const OpCall& call) {
  return {arithmetic(
      call.in(0), call.in(1), [](float a, float b) { return a + b; }, wrap_add)};
}
Outputs op_sub(const OpCall& call) {
  return {arithmetic(
      call.in(0), call.in(1), [](float a, float b) { return a - b; }, wrap_sub)};
}
Outputs op_mul(const OpCall& call) {
  return {arithmetic(
      call.in(0), call.in(1), [](float a, float b) { return a * b; }, wrap_mul)};
}
Outputs op_div(const OpCall& call) {
  return {arithmetic(
      call.in(0), call.in(1), [](float a, float b) { return a / b; }, divide_int)};
}

Outputs op_mod(const OpCall& call) {
  const bool fmod = call.node.get_int("fmod", 0) != 0;
  if (!fmod && call.in(0).kind == Kind::f32) fail("Floats need the attribute fmod = 1.");
  return {arithmetic(
      call.in(0), call.in(1), [](float a, float b) { return std::fmod(a, b); },
      fmod ? remainder_int : modulo_int)};
}

int64_t power_int(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) fail("Zero is raised to the negative power {}.", exponent);
    return base == 1 ? 1 : base == -1 ? (exponent % 2 == 0 ? 1 : -1) : 0;
  }
  int64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0) result = wrap_mul(result, base);
    base = wrap_mul(base, base);
  }
  return result;
}

Array to_float(const Array& x) {
  if (x.kind == Kind::f32) return x;
  return Array::of(x.shape, std::vector<float>(x.i->begin(), x.i->end()));
}

Array to_int(const Array& x) {
  if (x.kind != Kind::f32) return Array::of(x.shape, *x.i);
  std::vector<int64_t> values(x.f->size());
  std::transform(x.f->begin(), x.f->end(), values.begin(), saturate);
  return Array::of(x.shape, std::move(values));
}

// The result has the base's type; the exponent may have another.
Outputs op_pow(const OpCall& call) {
  const Array &base = call.in(0), &exponent = call.in(1);
  const auto power = [](float a, float b) { return b == 2.0F ? a * a : std::pow(a, b); };
  if (base.kind == Kind::f32 || exponent.kind == Kind::f32) {
    const Array result = arithmetic(to_float(base), to_float(exponent), power, power_int);
    return {base.kind == Kind::f32 ? result : to_int(result)};
  }
  return {arithmetic(base, exponent, power, power_int)};
}

template <typename F, typename G>
Outputs fold(const OpCall& call, const F& on_floats, const G& on_ints) {
  Array result = call.in(0);
  for (size_t i = 1; i < call.inputs.size(); ++i) {
    result = arithmetic(result, call.in(i), on_floats, on_ints);
  }
  return {result};
}

Outputs op_max(const OpCall& call) { return fold(call, max_float, max_int); }
Outputs op_min(const OpCall& call) { return fold(call, min_float, min_int); }
Outputs op_sum(const OpCall& call) {
  return fold(
      call, [](float a, float b) { return a + b; }, wrap_add);
}

Outputs op_equal(const OpCall& call) {
  return {compare(call, [](auto a, auto b) { return int64_t{a == b}; })};
}
Outputs op_less(const OpCall& call) {
  return {compare(call, [](auto a, auto b) { return int64_t{a < b}; })};
}
Outputs op_less_or_equal(const OpCall& call) {
  return {compare(call, [](auto a, auto b) { return int64_t{a <= b}; })};
}
Outputs op_greater(const OpCall& call) {
  return {compare(call, [](auto a, auto b) { return int64_t{a > b}; })};
}
Outputs op_greater_or_equal(const OpCall& call) {
  return {compare(call, [](auto a, auto b) { return int64_t{a >= b}; })};
}
Outputs op_and(const OpCall& call) {
  return logic(call, [](auto a, auto b) { return int64_t{a != 0 && b != 0}; });
}
Outputs op_or(const OpCall& call) {
  return logic(call, [](auto a, auto b) { return int64_t{a != 0 || b != 0}; });
}
Outputs op_xor(const OpCall& call) {
  return logic(call, [](auto a, auto b) { return int64_t{(a != 0) != (b != 0)}; });
}

Outputs op_not(const OpCall& call) {
  const Array& x = call.in(0);
  if (x.kind != Kind::boolean) fail("The operand must be a boolean.");
  std::vector<int64_t> values(x.i->size());
  std::transform(x.i->begin(), x.i->end(), values.begin(), [](int64_t a) { return a == 0; });
  return {Array::of_bool(x.shape, std::move(values))};
}

template <typename T>
std::vector<T> choose(const Shape& shape, const Array& condition, const Array& a, const Array& b,
                      const std::vector<T>& x, const std::vector<T>& y) {
  std::vector<T> out(static_cast<size_t>(array_size(shape, sizeof(T))));
  const LoopNest<3> loop(
      shape, {broadcast_strides(condition.shape, shape), broadcast_strides(a.shape, shape),
              broadcast_strides(b.shape, shape)});
  loop.run([&](int64_t at, const auto& offsets, int64_t count, const auto& steps) {
    const int64_t* pc = condition.i->data() + offsets[0];
    for (int64_t j = 0; j < count; ++j) {
      out[static_cast<size_t>(at + j)] = pc[j * steps[0]] != 0
                                             ? x[static_cast<size_t>(offsets[1] + j * steps[1])]
                                             : y[static_cast<size_t>(offsets[2] + j * steps[2])];
    }
  });
  return out;
}

Outputs op_where(const OpCall& call) {
  const Array &condition = call.in(0), &a = call.in(1), &b = call.in(2);
  if (condition.kind != Kind::boolean) fail("The condition must be a boolean.");
  check_same_kind(a, b);
  const Shape shape = broadcast_shape(condition.shape, broadcast_shape(a.shape, b.shape));
  if (a.kind == Kind::f32) return {Array::of(shape, choose(shape, condition, a, b, *a.f, *b.f))};
  return {like(a, shape, choose(shape, condition, a, b, *a.i, *b.i))};
}

// f on every float; integers are refused.
template <float (*F)(float)>
Outputs op_map(const OpCall& call) {
  const Array& x = call.in(0);
  const auto from = x.floats();
  std::vector<float> values(from.size());
  std::transform(from.begin(), from.end(), values.begin(), F);
  return {Array::of(x.shape, std::move(values))};
}

// The same for operators that take integers too.
template <float (*F)(float), int64_t (*G)(int64_t)>
Outputs op_map_any(const OpCall& call) {
  const Array& x = call.in(0);
  if (x.kind == Kind::f32) return op_map<F>(call);
  std::vector<int64_t> values(x.i->size());
  std::transform(x.i->begin(), x.i->end(), values.begin(), G);
  return {like(x, x.shape, std::move(values))};
}

template <bool (*F)(float)>
Outputs op_test(const OpCall& call) {
  const Array& x = call.in(0);
  const auto from = x.floats();
  std::vector<int64_t> values(from.size());
  std::transform(from.begin(), from.end(), values.begin(), [](float a) { return F(a) ? 1 : 0; });
  return {Array::of_bool(x.shape, std::move(values))};
}

float f_neg(float a) { return -a; }
int64_t i_neg(int64_t a) { return wrap_sub(0, a); }
float f_abs(float a) { return std::fabs(a); }
int64_t i_abs(int64_t a) { return a < 0 ? wrap_sub(0, a) : a; }
float f_sign(float a) { return std::isnan(a) ? a : static_cast<float>((a > 0) - (a < 0)); }
int64_t i_sign(int64_t a) { return (a > 0) - (a < 0); }
float f_sqrt(float a) { return std::sqrt(a); }
float f_reciprocal(float a) { return 1.0F / a; }
float f_exp(float a) { return std::exp(a); }
float f_log(float a) { return std::log(a); }
float f_sin(float a) { return std::sin(a); }
float f_cos(float a) { return std::cos(a); }
float f_tanh(float a) { return std::tanh(a); }
float f_erf(float a) { return std::erf(a); }
float f_sigmoid(float a) { return 1.0F / (1.0F + std::exp(-a)); }
float f_relu(float a) { return a < 0 ? 0.0F : a; }
int64_t i_relu(int64_t a) { return a < 0 ? 0 : a; }
float f_floor(float a) { return std::floor(a); }
float f_ceil(float a) { return std::ceil(a); }
float f_round(float a) { return std::nearbyint(a); }
float f_softplus(float a) { return a > 20 ? a : std::log1p(std::exp(a)); }
bool f_is_nan(float a) { return std::isnan(a); }
bool f_is_inf(float a) { return std::isinf(a); }
float f_gelu(float a) { return 0.5F * a * (1.0F + std::erf(a * 0.70710678F)); }
float f_gelu_tanh(float a) {
  return 0.5F * a * (1.0F + std::tanh(0.79788456F * (a + 0.044715F * a * a * a)));
}

Outputs op_gelu(const OpCall& call) {
  const std::string form = call.node.get_string("approximate", "none");
  if (form == "tanh") return op_map<f_gelu_tanh>(call);
  if (form != "none") fail("The attribute approximate is \"{}\", not none or tanh.", form);
  return op_map<f_gelu>(call);
}

Outputs op_clip(const OpCall& call) {
  Array result = call.in(0);
  if (const Array* low = call.optional(1)) result = arithmetic(result, *low, max_float, max_int);
  if (const Array* high = call.optional(2)) result = arithmetic(result, *high, min_float, min_int);
  return {result};
}

Array to_bool(const Array& x) {
  std::vector<int64_t> values(static_cast<size_t>(x.size()));
  with_elements(x, [&](const auto& from) {
    std::transform(from.begin(), from.end(), values.begin(), [](auto a) { return a != 0; });
  });
  return Array::of_bool(x.shape, std::move(values));
}

template <typename T>
Array to_narrow(const Array& x) {
  const Array wide = to_int(x);
  std::vector<int64_t> values(wide.i->size());
  std::transform(wide.i->begin(), wide.i->end(), values.begin(),
                 [](int64_t a) { return static_cast<int64_t>(static_cast<T>(a)); });
  return Array::of(x.shape, std::move(values));
}

// `to` counts as ONNX's TensorProto.DataType does. All float types stay fp32.
Outputs op_cast(const OpCall& call) {
  const Array& x = call.in(0);
  const int64_t to = call.node.get_int("to");
  switch (to) {
    case 1:   // float
    case 10:  // float16
    case 11:  // double
    case 16:  // bfloat16
      return {to_float(x)};
    case 2:
      return {to_narrow<uint8_t>(x)};
    case 3:
      return {to_narrow<int8_t>(x)};
    case 4:
      return {to_narrow<uint16_t>(x)};
    case 5:
      return {to_narrow<int16_t>(x)};
    case 6:
      return {to_narrow<int32_t>(x)};
    case 12:
      return {to_narrow<uint32_t>(x)};
    case 7:   // int64
    case 13:  // uint64
      return {to_int(x)};
    case 9:
      return {to_bool(x)};
    default:
      fail("The interpreter cannot cast to the ONNX type {}.", to);
  }
}

constexpr OpEntry kElementwiseOps[] = {
    {"", "Add", op_add},
    {"", "Sub", op_sub},
    {"", "Mul", op_mul},
    {"", "Div", op_div},
    {"", "Mod", op_mod},
    {"", "Pow", op_pow},
    {"", "Max", op_max},
    {"", "Min", op_min},
    {"", "Sum", op_sum},
    {"", "Equal", op_equal},
    {"", "Less", op_less},
    {"", "LessOrEqual", op_less_or_equal},
    {"", "Greater", op_greater},
    {"", "GreaterOrEqual", op_greater_or_equal},
    {"", "And", op_and},
    {"", "Or", op_or},
    {"", "Xor", op_xor},
    {"", "Not", op_not},
    {"", "Where", op_where},
    {"", "Neg", op_map_any<f_neg, i_neg>},
    {"", "Abs", op_map_any<f_abs, i_abs>},
    {"", "Sign", op_map_any<f_sign, i_sign>},
    {"", "Relu", op_map_any<f_relu, i_relu>},
    {"", "Sqrt", op_map<f_sqrt>},
    {"", "Reciprocal", op_map<f_reciprocal>},
    {"", "Exp", op_map<f_exp>},
    {"", "Log", op_map<f_log>},
    {"", "Sin", op_map<f_sin>},
    {"", "Cos", op_map<f_cos>},
    {"", "Tanh", op_map<f_tanh>},
    {"", "Erf", op_map<f_erf>},
    {"", "Sigmoid", op_map<f_sigmoid>},
    {"", "Floor", op_map<f_floor>},
    {"", "Ceil", op_map<f_ceil>},
    {"", "Round", op_map<f_round>},
    {"", "Softplus", op_map<f_softplus>},
    {"", "Gelu", op_gelu},
    {"", "IsNaN", op_test<f_is_nan>},
    {"", "IsInf", op_test<f_is_inf>},
    {"", "Clip", op_clip},
    {"", "Cast", op_cast},
};

}  // namespace

std::span<const OpEntry> elementwise_ops() { return kElementwiseOps; }

}  // namespace nibble::graph
