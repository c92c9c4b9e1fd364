// Operators that move or describe elements without computing on them.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "graph/interpreter_broadcast.h"
#include "graph/interpreter_ops.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

Shape shape_from(const Array& x) { return {x.ints().begin(), x.ints().end()}; }

Outputs op_constant(const OpCall& call) {
  const Node& node = call.node;
  const auto found = node.attributes.find("value");
  if (found != node.attributes.end()) {
    const auto* tensor = std::get_if<TensorData>(&found->second);
    if (tensor == nullptr) fail("The attribute \"value\" is no tensor.");
    if (tensor->dtype == DType::boolean) return {Array::of_bool(tensor->shape, to_i64(*tensor))};
    const bool is_float = tensor->dtype == DType::f32 || tensor->dtype == DType::f16 ||
                          tensor->dtype == DType::bf16 || tensor->dtype == DType::f64;
    return {is_float ? Array::of(tensor->shape, to_f32(*tensor))
                     : Array::of(tensor->shape, to_i64(*tensor))};
  }
  if (node.has("value_int")) {
    return {Array::of({}, std::vector<int64_t>{node.get_int("value_int")})};
  }
  if (node.has("value_float")) {
    return {Array::of({}, std::vector<float>{node.get_float("value_float")})};
  }
  std::vector<int64_t> values = node.get_ints("value_ints");
  const Shape shape = {static_cast<int64_t>(values.size())};
  return {Array::of(shape, std::move(values))};
}

Outputs op_constant_of_shape(const OpCall& call) {
  const Shape shape = shape_from(call.in(0));
  const auto found = call.node.attributes.find("value");
  if (found == call.node.attributes.end()) {
    const auto count = static_cast<size_t>(array_size(shape));
    return {Array::of(shape, std::vector<float>(count, 0.0F))};
  }
  const Array value = op_constant(call).front();
  const auto count = static_cast<size_t>(array_size(shape, element_bytes(value)));
  if (value.size() != 1) fail("The attribute \"value\" has {} elements, not one.", value.size());
  return {with_elements(value, [&](const auto& one) {
    return like(value, shape, std::decay_t<decltype(one)>(count, one[0]));
  })};
}

Outputs op_identity(const OpCall& call) { return {call.in(0)}; }

Outputs op_shape(const OpCall& call) {
  const Shape& shape = call.in(0).shape;
  const auto rank = static_cast<int64_t>(shape.size());
  const auto bound = [&](const char* key, int64_t fallback) {
    const int64_t at = call.node.get_int(key, fallback);
    return std::clamp<int64_t>(at < 0 ? at + rank : at, 0, rank);
  };
  const int64_t start = bound("start", 0);
  const int64_t end = std::max(start, bound("end", rank));
  return {Array::of({end - start}, Shape(shape.begin() + start, shape.begin() + end))};
}

Outputs op_size(const OpCall& call) {
  return {Array::of({}, std::vector<int64_t>{call.in(0).size()})};
}

Outputs op_reshape(const OpCall& call) {
  const Array& x = call.in(0);
  Shape shape = shape_from(call.in(1));
  const bool allow_zero = call.node.get_int("allowzero", 0) != 0;
  size_t free = shape.size();
  for (size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] == 0 && !allow_zero) {
      if (d >= x.shape.size()) {
        fail("The new shape {} keeps dimension {} of an array of shape {}.", to_string(shape), d,
             to_string(x.shape));
      }
      shape[d] = x.shape[d];
    } else if (shape[d] == -1) {
      if (free != shape.size()) fail("The new shape {} has two unknowns.", to_string(shape));
      free = d;
    }
  }
  if (free != shape.size()) {
    shape[free] = 1;
    const int64_t rest = element_count(shape);
    if (rest == 0 || x.size() % rest != 0) {
      shape[free] = -1;
      fail("An array of shape {} cannot take the shape {}.", to_string(x.shape), to_string(shape));
    }
    shape[free] = x.size() / rest;
  }
  return {reshaped(x, std::move(shape))};
}

Outputs op_flatten(const OpCall& call) {
  const Array& x = call.in(0);
  const auto rank = static_cast<int64_t>(x.shape.size());
  int64_t axis = call.node.get_int("axis", 1);
  if (axis < -rank || axis > rank) fail("The axis {} is outside {} dimensions.", axis, rank);
  if (axis < 0) axis += rank;
  const int64_t rows = element_count(Shape(x.shape.begin(), x.shape.begin() + axis));
  const int64_t columns = element_count(Shape(x.shape.begin() + axis, x.shape.end()));
  return {reshaped(x, {rows, columns})};
}

