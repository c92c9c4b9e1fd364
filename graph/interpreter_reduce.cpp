// Reductions along axes, and what is made of them: softmax, norms, running sums.
#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/interpreter_broadcast.h"
#include "graph/interpreter_ops.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

// The array with the chosen axes moved last, as rows of `width` elements.
struct Rows {
  Array array;
  int64_t rows = 0, width = 0;
};

Rows rows_along(const Array& x, const std::vector<bool>& chosen) {
  const Shape strides = row_major_strides(x.shape);
  Shape shape, steps;
  Rows result{.array = {}, .rows = 1, .width = 1};
  bool in_place = true;  // the chosen axes are last already
  for (const bool pass : {false, true}) {
    for (size_t d = 0; d < x.shape.size(); ++d) {
      if (chosen[d] != pass) continue;
      in_place = in_place && shape.size() == d;
      shape.push_back(x.shape[d]);
      steps.push_back(strides[d]);
      (pass ? result.width : result.rows) *= x.shape[d];
    }
  }
  result.array = in_place ? x : strided_copy(x, shape, steps, 0);
  return result;
}

template <typename F, typename G>
Outputs reduce(const OpCall& call, const F& on_floats, const G& on_ints) {
  const Array& x = call.in(0);
  const std::vector<int64_t> axes = axes_of(call, 1);
  if (axes.empty() && call.node.get_int("noop_with_empty_axes", 0) != 0) return {x};
  const bool keep = call.node.get_int("keepdims", 1) != 0;
  std::vector<bool> chosen(x.shape.size(), axes.empty());
  for (const int64_t axis : axes) chosen[normal_axis(axis, x.shape.size())] = true;
  const Rows rows = rows_along(x, chosen);
  Shape shape;
  for (size_t d = 0; d < chosen.size(); ++d) {
    if (!chosen[d]) {
      shape.push_back(x.shape[d]);
    } else if (keep) {
      shape.push_back(1);
    }
  }
  const auto width = static_cast<size_t>(rows.width);
  const auto over = [&](const auto& elements, const auto& f) {
    std::decay_t<decltype(elements)> values(static_cast<size_t>(rows.rows));
    for (size_t r = 0; r < values.size(); ++r) {
      using T = typename std::decay_t<decltype(elements)>::value_type;
      values[r] = static_cast<T>(f(std::span<const T>(elements.data() + r * width, width)));
    }
    return like(x, shape, std::move(values));
  };
  if (x.kind == Array::Kind::f32) return {over(*rows.array.f, on_floats)};
  return {over(*rows.array.i, on_ints)};
}

double sum_floats(std::span<const float> row) {
  double sum = 0;
  for (const float value : row) sum += value;
  return sum;
}

int64_t sum_ints(std::span<const int64_t> row) {
  uint64_t sum = 0;
  for (const int64_t value : row) sum += static_cast<uint64_t>(value);
  return static_cast<int64_t>(sum);
}

Outputs op_reduce_sum(const OpCall& call) { return reduce(call, sum_floats, sum_ints); }

Outputs op_reduce_mean(const OpCall& call) {
  return reduce(
      call,
      [](std::span<const float> row) { return sum_floats(row) / static_cast<double>(row.size()); },
      [](std::span<const int64_t> row) {
        if (row.empty()) fail("The mean of no integers is not defined.");
        return sum_ints(row) / static_cast<int64_t>(row.size());
      });
}

template <typename T>
T max_of(std::span<const T> row) {
  if (row.empty()) fail("The maximum of no elements is not defined.");
  T best = row[0];
  for (const T value : row) best = best != best || best > value ? best : value;
  return best;
}

template <typename T>
T min_of(std::span<const T> row) {
  if (row.empty()) fail("The minimum of no elements is not defined.");
  T best = row[0];
  for (const T value : row) best = best != best || best < value ? best : value;
  return best;
}

Outputs op_reduce_max(const OpCall& call) { return reduce(call, max_of<float>, max_of<int64_t>); }
Outputs op_reduce_min(const OpCall& call) { return reduce(call, min_of<float>, min_of<int64_t>); }

template <typename T>
double sum_of_squares(std::span<const T> row) {
  double sum = 0;
  for (const T value : row) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

[[noreturn]] double need_floats(std::span<const int64_t>) { fail("The operand must be floats."); }

Outputs op_reduce_sum_square(const OpCall& call) {
  return reduce(call, sum_of_squares<float>, need_floats);
}
Outputs op_reduce_l2(const OpCall& call) {
  return reduce(
      call, [](std::span<const float> row) { return std::sqrt(sum_of_squares(row)); }, need_floats);
}

// y = exp(x - max) / sum, rows without any finite element included: NaN, as the formula says.
void softmax_row(const float* x, float* y, int64_t width, int64_t step) {
  float top = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < width; ++j) top = std::max(top, x[j * step]);
  double sum = 0;
  for (int64_t j = 0; j < width; ++j) {
    y[j * step] = std::exp(x[j * step] - top);
    sum += y[j * step];
  }
  for (int64_t j = 0; j < width; ++j) {
    y[j * step] = static_cast<float>(y[j * step] / sum);
  }
}

