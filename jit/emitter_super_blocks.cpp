// What q8 scales need of a tile (super_blocks.h): sums of a super-block beside those of its groups.
#include "jit/emitter.h"

namespace nibble::jit {
namespace {

constexpr int kHalfNumbers = 16;  // bytes of eight columns' fp16 numbers

}  // namespace

// super = fma(float(sum), byte, super)
void Emitter::fold_byte(int i, int j, int half) {
  const Xbyak::Xmm column_scale = reg(plan_.work);
  if (i == 0) load_scale(column_scale, j, half);
  const Xbyak::Xmm sum = acc(i, j, half);
  if (plan_.chains == 2) out_.vpaddd(sum, sum, acc(i, j, half, 1));
  out_.vcvtdq2ps(sum, sum);
  out_.vfmadd231ps(super(i, j, half), sum, column_scale);
}

// The pointers are at the groups' beginning (at_end: the scales' is behind their bytes).
Xbyak::RegExp Emitter::number_address(bool minimums, bool at_end, int j, int half) {
  const int64_t bytes = at_end && !minimums ? 0 : shape_.super_groups * kColumnBlock;
  return (minimums ? zeros_at(j) : scales_at(j)) + bytes + half * kHalfNumbers;
}

void Emitter::begin_super() {
  if (plan_.dot != DotKind::fma) {
    for (int index = 0; index < plan_.vectors(); ++index) {
      const Xbyak::Xmm sum = reg(plan_.supers + index);
      out_.vxorps(sum, sum, sum);
    }
    return;
  }
  for (int j = 0; j < plan_.blocks; ++j) {
    for (int h = 0; h < plan_.halves; ++h) {
      out_.vcvtph2ps(number(false, j, h), out_.ptr[number_address(false, false, j, h)]);
      if (!spec_.weight.minimum) continue;
      out_.vcvtph2ps(number(true, j, h), out_.ptr[number_address(true, false, j, h)]);
    }
  }
}

// f32 = fma(super, number * a_scale, f32) and, with minimums, f32 = fma(-(sum of byte * a_sum),
// number * a_scale, f32).
void Emitter::fold_super(int j, int half) {
  if (plan_.dot == DotKind::fma) return;
  const Xbyak::Xmm above = reg(plan_.work), t = reg(plan_.work + 1);
  const auto scaled = [&](int i) {
    out_.vbroadcastss(t, out_.ptr[a_scale_ptr_ + static_cast<int>(i * shape_.act_groups * 4)]);
    out_.vmulps(t, t, above);
  };
  out_.vcvtph2ps(above, out_.ptr[number_address(false, true, j, half)]);
  for (int i = 0; i < plan_.rows; ++i) {
    scaled(i);
    add_scaled(super(i, j, half), t, i, j, half);
  }
  if (!spec_.weight.minimum) return;
  sum_minimums(j, half);
  out_.vcvtph2ps(above, out_.ptr[number_address(true, true, j, half)]);
  for (int i = 0; i < plan_.rows; ++i) {
    const Xbyak::Xmm sum = acc(i, j, half);
    const auto partial = out_.ptr[scratch_address(i, j, half)];
    scaled(i);
    out_.vcvtdq2ps(sum, sum);
    out_.vfnmadd213ps(sum, t, partial);
    out_.vmovups(partial, sum);
  }
}

// acc = sum over the groups of byte * a_sum, two groups at a time.
void Emitter::sum_minimums(int j, int half) {
  const Xbyak::Xmm words = reg(plan_.work);
  for (int i = 0; i < plan_.rows; ++i) {
    const Xbyak::Xmm sum = acc(i, j, half);
    out_.vxorps(sum, sum, sum);
  }
  const Xbyak::RegExp minimums = zeros_at(j);
  for (int64_t pair = 0; pair < shape_.super_groups / 2; ++pair) {
    out_.vpmovsxbw(words, out_.ptr[minimums + (pair * 2 + half) * kColumnBlock]);
    for (int i = 0; i < plan_.rows; ++i) {
      const auto sums = static_cast<int>(i * shape_.act_sum_bytes + pair * 4);
      dot_words(acc(i, j, half), words, a_sum_ptr_ + sums);
    }
  }
}

void Emitter::dot_words(const Xbyak::Xmm& acc, const Xbyak::Xmm& words, const Xbyak::RegExp& pair) {
  const Xbyak::Xmm products = reg(plan_.work + 1);
  out_.vpbroadcastd(products, out_.ptr[pair]);
  out_.vpmaddwd(products, products, words);
  out_.vpaddd(acc, acc, products);
}

// The minimum of a group by itself: the byte of its place in the pair of groups.
void Emitter::load_minimum(const Xbyak::Xmm& dst, int j, int half) {
  out_.vpmovzxwd(dst, out_.ptr[zeros_at(j) + half * kColumnBlock]);
  if (place_ == 0) out_.vpslld(dst, dst, 24);
  if (place_ == 1) out_.vpslld(dst, dst, 16);
  out_.vpsrad(dst, dst, 24);
  out_.vcvtdq2ps(dst, dst);
  out_.vmulps(dst, dst, number(true, j, half));
}

// Past the numbers, which lie behind the bytes that advance_group has passed.
void Emitter::advance_super() {
  constexpr int kNumbers = 2 * kHalfNumbers;
  out_.add(w_scale_ptr_, kNumbers);
  if (spec_.weight.minimum) {
    const int64_t bytes = minimums_by_group() ? 0 : shape_.super_groups * kColumnBlock;
    out_.add(w_zero_ptr_, static_cast<int>(bytes) + kNumbers);
  }
  if (spec_.act != ActType::s8) return;
  out_.add(a_scale_ptr_, 4);
  if (spec_.weight.minimum) out_.add(a_sum_ptr_, static_cast<int>(shape_.super_groups * 2));
}

}  // namespace nibble::jit