Outputs op_squeeze(const OpCall& call) {
  const Array& x = call.in(0);
  const std::vector<int64_t> axes = axes_of(call, 1);
  std::vector<bool> drop(x.shape.size());
  for (size_t d = 0; d < drop.size(); ++d) drop[d] = axes.empty() && x.shape[d] == 1;
  for (const int64_t axis : axes) {
    const size_t d = normal_axis(axis, x.shape.size());
    if (x.shape[d] != 1) {
      fail("Axis {} of an array of shape {} cannot be squeezed: it is not 1.", axis,
           to_string(x.shape));
    }
    drop[d] = true;
  }
  Shape shape;
  for (size_t d = 0; d < drop.size(); ++d) {
    if (!drop[d]) shape.push_back(x.shape[d]);
  }
  return {reshaped(x, std::move(shape))};
}

Outputs op_unsqueeze(const OpCall& call) {
  const Array& x = call.in(0);
  const std::vector<int64_t> axes = axes_of(call, 1);
  const size_t rank = x.shape.size() + axes.size();
  std::vector<bool> added(rank);
  for (const int64_t axis : axes) {
    const size_t d = normal_axis(axis, rank);
    if (added[d]) fail("The axis {} is named twice.", axis);
    added[d] = true;
  }
  Shape shape;
  size_t from = 0;
  for (size_t d = 0; d < rank; ++d) shape.push_back(added[d] ? 1 : x.shape[from++]);
  return {reshaped(x, std::move(shape))};
}

Outputs op_transpose(const OpCall& call) {
  const Array& x = call.in(0);
  const size_t rank = x.shape.size();
  std::vector<int64_t> reverse(rank);
  std::iota(reverse.rbegin(), reverse.rend(), 0);
  const std::vector<int64_t> order = call.node.get_ints("perm", reverse);
  if (order.size() != rank) {
    fail("The attribute perm has {} axes for an array of shape {}.", order.size(),
         to_string(x.shape));
  }
  const Shape strides = row_major_strides(x.shape);
  Shape shape, steps;
  std::vector<bool> used(rank);
  for (const int64_t axis : order) {
    const size_t d = normal_axis(axis, rank);
    if (used[d]) fail("The attribute perm names axis {} twice.", axis);
    used[d] = true;
    shape.push_back(x.shape[d]);
    steps.push_back(strides[d]);
  }
  return {strided_copy(x, std::move(shape), std::move(steps), 0)};
}

Outputs op_expand(const OpCall& call) {
  const Array& x = call.in(0);
  Shape shape = broadcast_shape(x.shape, shape_from(call.in(1)));
  if (shape == x.shape) return {x};
  Shape strides = broadcast_strides(x.shape, shape);
  return {strided_copy(x, std::move(shape), std::move(strides), 0)};
}

struct Range {
  int64_t start = 0, count = 0;
};

// One axis of Slice: ends beyond the array stop at it; negative ones count from its end.
Range slice_range(int64_t start, int64_t end, int64_t step, int64_t dim) {
  if (step == 0) fail("The step of a slice is 0.");
  if (start < 0) start += dim;
  if (end < 0) end += dim;  // no overflow: only negative numbers grow
  if (step > 0) {
    start = std::clamp<int64_t>(start, 0, dim);
    end = std::clamp<int64_t>(end, 0, dim);
    // (end - start - 1) / step + 1 cannot overflow, however long the step is.
    return {start, end > start ? (end - start - 1) / step + 1 : 0};
  }
  start = std::clamp<int64_t>(start, -1, dim - 1);
  end = std::clamp<int64_t>(end, -1, dim - 1);
  const uint64_t back = uint64_t{0} - static_cast<uint64_t>(step);  // fits even for the least int64
  return {start, start > end
                     ? static_cast<int64_t>(static_cast<uint64_t>(start - end - 1) / back) + 1
                     : 0};
}

Outputs op_slice(const OpCall& call) {
  const Array& x = call.in(0);
  const auto starts = call.in(1).ints();
  const auto ends = call.in(2).ints();
  const size_t count = starts.size();
  std::vector<int64_t> axes(count), steps(count, 1);
  std::iota(axes.begin(), axes.end(), 0);
  if (const Array* given = call.optional(3))
    axes.assign(given->ints().begin(), given->ints().end());
  if (const Array* given = call.optional(4)) {
    steps.assign(given->ints().begin(), given->ints().end());
  }
  if (ends.size() != count || axes.size() != count || steps.size() != count) {
    fail("A slice has {} starts, {} ends, {} axes and {} steps.", count, ends.size(), axes.size(),
         steps.size());
  }
  Shape shape = x.shape, strides = row_major_strides(x.shape);
  int64_t offset = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t d = normal_axis(axes[i], x.shape.size());
    const Range range = slice_range(starts[i], ends[i], steps[i], shape[d]);
    shape[d] = range.count;
    if (range.count > 0) offset += range.start * strides[d];
    // With one element or none the step is never taken (and may be huge).
    strides[d] = range.count > 1 ? strides[d] * steps[i] : 0;
  }
  if (shape == x.shape && offset == 0 && strides == row_major_strides(x.shape)) return {x};
  return {strided_copy(x, std::move(shape), std::move(strides), offset)};
}

