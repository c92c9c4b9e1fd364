#include "tests/jit/gemm_problem.h"

#include <algorithm>

#include "jit/float16.h"
#include "tests/support/super_numbers.h"

namespace nibble::test {
namespace {

using jit::ActType;
using jit::kColumnBlock;
using jit::WeightType;

constexpr int64_t kGateGap = 5;  // padded columns at the end of a gate's halves

int64_t output_columns(const jit::GemmSpec& spec) {
  return spec.gate ? spec.n / 2 - kGateGap : spec.n;
}

size_t when(bool used, int64_t count) { return used ? static_cast<size_t>(count) : 0; }

}  // namespace

GemmProblem::GemmProblem(const jit::GemmSpec& s, int64_t rows, Filling filling, uint64_t seed)
    : spec(s),
      shape(jit::packed_shape(s.weight, s.n, s.k)),
      random_(seed),
      rows_(rows),
      columns_(output_columns(s)),
      a_stride_(s.act == ActType::f32 ? s.k + 3 : shape.kpad + 4),
      data_(static_cast<size_t>(shape.data_bytes)),
      scales_(static_cast<size_t>(shape.scale_bytes)),
      zeros_(static_cast<size_t>(shape.zero_bytes)),
      a_s8_(when(s.act == ActType::s8, (rows - 1) * a_stride_ + shape.kpad)),
      a_bf16_(when(s.act == ActType::bf16, (rows - 1) * a_stride_ + shape.kpad)),
      a_f32_(when(s.act == ActType::f32, (rows - 1) * a_stride_ + s.k)),
      a_scale_(when(s.act == ActType::s8, rows * shape.act_groups)),
      a_sum_(when(s.act == ActType::s8, rows * shape.act_sum_bytes / 4)),
      bias_(when(s.bias, s.n)),
      residual_(when(s.residual, c_count(rows))) {
  fill_weights(filling);
  fill_activations(filling);
  for (float& x : bias_) x = uniform(-1, 1);
  for (float& x : residual_) x = uniform(-1, 1);
  compute_reference();
}

float GemmProblem::uniform(float low, float high) {
  return low + (high - low) * static_cast<float>(random_() >> 40) * 0x1p-24F;
}

int64_t GemmProblem::integer(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
}

void GemmProblem::fill_weights(Filling filling) {
  for (int64_t nb = 0; nb < shape.nblocks; ++nb) fill_block(filling, nb);
}

void GemmProblem::fill_block(Filling filling, int64_t nb) {
  if (spec.weight.type == WeightType::f32) {
    std::vector<float> w(static_cast<size_t>(kColumnBlock * spec.k));
    for (float& x : w) x = uniform(-1, 1);
    jit::pack_block_f32(spec.n, spec.k, nb, w.data(), data_.data());
    return;
  }
  const int64_t largest = jit::top_value(spec.weight.type);
  std::vector<uint8_t> q(static_cast<size_t>(kColumnBlock * shape.kpad));
  std::vector<uint8_t> zero(static_cast<size_t>(kColumnBlock * shape.groups));
  std::vector<float> scale(zero.size()), minimum(zero.size());
  const bool ends = filling == Filling::extremes;
  // Whole columns at one end make the largest sums there are.
  for (size_t i = 0; i < q.size(); ++i) {
    const auto column = static_cast<int64_t>(i) / shape.kpad;
    q[i] = static_cast<uint8_t>(ends ? column % 2 * largest : integer(0, largest));
  }
  for (uint8_t& z : zero)
    z = static_cast<uint8_t>(ends ? integer(0, 1) * largest : integer(0, largest));
  for (float& x : scale) {
    x = uniform(-0.01F, 0.01F);
    x = jit::round_to(spec.weight.scale, x);
  }
  for (float& x : minimum) x = jit::round_to(spec.weight.scale, uniform(-0.1F, 0.1F));
  SuperNumbers scales, minimums;
  if (spec.weight.scale == jit::ScaleType::q8) {
    scales = random_super_numbers(random_, shape, 13);
    minimums = random_super_numbers(random_, shape, 10);
    scale = scales.products;
    minimum = minimums.products;
  }
  jit::pack_block(spec.weight, spec.n, spec.k, nb, q.data(), scale.data(), zero.data(),
                  data_.data(), scales_.data(), zeros_.data(), minimum.data(),
                  {scales.above.data(), minimums.above.data()});
}

void GemmProblem::fill_activations(Filling filling) {
  for (float& x : a_f32_) x = filling == Filling::zeros && integer(0, 1) == 0 ? 0 : uniform(-2, 2);
  for (int64_t row = 0; row < rows_; ++row) {
    if (spec.act == ActType::s8) fill_row(filling, row);
    if (spec.act == ActType::bf16) fill_bf16_row(filling, row);
  }
}

void GemmProblem::fill_row(Filling filling, int64_t row) {
  const int zero = spec.weight.asym ? 1 : jit::middle_value(spec.weight.type);
  int8_t* a = a_s8_.data() + row * a_stride_;
  for (int64_t g = 0; g < shape.groups; ++g) {
    const bool silent = filling == Filling::zeros && g % 2 == 0;
    const int64_t sign = row % 2 == 0 ? 127 : -127;
    int32_t sum = 0;
    for (int64_t kk = g * shape.group; kk < std::min(spec.k, (g + 1) * shape.group); ++kk) {
      const int64_t value = filling == Filling::extremes ? sign : integer(-127, 127);
      a[kk] = static_cast<int8_t>(silent ? 0 : value);
      sum += a[kk];
    }
    const int64_t at = row * shape.act_groups + g * shape.group / shape.act_group;
    a_scale_[static_cast<size_t>(at)] = silent ? 0 : uniform(0.001F, 0.02F);
    jit::store_activation_sum(shape, a_sum_.data() + row * shape.act_sum_bytes / 4, g, -zero * sum);
  }
}

// At the extremes of every magnitude that there is: sums of the smallest cancel down to where tiles
// would take them for zero.
void GemmProblem::fill_bf16_row(Filling filling, int64_t row) {
  uint16_t* a = a_bf16_.data() + row * a_stride_;
  for (int64_t kk = 0; kk < spec.k; ++kk) {
    const bool silent = filling == Filling::zeros && integer(0, 1) == 0;
    float x = silent ? 0 : uniform(-2, 2);
    if (filling == Filling::extremes) {
      x *= row % 3 == 0 ? jit::kLeastBf16Activation : row % 3 == 1 ? 0x1p100F : 0x1p40F;
    }
    a[kk] = jit::bf16_activation(x);
  }
}

jit::PackedView GemmProblem::weights() const {
  return {spec.weight, spec.n, spec.k, data_.data(), scales_.data(), zeros_.data()};
}

jit::GemmArgs GemmProblem::args(int64_t m, float* c) const {
  const void* a = a_s8_.data();
  if (spec.act == ActType::f32) a = a_f32_.data();
  if (spec.act == ActType::bf16) a = a_bf16_.data();
  return {.a = a,
          .a_stride = a_stride_,
          .a_scale = a_scale_.data(),
          .a_sum = a_sum_.data(),
          .w = data_.data(),
          .w_scale = scales_.data(),
          .w_zero = zeros_.data(),
          .bias = spec.bias ? bias_.data() : nullptr,
          .residual = spec.residual ? residual_.data() : nullptr,
          .residual_stride = c_stride(),
          .c = c,
          .c_stride = c_stride(),
          .c_columns = columns_,
          .m = m,
          .nb_begin = 0,
          .nb_end = shape.nblocks};
}

void GemmProblem::compute_reference() {
  GuardedBuffer<float> c(static_cast<size_t>(c_count(rows_)));
  jit::gemm_reference(spec, args(rows_, c.data()));
  for (int64_t row = 0; row < rows_; ++row) {
    const float* first = c.data() + row * c_stride();
    reference_.insert(reference_.end(), first, first + columns_);
  }
}

}  // namespace nibble::test
