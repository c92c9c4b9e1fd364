#include "graph/interpreter_broadcast.h"

#include <algorithm>
#include <utility>

#include "graph/interpreter_ops.h"
#include "jit/error.h"

namespace nibble::graph {

Shape row_major_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= shape[d];
  }
  return strides;
}

Shape broadcast_shape(const Shape& a, const Shape& b) {
  const size_t rank = std::max(a.size(), b.size());
  Shape out(rank);
  for (size_t d = 0; d < rank; ++d) {
    const int64_t x = d + a.size() < rank ? 1 : a[d + a.size() - rank];
    const int64_t y = d + b.size() < rank ? 1 : b[d + b.size() - rank];
    if (x != y && x != 1 && y != 1) {
      fail("The shapes {} and {} cannot be broadcast together.", to_string(a), to_string(b));
    }
    out[d] = x == 1 ? y : x;
  }
  return out;
}

Shape broadcast_strides(const Shape& shape, const Shape& out) {
  const Shape own = row_major_strides(shape);
  Shape strides(out.size(), 0);
  const size_t lead = out.size() - shape.size();
  for (size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] != 1) strides[lead + d] = own[d];
  }
  return strides;
}

namespace {

template <typename T>
std::vector<T> copy_elements(const std::vector<T>& from, const Shape& shape, const Shape& strides,
                             int64_t base) {
  std::vector<T> to(static_cast<size_t>(array_size(shape, sizeof(T))));
  const LoopNest<1> loop(shape, {strides});
  loop.run([&](int64_t out, const auto& offsets, int64_t count, const auto& steps) {
    const T* source = from.data() + base + offsets[0];
    T* target = to.data() + out;
    if (steps[0] == 1) {
      std::copy(source, source + count, target);
    } else {
      for (int64_t j = 0; j < count; ++j) target[j] = source[j * steps[0]];
    }
  });
  return to;
}

}  // namespace

Array strided_copy(const Array& x, Shape shape, Shape strides, int64_t offset) {
  return with_elements(x, [&](const auto& elements) {
    return like(x, shape, copy_elements(elements, shape, strides, offset));
  });
}

}  // namespace nibble::graph