Outputs op_split(const OpCall& call) {
  const Array& x = call.in(0);
  const size_t axis = normal_axis(call.node.get_int("axis", 0), x.shape.size());
  const int64_t dim = x.shape[axis];
  std::vector<int64_t> parts;
  if (const Array* given = call.optional(1)) {
    parts.assign(given->ints().begin(), given->ints().end());
  } else if (call.node.has("split")) {
    parts = call.node.get_ints("split");
  } else {
    const auto outputs = static_cast<int64_t>(call.node.outputs.size());
    const int64_t count = call.node.get_int("num_outputs", outputs);
    if (count != outputs || count == 0) {
      fail("A split into {} parts has {} outputs.", count, outputs);
    }
    const int64_t each = (dim + count - 1) / count;
    for (int64_t i = 0; i < count; ++i) {
      parts.push_back(std::clamp<int64_t>(dim - i * each, 0, each));
    }
  }
  int64_t total = 0;
  for (const int64_t part : parts) {
    if (part < 0 || part > dim) fail("A part of {} is split off a dimension of {}.", part, dim);
    total += part;
  }
  if (total != dim || parts.size() != call.node.outputs.size()) {
    fail("The parts [{}] do not split a dimension of {} into {} outputs.", fmt::join(parts, ","),
         dim, call.node.outputs.size());
  }
  const Shape strides = row_major_strides(x.shape);
  Outputs results;
  int64_t start = 0;
  for (const int64_t part : parts) {
    Shape shape = x.shape;
    shape[axis] = part;
    results.push_back(strided_copy(x, std::move(shape), strides, start * strides[axis]));
    start += part;
  }
  return results;
}

Outputs op_tile(const OpCall& call) {
  const Array& x = call.in(0);
  const auto repeats = call.in(1).ints();
  if (repeats.size() != x.shape.size()) {
    fail("There are {} repeats for an array of shape {}.", repeats.size(), to_string(x.shape));
  }
  const Shape own = row_major_strides(x.shape);
  Shape interleaved, strides, shape;
  for (size_t d = 0; d < repeats.size(); ++d) {
    if (repeats[d] < 0) fail("An array cannot be repeated {} times.", repeats[d]);
    interleaved.insert(interleaved.end(), {repeats[d], x.shape[d]});
    strides.insert(strides.end(), {0, own[d]});
  }
  array_size(interleaved);
  for (size_t d = 0; d < repeats.size(); ++d) shape.push_back(repeats[d] * x.shape[d]);
  return {reshaped(strided_copy(x, std::move(interleaved), std::move(strides), 0), shape)};
}

template <typename T>
std::vector<T> join(const OpCall& call, size_t axis, const Shape& shape,
                    const std::vector<T>& (*elements)(const Array&)) {
  std::vector<T> out(static_cast<size_t>(array_size(shape, sizeof(T))));
  const Shape strides = row_major_strides(shape);
  int64_t at = 0;  // along the axis
  for (const Array* part : call.inputs) {
    const int64_t run = part->shape[axis] * strides[axis];
    const int64_t rows = run == 0 ? 0 : part->size() / run;
    const T* from = elements(*part).data();
    const int64_t pitch = shape[axis] * strides[axis];
    for (int64_t r = 0; r < rows; ++r) {
      std::copy(from + r * run, from + (r + 1) * run, out.data() + r * pitch + at * strides[axis]);
    }
    at += part->shape[axis];
  }
  return out;
}

