#include "graph/length_patterns.h"

#include <algorithm>

namespace nibble::graph {
namespace {

float number_at(const Array& array, size_t i) {
  return array.kind == Array::Kind::f32 ? array.floats()[i] : static_cast<float>(array.ints()[i]);
}

// What a Reshape makes of an input of this shape; nullopt when the target does not fit.
std::optional<Shape> reshaped_shape(const Shape& from, const std::vector<int64_t>& target) {
  int64_t count = 1, given = 1, rest = -1;
  for (const int64_t size : from) count *= size;
  Shape out = target;
  for (size_t i = 0; i < target.size(); ++i) {
    if (target[i] == 0) {
      if (i >= from.size()) return std::nullopt;
      out[i] = from[i];
    }
    if (target[i] == -1) {
      rest = static_cast<int64_t>(i);
    } else {
      given *= out[i];
    }
  }
  if (given <= 0 || count % given != 0 || (rest < 0 && count != given)) return std::nullopt;
  if (rest >= 0) out[static_cast<size_t>(rest)] = count / given;
  return out;
}

// How many elements lie between neighbours along an axis.
int64_t stride_of(const Shape& shape, size_t axis) {
  int64_t stride = 1;
  for (size_t i = axis + 1; i < shape.size(); ++i) stride *= shape[i];
  return stride;
}

// The stride of the one axis that is as long as the length; 0 when there is none such, or several
// axes vary.
int64_t length_stride(const std::array<Shape, 2>& from, const std::array<int64_t, 2>& lengths) {
  int64_t stride = 0;
  for (size_t i = 0; i < from[0].size(); ++i) {
    if (from[0][i] == from[1][i]) continue;
    if (stride != 0 || from[0][i] != lengths[0] || from[1][i] != lengths[1]) return 0;
    stride = stride_of(from[0], i);
  }
  return stride;
}

// Whether position p of the target's axis, which is `times` as long as the length, holds what
// position p of the input's axis holds.
bool keeps_place(const std::array<Shape, 2>& from, const std::array<int64_t, 2>& lengths,
                 const std::vector<int64_t>& target, size_t axis, int64_t times) {
  std::array<std::vector<int64_t>, 2> targets = {target, target};
  for (size_t k = 0; k < 2; ++k) {
    std::replace(targets[k].begin(), targets[k].end(), kLengthItself, lengths[k]);
  }
  const auto a = reshaped_shape(from[0], targets[0]), b = reshaped_shape(from[1], targets[1]);
  if (!a || !b || (*a)[axis] != times * lengths[0] || (*b)[axis] != times * lengths[1]) {
    return false;
  }
  const int64_t stride = stride_of(*a, axis), wanted = length_stride(from, lengths);
  if (wanted == 0) return true;  // of several axes that vary
  if (stride != stride_of(*b, axis)) return false;
  return stride == wanted || stride * times == wanted;
}

}  // namespace

bool same_array(const Array& a, const Array& b) {
  if (a.kind != b.kind || a.shape != b.shape) return false;
  return a.kind == Array::Kind::f32
             ? std::equal(a.floats().begin(), a.floats().end(), b.floats().begin())
             : std::equal(a.ints().begin(), a.ints().end(), b.ints().begin());
}

std::optional<Positions> match_positions(const Array& array, int64_t length) {
  if (array.kind == Array::Kind::boolean || array.size() != length ||
      std::find(array.shape.begin(), array.shape.end(), length) == array.shape.end()) {
    return std::nullopt;
  }
  const float first = number_at(array, 0);
  for (int64_t i = 0; i < length; ++i) {
    if (number_at(array, static_cast<size_t>(i)) != first + static_cast<float>(i)) {
      return std::nullopt;
    }
  }
  const auto whole = static_cast<int64_t>(first);
  if (static_cast<float>(whole) != first) return std::nullopt;
  return Positions{whole};
}

std::optional<BandMask> match_band_mask(const Array& array, int64_t length) {
  const size_t rank = array.shape.size();
  if (rank < 2 || array.size() != length * length || array.shape[rank - 1] != length ||
      array.shape[rank - 2] != length) {
    return std::nullopt;
  }
  const auto at = [&](int64_t row, int64_t column) {
    return number_at(array, static_cast<size_t>(row * length + column));
  };
  BandMask mask{.seen = at(0, 0), .hidden = at(0, 1), .window = 0, .future = at(0, 1) == at(0, 0)};
  for (int64_t distance = 1; distance < length && mask.window == 0; ++distance) {
    const float value = at(length - 1, length - 1 - distance);
    if (value == mask.seen) continue;
    mask.window = distance;
    if (mask.future) mask.hidden = value;
  }
  if (mask.future && mask.window == 0) return std::nullopt;  // all the same
  for (int64_t row = 0; row < length; ++row) {
    for (int64_t column = 0; column < length; ++column) {
      const bool seen =
          (mask.future || column <= row) && (mask.window == 0 || row - column < mask.window);
      if (at(row, column) != (seen ? mask.seen : mask.hidden)) return std::nullopt;
    }
  }
  return mask;
}

std::optional<std::vector<int64_t>> free_target(const std::array<Shape, 2>& from,
                                                const std::array<int64_t, 2>& lengths,
                                                const std::vector<int64_t>& target,
                                                int64_t length) {
  const bool rest = std::find(target.begin(), target.end(), -1) != target.end();
  std::vector<std::vector<int64_t>> found;
  bool names_length = false;
  for (size_t i = 0; i < target.size(); ++i) {
    if (target[i] <= 0 || target[i] % length != 0) continue;
    names_length = names_length || target[i] == length;
    std::vector<int64_t> freed = target;
    const bool by_name = rest && target[i] == length;
    if (rest && !by_name) continue;
    freed[i] = by_name ? kLengthItself : -1;
    if (keeps_place(from, lengths, freed, i, target[i] / length)) found.push_back(std::move(freed));
  }
  if (found.size() == 1) return found[0];
  // With a -1 for what varies already.
  if (found.empty() && !names_length && reshaped_shape(from[0], target) &&
      reshaped_shape(from[1], target)) {
    return target;
  }
  return std::nullopt;
}

}  // namespace nibble::graph