Outputs op_softmax(const OpCall& call) {
  const Array& x = call.in(0);
  const auto from = x.floats();
  const size_t axis = normal_axis(call.node.get_int("axis", -1), x.shape.size());
  const int64_t width = x.shape[axis];
  const int64_t step = row_major_strides(x.shape)[axis];
  std::vector<float> values(from.size());
  const int64_t block = width * step;  // elements until the axes before this one step on
  for (int64_t base = 0; base < x.size(); base += block) {
    for (int64_t s = 0; s < step; ++s) {
      softmax_row(from.data() + base + s, values.data() + base + s, width, step);
    }
  }
  return {Array::of(x.shape, std::move(values))};
}

Outputs op_layer_normalization(const OpCall& call) {
  const Array &x = call.in(0), &scale = call.in(1);
  const Array* bias = call.optional(2);
  const auto from = x.floats();
  const size_t axis = normal_axis(call.node.get_int("axis", -1), x.shape.size());
  const Shape inner(x.shape.begin() + static_cast<int64_t>(axis), x.shape.end());
  const auto width = static_cast<size_t>(element_count(inner));
  const double epsilon = call.node.get_float("epsilon", 1e-5F);
  for (const Array* weight : {&scale, bias}) {
    if (weight != nullptr && weight->floats().size() != width) {
      fail("A weight of shape {} does not fit rows of shape {}.", to_string(weight->shape),
           to_string(inner));
    }
  }
  Shape outer = x.shape;
  std::fill(outer.begin() + static_cast<int64_t>(axis), outer.end(), 1);
  std::vector<float> values(from.size()), means, inverses;
  for (size_t base = 0; base < from.size(); base += width) {
    const auto row = from.subspan(base, width);
    const double mean = sum_floats(row) / static_cast<double>(width);
    double variance = 0;
    for (const float value : row) variance += (value - mean) * (value - mean);
    const double inverse = 1.0 / std::sqrt(variance / static_cast<double>(width) + epsilon);
    for (size_t j = 0; j < width; ++j) {
      const double y = (row[j] - mean) * inverse * (*scale.f)[j];
      values[base + j] = static_cast<float>(bias != nullptr ? y + (*bias->f)[j] : y);
    }
    means.push_back(static_cast<float>(mean));
    inverses.push_back(static_cast<float>(inverse));
  }
  means.resize(static_cast<size_t>(element_count(outer)));
  inverses.resize(means.size());
  return {Array::of(x.shape, std::move(values)), Array::of(outer, std::move(means)),
          Array::of(outer, std::move(inverses))};
}

Outputs op_cum_sum(const OpCall& call) {
  const Array& x = call.in(0);
  const size_t axis = normal_axis(one_int(call.in(1)), x.shape.size());
  const bool exclusive = call.node.get_int("exclusive", 0) != 0;
  const bool reverse = call.node.get_int("reverse", 0) != 0;
  const int64_t dim = x.shape[axis];
  const int64_t step = row_major_strides(x.shape)[axis];
  return {with_elements(x, [&](const auto& from) {
    using T = typename std::decay_t<decltype(from)>::value_type;
    using Sum = std::conditional_t<std::is_same_v<T, float>, double, uint64_t>;
    std::vector<T> to(from.size());
    for (int64_t base = 0; base < x.size(); ++base) {
      if (base / step % dim != 0) continue;  // not the start of a line along the axis
      Sum sum = 0;
      for (int64_t j = 0; j < dim; ++j) {
        const auto at = static_cast<size_t>(base + (reverse ? dim - 1 - j : j) * step);
        const Sum before = sum;
        sum += static_cast<Sum>(from[at]);
        to[at] = static_cast<T>(exclusive ? before : sum);
      }
    }
    return like(x, x.shape, std::move(to));
  })};
}

constexpr OpEntry kReduceOps[] = {
    {"", "ReduceSum", op_reduce_sum},
    {"", "ReduceMean", op_reduce_mean},
    {"", "ReduceMax", op_reduce_max},
    {"", "ReduceMin", op_reduce_min},
    {"", "ReduceSumSquare", op_reduce_sum_square},
    {"", "ReduceL2", op_reduce_l2},
    {"", "Softmax", op_softmax},
    {"", "LayerNormalization", op_layer_normalization},
    {"", "CumSum", op_cum_sum},
};

}  // namespace

std::span<const OpEntry> reduce_ops() { return kReduceOps; }

}  // namespace nibble::graph