Outputs op_concat(const OpCall& call) {
  const Array& first = call.in(0);
  const size_t axis = normal_axis(call.node.get_int("axis"), first.shape.size());
  Shape shape = first.shape;
  for (size_t i = 1; i < call.inputs.size(); ++i) {
    const Array& part = call.in(i);
    Shape fits = part.shape;
    if (fits.size() == shape.size()) fits[axis] = shape[axis];
    if (part.kind != first.kind || fits != shape) {
      fail("Arrays of shapes {} and {} cannot be concatenated along axis {}{}.",
           to_string(first.shape), to_string(part.shape), axis,
           part.kind != first.kind ? " (their types differ)" : "");
    }
    if (__builtin_add_overflow(shape[axis], part.shape[axis], &shape[axis])) {
      fail("The concatenated dimension is too long.");
    }
  }
  if (call.inputs.size() == 1) return {first};
  if (first.kind == Array::Kind::f32) {
    return {Array::of(shape,
                      join<float>(
                          call, axis, shape, [](const Array& x) -> const auto& { return *x.f; }))};
  }
  return {like(first, shape,
               join<int64_t>(
                   call, axis, shape, [](const Array& x) -> const auto& { return *x.i; }))};
}

double one_float(const Array& x) {
  if (x.size() != 1) {
    fail("An array of shape {} was found where one float is expected.", to_string(x.shape));
  }
  return x.floats()[0];
}

Outputs op_range(const OpCall& call) {
  const Array &start = call.in(0), &limit = call.in(1), &delta = call.in(2);
  if (start.kind == Array::Kind::f32) {
    const double from = one_float(start), step = one_float(delta);
    const double count = std::ceil((one_float(limit) - from) / step);
    if (!(count < static_cast<double>(kMostElements))) {
      fail("A range from {} by {} would have {} elements.", from, step, count);
    }
    const auto elements = static_cast<int64_t>(std::max(0.0, count));
    std::vector<float> values(static_cast<size_t>(array_size({elements})));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(from + static_cast<double>(i) * step);
    }
    const Shape shape = {static_cast<int64_t>(values.size())};
    return {Array::of(shape, std::move(values))};
  }
  const int64_t from = one_int(start), to = one_int(limit), step = one_int(delta);
  if (step == 0) fail("The step of a range is 0.");
  // Distances as unsigned numbers: they may be longer than int64 counts.
  const bool up = step > 0;
  const auto low = static_cast<uint64_t>(up ? from : to),
             high = static_cast<uint64_t>(up ? to : from);
  const auto stride = up ? static_cast<uint64_t>(step) : uint64_t{0} - static_cast<uint64_t>(step);
  const uint64_t count = (up ? from < to : from > to) ? (high - low - 1) / stride + 1 : 0;
  if (count > static_cast<uint64_t>(kMostElements)) {
    fail("A range from {} to {} by {} has {} elements; the interpreter takes at most {}.", from, to,
         step, count, kMostElements);
  }
  array_size({static_cast<int64_t>(count)}, sizeof(int64_t));
  std::vector<int64_t> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    values[i] = static_cast<int64_t>(static_cast<uint64_t>(from) + i * static_cast<uint64_t>(step));
  }
  return {Array::of({static_cast<int64_t>(count)}, std::move(values))};
}

Outputs op_trilu(const OpCall& call) {
  const Array& x = call.in(0);
  if (x.shape.size() < 2) fail("An array of shape {} is no matrix.", to_string(x.shape));
  const bool upper = call.node.get_int("upper", 1) != 0;
  const int64_t columns = x.shape.back(), rows = x.shape[x.shape.size() - 2];
  int64_t diagonal = call.optional(1) != nullptr ? one_int(*call.optional(1)) : 0;
  diagonal = std::clamp(diagonal, -rows - 1, columns + 1);
  return {with_elements(x, [&](auto values) {
    for (size_t e = 0; e < values.size(); ++e) {
      const auto at = static_cast<int64_t>(e);
      const int64_t row = at / columns % rows, column = at % columns;
      if (upper ? column < row + diagonal : column > row + diagonal) values[e] = 0;
    }
    return like(x, x.shape, std::move(values));
  })};
}

constexpr OpEntry kShapeOps[] = {
    {"", "Constant", op_constant},   {"", "ConstantOfShape", op_constant_of_shape},
    {"", "Identity", op_identity},   {"", "Dropout", op_identity},
    {"", "Shape", op_shape},         {"", "Size", op_size},
    {"", "Reshape", op_reshape},     {"", "Flatten", op_flatten},
    {"", "Squeeze", op_squeeze},     {"", "Unsqueeze", op_unsqueeze},
    {"", "Transpose", op_transpose}, {"", "Expand", op_expand},
    {"", "Slice", op_slice},         {"", "Split", op_split},
    {"", "Tile", op_tile},           {"", "Concat", op_concat},
    {"", "Range", op_range},         {"", "Trilu", op_trilu},
};

}  // namespace

std::span<const OpEntry> shape_ops() { return kShapeOps; }

}  // namespace nibble::graph
