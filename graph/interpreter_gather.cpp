// Operators that pick or place elements by index arrays.
#include <algorithm>
#include <string>

#include "graph/interpreter_broadcast.h"
#include "graph/interpreter_ops.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

// An index of a dimension, negative ones counted from its end.
int64_t normal_index(int64_t index, int64_t dim) {
  if (index < -dim || index >= dim) {
    fail("The index {} is outside a dimension of {}.", index, dim);
  }
  return index < 0 ? index + dim : index;
}

int64_t product(const Shape& shape, size_t begin, size_t end) {
  int64_t count = 1;
  for (size_t d = begin; d < end; ++d) count *= shape[d];
  return count;
}

Outputs op_gather(const OpCall& call) {
  const Array &x = call.in(0), &indices = call.in(1);
  const size_t axis = normal_axis(call.node.get_int("axis", 0), x.shape.size());
  const auto picks = indices.ints();
  Shape shape(x.shape.begin(), x.shape.begin() + static_cast<int64_t>(axis));
  shape.insert(shape.end(), indices.shape.begin(), indices.shape.end());
  shape.insert(shape.end(), x.shape.begin() + static_cast<int64_t>(axis) + 1, x.shape.end());
  const int64_t dim = x.shape[axis];
  std::vector<int64_t> rows(picks.size());
  std::transform(picks.begin(), picks.end(), rows.begin(),
                 [dim](int64_t index) { return normal_index(index, dim); });
  const auto count = static_cast<size_t>(array_size(shape, element_bytes(x)));
  if (count == 0) return {strided_copy(x, shape, Shape(shape.size(), 0), 0)};
  const int64_t outer = product(x.shape, 0, axis);
  const int64_t inner = product(x.shape, axis + 1, x.shape.size());
  return {with_elements(x, [&](const auto& from) {
    std::decay_t<decltype(from)> to(count);
    auto out = to.begin();
    for (int64_t o = 0; o < outer; ++o) {
      for (const int64_t row : rows) {
        const auto source = from.begin() + (o * dim + row) * inner;
        out = std::copy(source, source + inner, out);
      }
    }
    return like(x, shape, std::move(to));
  })};
}

Outputs op_gather_elements(const OpCall& call) {
  const Array &x = call.in(0), &indices = call.in(1);
  const size_t axis = normal_axis(call.node.get_int("axis", 0), x.shape.size());
  const auto picks = indices.ints();
  const Shape& shape = indices.shape;
  bool fits = shape.size() == x.shape.size();
  for (size_t d = 0; fits && d < shape.size(); ++d) fits = d == axis || shape[d] <= x.shape[d];
  if (!fits) {
    fail("Indices of shape {} do not fit an array of shape {}.", to_string(shape),
         to_string(x.shape));
  }
  const Shape own = row_major_strides(x.shape), steps = row_major_strides(shape);
  return {with_elements(x, [&](const auto& from) {
    std::decay_t<decltype(from)> to(picks.size());
    for (size_t e = 0; e < picks.size(); ++e) {
      int64_t rest = static_cast<int64_t>(e), at = 0;
      for (size_t d = 0; d < shape.size(); ++d) {
        const int64_t index = rest / steps[d];
        rest %= steps[d];
        at += own[d] * (d == axis ? normal_index(picks[e], x.shape[d]) : index);
      }
      to[e] = from[static_cast<size_t>(at)];
    }
    return like(x, shape, std::move(to));
  })};
}

// Index tuples along the last dimension of `indices`, each the start of a slice of x.
struct Tuples {
  int64_t count = 0;        // of tuples
  int64_t slice = 0;        // elements of x that each names
  std::vector<int64_t> at;  // where the slices begin
};

