// What all ISAs share of a tile: pointers, the group's fold, dequantizing, the k loop's moves.
#include "jit/emitter.h"

#include <algorithm>
#include <cstddef>

#include "jit/emitter_isa.h"
#include "jit/error.h"

namespace nibble::jit {
namespace {

constexpr int kRowsPerPointer = 5;  // base + {0, 1, 2, 3, 4} strides
// Scales are always fetched into the L1: four lines are those of a few groups.
constexpr int kScalesAhead = 4 * kLineBytes;

bool has_byte_lines(const GemmSpec& spec, bool in_panel) {
  return spec.weight.type == WeightType::u8 || in_panel;
}

int64_t line_bytes(const GemmSpec& spec, bool in_panel) {
  return has_byte_lines(spec, in_panel) ? kLineBytes : weight_unit(spec.weight.type).bytes;
}

int line_steps(const GemmSpec& spec, bool in_panel) {
  const bool s8 = spec.act == ActType::s8;
  if (spec.weight.type == WeightType::f32) return 1;
  if (has_byte_lines(spec, in_panel)) return s8 ? 1 : 4;
  const auto k = static_cast<int>(weight_unit(spec.weight.type).k);
  return s8 ? k / 4 : k;
}

}  // namespace

Emitter::Emitter(Assembler& out, const GemmSpec& spec, const Tiling& tiling,
                 const RegisterPlan& plan, bool fills_panel)
    : out_(out),
      spec_(spec),
      tiling_(tiling),
      plan_(plan),
      shape_(packed_shape(spec.weight, spec.n, spec.k)),
      fills_panel_(fills_panel),
      reads_panel_(tiling.panel && !fills_panel),
      prefetches_rows_(reads_panel_ && plan.rows == tiling.mr && plan.rows <= 2 * kRowsPerPointer),
      keeps_lines_(plan.lines_in_registers && in_two_steps() && !fills_panel),
      bytes_in_lines_(has_byte_lines(spec, reads_panel_)),
      line_bytes_(line_bytes(spec, reads_panel_)),
      steps_per_line_(line_steps(spec, reads_panel_)),
      slices_(panel_slices(spec, tiling)),
      // Panels are in the L1, and slices of k are fetched by the tiles of the one before.
      lines_fetched_(!fetches() || reads_panel_ || slices_.count > 1
                         ? 0
                         : static_cast<int>((line_bytes_ + kLineBytes - 1) / kLineBytes)),
      panel_block_bytes_(panel_block_bytes(spec, tiling)),
      a_ptr_{out.r8, out.r9, out.r10, out.r11},
      a_stride_(out.r12),
      a_stride3_(out.r13),
      w_ptr_(out.rsi),
      w_scale_ptr_(out.rdi),
      w_zero_ptr_(out.rdx),
      a_scale_ptr_(out.rbx),
      a_sum_ptr_(out.r14),
      k_left_(out.rcx),
      groups_left_(out.r15),
      tile_ptr_(out.rax) {}

Xbyak::Xmm Emitter::reg(int index) const {
  return {plan_.zmm ? Xbyak::Operand::ZMM : Xbyak::Operand::YMM, index};
}

Xbyak::RegExp Emitter::a_address(const Xbyak::Reg64* first, int i, int k) const {
  const Xbyak::RegExp base(first[i / kRowsPerPointer]);
  const int offset = k * act_step_bytes();
  switch (i % kRowsPerPointer) {
    case 0:
      return base + offset;
    case 3:
      return base + a_stride3_ + offset;
    default:
      return base + a_stride_ * (i % kRowsPerPointer) + offset;
  }
}

Xbyak::RegExp Emitter::b_address(int k, int j, int half) const {
  const int64_t line = k / steps_per_line_ * line_bytes_ + half * half_bytes();
  if (tiling_.apart) {
    switch (j) {
      case 0:
        return Xbyak::RegExp(w_ptr_) + line;
      case 3:
        return w_ptr_ + apart3() + line;
      default:
        return w_ptr_ + apart() * j + line;
    }
  }
  if (reads_panel_) return panel_address(w_ptr_, j, half, k);
  return Xbyak::RegExp(w_ptr_) + static_cast<int>(j * shape_.block_bytes) + line;
}

Xbyak::RegExp Emitter::panel_address(const Xbyak::Reg64& at, int j, int half, int64_t line) const {
  return Xbyak::RegExp(at) + static_cast<int>(j * panel_block_bytes_) + line * kLineBytes +
         half * half_bytes();
}

Xbyak::RegExp Emitter::scratch_address(int i, int j, int half) const {
  return Xbyak::RegExp(tile_ptr_) + (j * tiling_.mr + i) * kLineBytes + half * half_bytes();
}

int Emitter::row_pointers() const { return (plan_.rows + kRowsPerPointer - 1) / kRowsPerPointer; }

// The other pointers to rows of which the first is set.
void Emitter::locate_rows(const Xbyak::Reg64* first) {
  for (int p = 1; p < row_pointers(); ++p) {
    out_.lea(first[p], out_.ptr[first[p - 1] + a_stride_ * 4]);
    out_.add(first[p], a_stride_);
  }
}

void Emitter::begin() {
  const auto local = [&](int offset) { return out_.ptr[out_.rbp + offset]; };
  out_.mov(tile_ptr_, local(kFrameArgs));
  out_.mov(a_stride_, out_.ptr[tile_ptr_ + offsetof(GemmArgs, a_stride)]);
  if (spec_.act != ActType::s8) out_.shl(a_stride_, spec_.act == ActType::bf16 ? 1 : 2);
  out_.lea(a_stride3_, out_.ptr[a_stride_ + a_stride_ * 2]);
  out_.mov(a_ptr_[0], local(kFrameTileA));
  locate_rows(a_ptr_);
  if (prefetches_rows_) {
    out_.lea(next_rows()[0], out_.ptr[a_address(plan_.rows - 1, 0)]);
    out_.add(next_rows()[0], a_stride_);
    locate_rows(next_rows());
  }
  out_.mov(w_ptr_, local(fills_panel_ ? kFrameTileSource : kFrameTileW));
  if (fills_panel_) out_.mov(panel(), local(kFrameTileW));
  if (!reads_panel_ || panel_scale_lines(spec_) == 0) {
    out_.mov(w_scale_ptr_, local(kFrameTileWScale));
    out_.mov(w_zero_ptr_, local(kFrameTileWZero));
  }
  if (tiling_.apart && plan_.blocks > 1) {
    out_.mov(apart(), local(kFrameApartW));
    if (plan_.blocks > 3) out_.lea(apart3(), out_.ptr[apart() + apart() * 2]);
  }
  out_.mov(a_scale_ptr_, local(kFrameTileAScale));
  out_.mov(a_sum_ptr_, local(kFrameTileASum));
  out_.mov(tile_ptr_, local(kFrameTileOut));
  if (plan_.mask_in_register) {
    // f32 and bf16 activations take dwords apart, s8 activations bytes.
    const uint32_t mask = spec_.act == ActType::s8 ? 0x0f0f0f0fU : 0x0fU;
    out_.vmovups(reg(plan_.mask), out_.constant(mask));
  }
  begin_sums();
}

void Emitter::begin_sums() {
  const auto each = [&](const auto& body) {
    for (int i = 0; i < plan_.rows; ++i) {
      for (int j = 0; j < plan_.blocks; ++j) {
        for (int h = 0; h < plan_.halves; ++h) body(i, j, h);
      }
    }
  };
  Xbyak::Label later, done;
  if (slices_.count > 1) {
    out_.cmp(out_.qword[out_.rbp + kFrameSlice], 0);
    out_.jne(later, Xbyak::CodeGenerator::T_NEAR);
  }
  const Xbyak::Xmm clear = reg(plan_.work);
  if (plan_.f32_in_memory) out_.vxorps(clear, clear, clear);
  each([&](int i, int j, int h) {
    if (plan_.f32_in_memory) {
      out_.vmovups(out_.ptr[scratch_address(i, j, h)], clear);
    } else {
      out_.vxorps(f32(i, j, h), f32(i, j, h), f32(i, j, h));
    }
  });
  if (slices_.count == 1) return;
  out_.jmp(done, Xbyak::CodeGenerator::T_NEAR);
  out_.L(later);
  each([&](int i, int j, int h) {
    if (plan_.f32_in_memory) return;  // there they are
    out_.vmovups(f32(i, j, h), out_.ptr[scratch_address(i, j, h)]);
  });
  out_.L(done);
}

Xbyak::RegExp Emitter::at_block(const Xbyak::Reg64& first, int64_t block_bytes, Frame apart,
                                int j) {
  if (!tiling_.apart || j == 0) return Xbyak::RegExp(first) + static_cast<int>(j * block_bytes);
  out_.imul(k_left_, out_.qword[out_.rbp + apart], j);
  return first + k_left_;
}

// Scales or minimums of a group of a column block.
void Emitter::load_stored(const Xbyak::Xmm& dst, const Xbyak::RegExp& block, int half) {
  const auto bytes = static_cast<int>(scale_bytes(spec_.weight.scale));
  load_scales(out_, spec_.weight.scale, dst, block + half * 8 * bytes);
  if (fetches() && half == 0) out_.prefetcht0(out_.ptr[block + kScalesAhead]);
}

void Emitter::load_scale(const Xbyak::Xmm& dst, int j, int half) {
  load_stored(dst, scales_at(j), half);
  if (super_blocks() && plan_.dot == DotKind::fma) {
    out_.vmulps(dst, dst, number(false, j, half));
  }
}

void Emitter::load_zero_point(const Xbyak::Xmm& dst, int j, int half) {
  if (minimums_by_group()) return load_minimum(dst, j, half);
  if (spec_.weight.minimum) return load_stored(dst, zeros_at(j), half);
  out_.vpmovzxbd(dst, out_.ptr[zeros_at(j) + int64_t{half} * 8]);
  out_.vcvtdq2ps(dst, dst);
}

void Emitter::zero(int i, int j) {
  const auto row = static_cast<int>(i * shape_.act_sum_bytes);
  for (int h = 0; h < plan_.halves; ++h) {
    if (plan_.dot == DotKind::fma) {
      if (i > 0 || spec_.weight.type == WeightType::f32) continue;
      load_scale(scale(j, h), j, h);
      if (spec_.weight.asym) load_zero_point(zero_point(j, h), j, h);
      continue;
    }
    if (plan_.dot == DotKind::bf16) {
      if (i == 0 && spec_.weight.asym) load_zero_point(zero_point(j, h), j, h);
      out_.vxorps(group_sum(i, j, h), group_sum(i, j, h), group_sum(i, j, h));
      continue;
    }
    const Xbyak::Xmm sum = acc(i, j, h);
    if (spec_.weight.asym) {
      out_.vxorps(sum, sum, sum);
    } else if (j > 0 || h > 0) {
      out_.vmovaps(sum, acc(i, 0, 0));  // of the same row, where the first block comes first
    } else {
      out_.vpbroadcastd(sum, out_.ptr[a_sum_ptr_ + row]);
    }
    for (int c = 1; c < plan_.chains; ++c) {
      const Xbyak::Xmm other = acc(i, j, h, c);
      out_.vxorps(other, other, other);
    }
  }
}

void Emitter::load_b(int k, int j) {
  const bool as_stored =
      spec_.weight.type == WeightType::f32 || (bytes_in_lines_ && spec_.act == ActType::s8);
  for (int h = 0; h < plan_.halves; ++h) {
    const Xbyak::RegExp bits = b_address(k, j, h);
    if (as_stored) {
      out_.vmovups(b(j, h), out_.ptr[bits]);
    } else if (spec_.act != ActType::s8) {
      load_whole_number(k, j, h);
      if (spec_.weight.minimum) {
        out_.vfmadd213ps(b(j, h), scale(j, h), zero_point(j, h));
      } else if (plan_.dot == DotKind::fma) {
        out_.vmulps(b(j, h), b(j, h), scale(j, h));
      }
    } else {
      const int quad = sub_step(k);
      if (keeps_lines_) {
        unpack_kept(j, h, bits, quad);
      } else {
        unpack(b(j, h), out_.ptr[bits + quad / 2 * kLineBytes], quad % 2 * 4, 0x0f0f0f0fU);
      }
      if (six_bits()) add_upper_bits(b(j, h), bits, 2 * quad - 4, 0x30303030U);
      if (fills_panel_) out_.vmovups(out_.ptr[panel_address(panel(), j, h, k)], b(j, h));
    }
    if (plan_.dot == DotKind::bytes) split_weights(j, h);
  }
}

// The quads of a line that is loaded once.
void Emitter::unpack_kept(int j, int half, const Xbyak::RegExp& bits, int quad) {
  const Xbyak::Xmm line = reg(plan_.lines + j * plan_.halves + half);
  if (quad == 0) out_.vmovups(line, out_.ptr[bits]);
  unpack(b(j, half), line, quad * 4, 0x0f0f0f0fU);
}

// Bytes of weights as int16: the even ones stay in b, the odd ones lie behind all b.
void Emitter::split_weights(int j, int half) {
  const Xbyak::Xmm even = b(j, half);
  const Xbyak::Xmm odd = b(j + plan_.blocks, half);
  out_.vpsrlw(odd, even, 8);
  out_.vpsllw(even, even, 8);
  out_.vpsrlw(even, even, 8);
}

// q - zero as floats, exact, or q where there are minimums. (Its product with a scale is rounded
// once.)
void Emitter::load_whole_number(int k, int j, int half) {
  const Xbyak::Xmm w = b(j, half);
  const int sub = sub_step(k);
  const Xbyak::RegExp bits = b_address(k, j, half);
  if (bytes_in_lines_) {
    unpack(w, out_.ptr[bits], 8 * sub, 0xffU);
    out_.vcvtdq2ps(w, w);
  } else if (six_bits()) {
    const int quad = sub / 4, byte = sub % 4;
    unpack(w, out_.ptr[bits + quad / 2 * kLineBytes], 8 * byte + 4 * (quad % 2), 0x0fU);
    add_upper_bits(w, bits, 8 * byte + 2 * quad - 4, 0x30U);
    out_.vcvtdq2ps(w, w);
  } else {
    unpack_nibbles(w, bits, 8 * (sub % 4) + 4 * (sub / 4));
  }
  if (spec_.weight.minimum) return;
  if (spec_.weight.asym) {
    out_.vsubps(w, w, zero_point(j, half));
  } else if (bytes_in_lines_ || !nibbles_are_centred()) {
    out_.vsubps(w, w, out_.constant(static_cast<float>(middle_value(spec_.weight.type))));
  }
}

// dst |= the bits in `mask` of the third line of a unit, moved right by `shift` (left where it is
// negative): bits 4 and 5 of dwords or of all their bytes.
void Emitter::add_upper_bits(const Xbyak::Xmm& dst, const Xbyak::RegExp& unit, int shift,
                             uint32_t mask) {
  const Xbyak::Xmm upper = reg(plan_.upper);
  out_.vmovups(upper, out_.ptr[unit + 2 * kLineBytes]);
  if (shift > 0) out_.vpsrld(upper, upper, shift);
  if (shift < 0) out_.vpslld(upper, upper, -shift);
  if (plan_.zmm) {
    constexpr uint8_t kOrAnd = 0xf8;  // a | b & c
    out_.vpternlogd(dst, upper, out_.constant(mask), kOrAnd);
  } else {
    out_.vpand(upper, upper, out_.constant(mask));
    out_.vpor(dst, dst, upper);
  }
}

void Emitter::unpack_nibbles(const Xbyak::Xmm& dst, const Xbyak::RegExp& bits, int shift) {
  unpack(dst, out_.ptr[bits], shift, 0x0fU);
  out_.vcvtdq2ps(dst, dst);
}

// Scales or zero points of a group of s8 dots. Who fills a panel leaves them there as floats, where
// its pointer is at the end of the group.
void Emitter::load_column(const Xbyak::Xmm& dst, int j, int half, bool zero_points) {
  const int line = zero_points ? 1 : 0;
  if (reads_panel_) return out_.vmovups(dst, out_.ptr[panel_address(w_ptr_, j, half, line)]);
  if (zero_points) {
    load_zero_point(dst, j, half);
  } else {
    load_scale(dst, j, half);
  }
  if (fills_panel_) out_.vmovups(out_.ptr[panel_address(panel(), j, half, line)], dst);
}

// f32 = fma(float(sum), w_scale * a_scale, f32); asymmetric: float(sum) = fma(zero, a_sum, sum).
void Emitter::fold(int i, int j, int half) {
  if (plan_.dot == DotKind::fma) return;
  if (plan_.dot == DotKind::bf16) return fold_bf16(i, j, half);
  if (super_blocks()) return fold_byte(i, j, half);
  const Xbyak::Xmm column_scale = reg(plan_.work);
  const Xbyak::Xmm column_zero = reg(plan_.work + 1);
  const Xbyak::Xmm t = reg(plan_.work + 2);
  const auto row = static_cast<int>(i * shape_.groups * 4);
  if (i == 0) {
    load_column(column_scale, j, half, false);
    if (spec_.weight.asym) load_column(column_zero, j, half, true);
  }
  const Xbyak::Xmm sum = acc(i, j, half);
  if (plan_.chains == 2) out_.vpaddd(sum, sum, acc(i, j, half, 1));
  out_.vcvtdq2ps(sum, sum);
  if (spec_.weight.asym && !spec_.weight.minimum) {
    out_.vpbroadcastd(t, out_.ptr[a_sum_ptr_ + row]);
    out_.vcvtdq2ps(t, t);
    out_.vfmadd231ps(sum, column_zero, t);
  }
  if (plan_.zmm) {
    out_.vmulps(t, column_scale, out_.ptr_b[a_scale_ptr_ + row]);
  } else {
    out_.vbroadcastss(t, out_.ptr[a_scale_ptr_ + row]);
    out_.vmulps(t, t, column_scale);
  }
  add_scaled(sum, t, i, j, half);
  if (spec_.weight.minimum) fold_minimum(i, j, half);
}

// f32 = fma(-minimum, a_sum * a_scale, f32), a_sum being that of -q.
void Emitter::fold_minimum(int i, int j, int half) {
  const Xbyak::Xmm minimum = reg(plan_.work + 1);
  const Xbyak::Xmm t = reg(plan_.work + 2), a_scale = reg(plan_.work + 3);
  const auto row = static_cast<int>(i * shape_.groups * 4);
  out_.vbroadcastss(a_scale, out_.ptr[a_scale_ptr_ + row]);
  out_.vpbroadcastd(t, out_.ptr[a_sum_ptr_ + row]);
  out_.vcvtdq2ps(t, t);
  out_.vmulps(t, t, a_scale);
  if (plan_.f32_in_memory) {
    const auto partial = out_.ptr[scratch_address(i, j, half)];
    out_.vfnmadd213ps(t, minimum, partial);
    out_.vmovups(partial, t);
  } else {
    out_.vfnmadd231ps(f32(i, j, half), minimum, t);
  }
}

// f32 = fma(sum of the group, w_scale, f32)
void Emitter::fold_bf16(int i, int j, int half) {
  const Xbyak::Xmm column_scale = reg(plan_.work);
  const Xbyak::Xmm sum = group_sum(i, j, half);
  if (i == 0) load_scale(column_scale, j, half);
  add_scaled(sum, column_scale, i, j, half);
}

// f32 = fma(sum, scale, f32), wherever the fp32 sum is kept. Leaves nothing of use in `sum`.
void Emitter::add_scaled(const Xbyak::Xmm& sum, const Xbyak::Xmm& scale, int i, int j, int half) {
  if (plan_.f32_in_memory) {
    const auto partial = out_.ptr[scratch_address(i, j, half)];
    out_.vfmadd213ps(sum, scale, partial);
    out_.vmovups(partial, sum);
  } else {
    out_.vfmadd231ps(f32(i, j, half), sum, scale);
  }
}

void Emitter::store(int i, int j) {
  if (plan_.f32_in_memory) return;
  for (int h = 0; h < plan_.halves; ++h) {
    out_.vmovups(out_.ptr[scratch_address(i, j, h)], f32(i, j, h));
  }
}

void Emitter::end() { out_.ret(); }

// A chunk of bf16 is a step of kBf16Step k: two chains from zero, which join the group's sum at its
// end.
void Emitter::begin_chunk(int steps) {
  chunk_steps_ = steps;
  if (plan_.dot != DotKind::bf16) return;
  for (int index = 0; index < 2 * plan_.vectors(); ++index) {
    const Xbyak::Xmm chain = reg(plan_.acc + index);
    out_.vxorps(chain, chain, chain);
  }
}

void Emitter::end_chunk() {
  if (plan_.dot != DotKind::bf16) return;
  for (int index = 0; index < plan_.vectors(); ++index) {
    const Xbyak::Xmm even = reg(plan_.acc + index);
    const Xbyak::Xmm sum = reg(plan_.group_sums + index);
    out_.vaddps(even, even, reg(plan_.acc + plan_.vectors() + index));
    out_.vaddps(sum, sum, even);
  }
}

void Emitter::advance(int steps) {
  for (int p = 0; p < row_pointers(); ++p) {
    out_.add(a_ptr_[p], steps * act_step_bytes());
    if (prefetches_rows_) out_.add(next_rows()[p], steps * act_step_bytes());
  }
  const int lines = (steps + steps_per_line_ - 1) / steps_per_line_;
  out_.add(w_ptr_, static_cast<uint32_t>(lines * line_bytes_));
  if (fills_panel_) out_.add(panel(), steps * kLineBytes);
}

void Emitter::advance_group() {
  if (spec_.weight.type == WeightType::f32) return;
  if (super_blocks()) {
    out_.add(w_scale_ptr_, static_cast<int>(kColumnBlock));
    if (minimums_by_group() && place_ == 1)
      out_.add(w_zero_ptr_, static_cast<int>(2 * kColumnBlock));
    if (spec_.act == ActType::s8 && !spec_.weight.minimum) out_.add(a_sum_ptr_, 4);
    return;
  }
  const auto step = [](int64_t bytes) { return static_cast<int>(kColumnBlock * bytes); };
  if (tiling_.panel) {
    out_.add(reads_panel_ ? w_ptr_ : panel(),
             static_cast<int>(panel_scale_lines(spec_) * kLineBytes));
  }
  if (!reads_panel_) {
    out_.add(w_scale_ptr_, step(scale_bytes(spec_.weight.scale)));
    if (spec_.weight.asym) out_.add(w_zero_ptr_, step(zero_bytes(spec_.weight)));
  }
  if (spec_.act != ActType::s8) return;
  out_.add(a_scale_ptr_, 4);
  out_.add(a_sum_ptr_, 4);
}

void Emitter::prefetch(int line, int number) {
  const int steps = fetch_steps();
  const int j = number / (lines_fetched_ * steps), at_line = number / steps % lines_fetched_;
  const Xbyak::RegExp at = b_address(line * steps_per_line_, j, 0) + at_line * kLineBytes;
  const auto l1 = out_.ptr[at + tiling_.prefetch_l1], l2 = out_.ptr[at + tiling_.prefetch_l2];
  if (in_two_steps() && number % steps == 0) {
    out_.prefetchnta(l1);
  } else if (in_two_steps()) {
    out_.prefetcht2(l2);
  } else if (tiling_.prefetch_l2 > 0) {
    out_.prefetcht1(l2);
  } else {
    out_.prefetcht0(l1);
  }
}

// A row at a step, as each fetch needs a buffer that others may want.
void Emitter::prefetch_row(int i, int k) {
  if (!prefetches_rows_) return;
  const int steps = std::min(static_cast<int>(kLineBytes) / act_step_bytes(), chunk_steps_);
  if (k % steps == i % steps) out_.prefetcht0(out_.ptr[a_address(next_rows(), i, k)]);
}

void Emitter::split_activations() {
  const Xbyak::Xmm even = reg(plan_.a);
  const Xbyak::Xmm odd = reg(plan_.a + 1);
  out_.vpsraw(odd, even, 8);
  out_.vpsllw(even, even, 8);
  out_.vpsraw(even, even, 8);
}

void Emitter::dot_bf16(int i, int j, int k) {
  for (int h = 0; h < plan_.halves; ++h) {
    out_.vfmadd231ps(acc(i, j, h, k % 2), b(j, h), reg(plan_.a));
  }
}

void Emitter::dot_without_vnni(int i, int j, int k) {
  if (plan_.dot == DotKind::nibbles) {
    dot_nibbles(i, j, k);
  } else {
    dot_bytes(i, j);
  }
}

// Up to kMaxNibbleSum pairs of products (kMaxSixBitSum of u6) add up in int16 before they are
// widened.
void Emitter::dot_nibbles(int i, int j, int k) {
  const int most = six_bits() ? kMaxSixBitSum : kMaxNibbleSum;
  const int first = k - k % most;
  const int last = std::min(first + most, chunk_steps_) - 1;
  for (int h = 0; h < plan_.halves; ++h) {
    const Xbyak::Xmm sums = acc16(i, j, h);
    const Xbyak::Xmm a = reg(plan_.a);
    if (k == first) {
      out_.vpmaddubsw(sums, b(j, h), a);
    } else {
      out_.vpmaddubsw(reg(plan_.tmp), b(j, h), a);
      out_.vpaddw(sums, sums, reg(plan_.tmp));
    }
    if (k != last) continue;
    out_.vpmaddwd(sums, sums, out_.constant(0x00010001U));
    out_.vpaddd(acc(i, j, h), acc(i, j, h), sums);
  }
}

void Emitter::dot_bytes(int i, int j) {
  for (int h = 0; h < plan_.halves; ++h) {
    for (int odd = 0; odd < 2; ++odd) {
      out_.vpmaddwd(reg(plan_.tmp), b(j + odd * plan_.blocks, h), reg(plan_.a + odd));
      out_.vpaddd(acc(i, j, h), acc(i, j, h), reg(plan_.tmp));
    }
  }
}

std::unique_ptr<Emitter> make_emitter(Isa isa, Assembler& out, const GemmSpec& spec,
                                      const Tiling& tiling, const RegisterPlan& plan,
                                      bool fills_panel) {
  switch (isa) {
    case Isa::avx2:
      return std::make_unique<Avx2Emitter>(out, spec, tiling, plan, fills_panel);
    case Isa::avx_vnni:
      return std::make_unique<AvxVnniEmitter>(out, spec, tiling, plan, fills_panel);
    case Isa::avx512:
      return std::make_unique<Avx512Emitter>(out, spec, tiling, plan, fills_panel);
    case Isa::avx512_vnni:
      return std::make_unique<Avx512VnniEmitter>(out, spec, tiling, plan, fills_panel);
    case Isa::amx_int8:
      break;
  }
  fail("No emitter exists for {}.", isa_name(isa));
}

}  // namespace nibble::jit
