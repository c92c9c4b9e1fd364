// AVX-512 with BW, and AVX512-VNNI as its override.
#include <bit>

#include "jit/emitter_isa.h"

namespace nibble::jit {

void Avx512Emitter::begin() {
  Emitter::begin();
  if (plan_.dot != DotKind::bf16) return;
  constexpr uint32_t kHighWords = 0xaaaaaaaaU;
  out_.mov(loop_counter().cvt32(), kHighWords);
  out_.kmovd(high_words_, loop_counter().cvt32());
  if (spec_.weight.type != WeightType::u4) return;
  Assembler::Line values{};
  for (uint32_t q = 0; q < values.size(); ++q) {
    const float zero = nibbles_are_centred() ? 8.0F : 0.0F;
    values[q] = std::bit_cast<uint32_t>(static_cast<float>(q) - zero);
  }
  out_.vmovups(reg(plan_.table), out_.constant(values));
}

void Avx512Emitter::load_a(int i, int k) {
  if (plan_.embed_a) return;
  const auto source = out_.ptr[a_address(i, k)];
  if (plan_.dot == DotKind::bf16) {
    out_.vpbroadcastw(reg(plan_.a) | high_words_ | out_.T_z, source);
    return;
  }
  if (plan_.dot == DotKind::fma) {
    out_.vbroadcastss(reg(plan_.a), source);
    return;
  }
  out_.vpbroadcastd(reg(plan_.a), source);
  if (plan_.dot == DotKind::bytes) split_activations();
}

void Avx512Emitter::unpack(const Xbyak::Xmm& dst, const Xbyak::Operand& bits, int shift,
                           uint32_t mask) {
  const bool in_register = plan_.mask_in_register && (mask & 0xffU) == 0x0fU;
  if (shift == 0 && in_register) {
    out_.vpandd(dst, reg(plan_.mask), bits);
    return;
  }
  if (shift == 0) {
    out_.vmovups(dst, bits);
  } else {
    out_.vpsrld(dst, bits, shift);
  }
  if (mask == 0xffffffffU >> shift) return;
  if (in_register) {
    out_.vpandd(dst, dst, reg(plan_.mask));
  } else {
    out_.vpandd(dst, dst, out_.constant(mask));
  }
}

// vpermps looks at the low four bits of its indices alone.
void Avx512Emitter::unpack_nibbles(const Xbyak::Xmm& dst, const Xbyak::RegExp& bits, int shift) {
  if (plan_.dot != DotKind::bf16) return Emitter::unpack_nibbles(dst, bits, shift);
  const Xbyak::Zmm values(dst.getIdx());
  if (shift == 0) {
    out_.vmovups(values, out_.ptr[bits]);
  } else {
    out_.vpsrld(values, out_.ptr[bits], shift);
  }
  out_.vpermps(values, values, Xbyak::Zmm(plan_.table));
}

void Avx512Emitter::dot(int i, int j, int k) {
  if (plan_.dot == DotKind::bf16) return dot_bf16(i, j, k);
  if (plan_.dot != DotKind::fma) return dot_without_vnni(i, j, k);
  if (plan_.embed_a) {
    out_.vfmadd231ps(f32(i, j, 0), b(j, 0), out_.ptr_b[a_address(i, k)]);
  } else {
    out_.vfmadd231ps(f32(i, j, 0), b(j, 0), reg(plan_.a));
  }
}

void Avx512VnniEmitter::dot(int i, int j, int k) {
  if (plan_.dot != DotKind::vnni) return Avx512Emitter::dot(i, j, k);
  const Xbyak::Xmm sum = acc(i, j, 0, k % plan_.chains);
  if (plan_.embed_a) {
    out_.vpdpbusd(sum, b(j, 0), out_.ptr_b[a_address(i, k)]);
  } else {
    out_.vpdpbusd(sum, b(j, 0), reg(plan_.a));
  }
}

void Avx512VnniEmitter::dot_words(const Xbyak::Xmm& acc, const Xbyak::Xmm& words,
                                  const Xbyak::RegExp& pair) {
  out_.vpdpwssd(acc, words, out_.ptr_b[pair]);
}

}  // namespace nibble::jit