Tuples read_tuples(const Array& x, const Array& indices, size_t batch_dims) {
  const size_t rank = x.shape.size();
  if (indices.shape.empty() || indices.shape.back() < 0 ||
      static_cast<size_t>(indices.shape.back()) > rank - batch_dims) {
    fail("Index tuples of shape {} do not fit an array of shape {}.", to_string(indices.shape),
         to_string(x.shape));
  }
  const auto width = static_cast<size_t>(indices.shape.back());
  const Shape strides = row_major_strides(x.shape);
  const auto values = indices.ints();
  Tuples tuples;
  tuples.count = product(indices.shape, 0, indices.shape.size() - 1);
  tuples.slice = product(x.shape, batch_dims + width, rank);
  const int64_t batches = product(x.shape, 0, batch_dims);
  const int64_t per_batch = batches == 0 ? 0 : tuples.count / batches;
  const int64_t batch_size = product(x.shape, batch_dims, rank);
  for (int64_t t = 0; t < tuples.count; ++t) {
    int64_t at = per_batch == 0 ? 0 : t / per_batch * batch_size;
    for (size_t j = 0; j < width; ++j) {
      const size_t d = batch_dims + j;
      const int64_t index = values[static_cast<size_t>(t) * width + j];
      at += normal_index(index, x.shape[d]) * strides[d];
    }
    tuples.at.push_back(at);
  }
  return tuples;
}

Outputs op_gather_nd(const OpCall& call) {
  const Array &x = call.in(0), &indices = call.in(1);
  const int64_t given = call.node.get_int("batch_dims", 0);
  const auto batch_dims = static_cast<size_t>(given);
  if (given < 0 || batch_dims > x.shape.size() || batch_dims + 1 > indices.shape.size() ||
      !std::equal(x.shape.begin(), x.shape.begin() + given, indices.shape.begin())) {
    fail("Arrays of shapes {} and {} do not share {} batch dimensions.", to_string(x.shape),
         to_string(indices.shape), given);
  }
  const Tuples tuples = read_tuples(x, indices, batch_dims);
  Shape shape(indices.shape.begin(), indices.shape.end() - 1);
  shape.insert(shape.end(), x.shape.begin() + given + indices.shape.back(), x.shape.end());
  const auto count = static_cast<size_t>(array_size(shape, element_bytes(x)));
  return {with_elements(x, [&](const auto& from) {
    std::decay_t<decltype(from)> to(count);
    auto out = to.begin();
    for (const int64_t at : tuples.at) {
      out = std::copy(from.begin() + at, from.begin() + at + tuples.slice, out);
    }
    return like(x, shape, std::move(to));
  })};
}

Outputs op_scatter_nd(const OpCall& call) {
  const Array &x = call.in(0), &indices = call.in(1), &updates = call.in(2);
  const std::string reduction = call.node.get_string("reduction", "none");
  if (reduction != "none" && reduction != "add") {
    fail("The interpreter has no reduction \"{}\".", reduction);
  }
  const Tuples tuples = read_tuples(x, indices, 0);
  if (updates.kind != x.kind || updates.size() != tuples.count * tuples.slice) {
    fail("Updates of shape {} do not fit indices of shape {} into an array of shape {}.",
         to_string(updates.shape), to_string(indices.shape), to_string(x.shape));
  }
  const auto place = [&](auto to, const auto& from) {
    auto source = from.begin();
    for (const int64_t at : tuples.at) {
      auto target = to.begin() + at;
      for (int64_t j = 0; j < tuples.slice; ++j, ++target, ++source) {
        *target = reduction == "add"
                      ? static_cast<std::decay_t<decltype(*source)>>(*target + *source)
                      : *source;
      }
    }
    return like(x, x.shape, std::move(to));
  };
  return {x.kind == Array::Kind::f32 ? place(*x.f, *updates.f) : place(*x.i, *updates.i)};
}

constexpr OpEntry kGatherOps[] = {
    {"", "Gather", op_gather},
    {"", "GatherElements", op_gather_elements},
    {"", "GatherND", op_gather_nd},
    {"", "ScatterND", op_scatter_nd},
};

}  // namespace

std::span<const OpEntry> gather_ops() { return kGatherOps; }

}  // namespace nibble::graph
