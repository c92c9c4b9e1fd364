#include "graph/quantized_matrix.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "jit/error.h"
#include "jit/float16.h"

namespace nibble::graph {
namespace {

bool is_byte(DType dtype) { return dtype == DType::u8 || dtype == DType::i8; }

// Element `index` of numbers of 2, 4 or 8 bits, the first in the lowest bits of a byte.
uint8_t stored(const TensorData& tensor, int bits, int64_t index) {
  if (bits == 8) return std::to_integer<uint8_t>(tensor.data[index]);
  const int64_t numbers = 8 / bits;  // in a byte
  const auto byte = std::to_integer<uint32_t>(tensor.data[index / numbers]);
  return static_cast<uint8_t>((byte >> (index % numbers * bits)) & ((1U << bits) - 1));
}

// The numbers that `bytes` bytes hold.
int64_t capacity(const TensorData& tensor, int bits) {
  return static_cast<int64_t>(tensor.bytes) * 8 / bits;
}

int64_t last_index(const Strides& at, int64_t n, int64_t steps) {
  const int64_t last = at.index(n - 1, steps - 1);
  return at.awq_order ? last | 7 : last;  // words are whole
}

bool fits_half(float x) { return jit::round_to(jit::ScaleType::f16, x) == x; }

// Whether fp16 holds what zero points are as minimums.
bool minimums_fit_half(const QuantizedMatrix& m) {
  std::vector<float> scale(static_cast<size_t>(m.groups())), zero(scale.size());
  for (int64_t c = 0; c < m.n; ++c) {
    m.read_scales(c, scale);
    m.read_zeros(c, zero);
    for (size_t g = 0; g < zero.size(); ++g) {
      if (!fits_half(zero[g] * scale[g])) return false;
    }
  }
  return true;
}

}  // namespace

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

void QuantizedMatrix::read_values(int64_t c, std::span<uint8_t> q) const {
  // Two's complement turns into offset binary by its top bit.
  const auto flip = static_cast<uint8_t>(offset());
  int64_t index = value_at.index(c, 0);
  const bool one_run = value_at.block == 0 && !value_at.awq_order;
  if (one_run && bits == 4 && value_at.step == 1 && index % 2 == 0) {
    const std::byte* from = values.data + index / 2;
    for (size_t kk = 0; kk < q.size(); ++kk) {
      const auto byte = std::to_integer<uint8_t>(from[kk / 2]);
      q[kk] = static_cast<uint8_t>((kk % 2 == 0 ? byte & 15 : byte >> 4) ^ flip);
    }
    return;
  }
  const auto all = static_cast<int64_t>(q.size());
  const int64_t run = value_at.awq_order ? 1 : value_at.block > 0 ? value_at.block : all;
  for (int64_t begin = 0; begin < all; begin += run) {
    index = value_at.index(c, begin);
    const int64_t end = std::min(all, begin + run);
    for (int64_t kk = begin; kk < end; ++kk, index += value_at.step) {
      q[static_cast<size_t>(kk)] = static_cast<uint8_t>(stored(values, bits, index) ^ flip);
    }
  }
}

void QuantizedMatrix::read_scales(int64_t c, std::span<float> out) const {
  if (scale_at.step == 1) return read_f32(scales, c * scale_at.column, out);
  for (size_t g = 0; g < out.size(); ++g) {
    read_f32(scales, c * scale_at.column + static_cast<int64_t>(g) * scale_at.step, {&out[g], 1});
  }
}

void QuantizedMatrix::read_zeros(int64_t c, std::span<float> out) const {
  for (size_t g = 0; g < out.size(); ++g) {
    if (!zeros) {
      out[g] = static_cast<float>(default_zero + offset());
      continue;
    }
    const int64_t index = zero_at.index(c, static_cast<int64_t>(g));
    if (is_float(zeros->dtype)) {
      read_f32(*zeros, index, {&out[g], 1});
      out[g] += static_cast<float>(offset());
    } else {
      const int zero = (stored(*zeros, bits, index) + zero_plus) & ((1 << bits) - 1);
      out[g] = static_cast<float>(zero ^ offset());
    }
  }
}

void QuantizedMatrix::read_column(int64_t c, std::span<float> out) const {
  std::vector<uint8_t> q(static_cast<size_t>(k));
  std::vector<float> scale(static_cast<size_t>(groups())), zero(scale.size());
  read_values(c, q);
  read_scales(c, scale);
  read_zeros(c, zero);
  std::vector<int64_t> group_of;
  if (k_group) group_of = to_i64(*k_group);
  for (size_t kk = 0; kk < q.size(); ++kk) {
    const auto g =
        group_of.empty() ? kk / static_cast<size_t>(group) : static_cast<size_t>(group_of[kk]);
    out[kk] = (static_cast<float>(q[kk]) - zero[g]) * scale[g];
  }
}

void QuantizedMatrix::check(const std::string& who) const {
  if (n < 1 || k < 1 || group < 1 || (bits != 2 && bits != 4 && bits != 8)) {
    fail("{} is a matrix of {} columns of {}, in groups of {}, of {} bits.", who, n, k, group,
         bits);
  }
  if (value_at.block > 0 && k % value_at.block != 0) {
    fail("{} has columns of {}, which are no whole blocks of {}.", who, k, value_at.block);
  }
  const auto expect = [&](const char* what, int64_t needed, int64_t found) {
    if (needed <= found) return;
    fail("{} needs {} {}, but the tensor holds {}.", who, needed, what, found);
  };
  expect("weights", last_index(value_at, n, k) + 1, capacity(values, bits));
  if (!is_float(scales.dtype)) {
    fail("{} has scales of type {}, but floats are expected.", who, dtype_name(scales.dtype));
  }
  expect("scales", last_index(scale_at, n, groups()) + 1, element_count(scales.shape));
  if (zeros) {
    const bool floats = is_float(zeros->dtype);
    const bool nibbles = zeros->dtype == DType::u4 || zeros->dtype == DType::i4;
    if (!floats && !is_byte(zeros->dtype) && !(nibbles && bits == 4)) {
      fail("{} has zero points of type {}.", who, dtype_name(zeros->dtype));
    }
    expect("zero points", last_index(zero_at, n, groups()) + 1,
           floats ? element_count(zeros->shape) : capacity(*zeros, bits));
  }
  if (!k_group) return;
  const std::vector<int64_t> group_of = to_i64(*k_group);
  expect("group numbers", k, static_cast<int64_t>(group_of.size()));
  for (const int64_t g : group_of) {
    if (g < 0 || g >= groups()) fail("{} names group {} of {}.", who, g, groups());
  }
}

std::optional<jit::WeightFormat> QuantizedMatrix::packed_format(std::string& why_not) const {
  if (k_group) {
    why_not = "its groups are not runs of neighbouring weights (g_idx)";
    return std::nullopt;
  }
  if (group % 8 != 0 && group < k) {
    why_not = fmt::format("its groups of {} are no multiple of 8", group);
    return std::nullopt;
  }
  jit::WeightFormat format;
  format.type = bits == 8 ? jit::WeightType::u8 : jit::WeightType::u4;
  format.group = group < k ? group : 0;
  format.scale = jit::ScaleType::f16;
  const float middle = bits == 8 ? 128 : 8, most = bits == 8 ? 255 : 15;
  format.asym = !zeros && static_cast<float>(default_zero + offset()) != middle;
  bool look_at_scales = scales.dtype != DType::f16;
  bool whole = true;  // all zero points
  // Neighbouring groups that are alike in every column are one: files whose groups are bounded
  // repeat the numbers of longer ones. 0: all groups so far; no longer looked at when it is 1.
  int64_t alike = groups() == 1 ? 1 : 0;
  std::vector<float> scale(static_cast<size_t>(groups())), zero(scale.size());
  for (int64_t c = 0; c < n && (look_at_scales || zeros || alike != 1); ++c) {
    if (look_at_scales || alike != 1) read_scales(c, scale);
    if (zeros) read_zeros(c, zero);
    for (size_t g = 1; g < scale.size() && alike != 1; ++g) {
      if (scale[g] != scale[g - 1] || (zeros && zero[g] != zero[g - 1])) {
        alike = std::gcd(alike, static_cast<int64_t>(g));
      }
    }
    if (look_at_scales) {
      look_at_scales = std::all_of(scale.begin(), scale.end(), fits_half);
      if (!look_at_scales) format.scale = jit::ScaleType::f32;
    }
    if (!zeros) continue;
    for (const float z : zero) {
      if (!std::isfinite(z)) {
        why_not = fmt::format("its zero point {} is not finite", z);
        return std::nullopt;
      }
      if (z != middle) format.asym = true;
      whole = whole && z >= 0 && z <= most && z == std::nearbyint(z);
    }
  }
  if (!whole) {
    format.minimum = true;
    if (!minimums_fit_half(*this)) format.scale = jit::ScaleType::f32;
  }
  if (format.group > 0) format.group *= alike;
  return format;
}

bool QuantizedMatrix::same_bytes(const QuantizedMatrix& other) const {
  return n == other.n && k == other.k && group == other.group && bits == other.bits &&
         is_signed == other.is_signed && values.data == other.values.data &&
         value_at == other.value_at && scales.data == other.scales.data &&
         scale_at == other.scale_at && zeros.has_value() == other.zeros.has_value() &&
         (!zeros || zeros->data == other.zeros->data) && default_zero == other.default_zero &&
         k_group.has_value() == other.k_group.has_value();
}

}  // namespace nibble::graph
