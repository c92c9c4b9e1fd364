// AVX2, and AVX-VNNI as its override.
#include "jit/emitter_isa.h"

namespace nibble::jit {

void Avx2Emitter::load_a(int i, int k) {
  const auto source = out_.ptr[a_address(i, k)];
  if (plan_.dot == DotKind::fma) {
    out_.vbroadcastss(reg(plan_.a), source);
    return;
  }
  if (plan_.dot == DotKind::bf16) {
    out_.vpbroadcastw(reg(plan_.a), source);
    out_.vpslld(reg(plan_.a), reg(plan_.a), 16);
    return;
  }
  out_.vpbroadcastd(reg(plan_.a), source);
  if (plan_.dot == DotKind::bytes) split_activations();
}

void Avx2Emitter::unpack(const Xbyak::Xmm& dst, const Xbyak::Operand& bits, int shift,
                         uint32_t mask) {
  // The mask register holds what begin() put there: 0x0f bytes or dwords.
  const bool in_register = plan_.mask_in_register && (mask & 0xffU) == 0x0fU;
  if (shift == 0 && in_register) {
    out_.vpand(dst, reg(plan_.mask), bits);
    return;
  }
  if (bits.isMEM() || shift == 0) out_.vmovups(dst, bits);
  if (shift != 0) out_.vpsrld(dst, bits.isMEM() ? dst : bits, shift);
  if (mask == 0xffffffffU >> shift) return;
  if (in_register) {
    out_.vpand(dst, dst, reg(plan_.mask));
  } else {
    out_.vpand(dst, dst, out_.constant(mask));
  }
}

void Avx2Emitter::dot(int i, int j, int k) {
  if (plan_.dot == DotKind::bf16) return dot_bf16(i, j, k);
  if (plan_.dot != DotKind::fma) return dot_without_vnni(i, j, k);
  for (int h = 0; h < plan_.halves; ++h) {
    out_.vfmadd231ps(f32(i, j, h), b(j, h), reg(plan_.a));
  }
}

namespace {

Xbyak::PreferredEncoding vnni_encoding() {
  return cpu().avx_vnni ? Xbyak::VexEncoding : Xbyak::EvexEncoding;
}

}  // namespace

void AvxVnniEmitter::dot(int i, int j, int k) {
  if (plan_.dot != DotKind::vnni) return Avx2Emitter::dot(i, j, k);
  for (int h = 0; h < plan_.halves; ++h) {
    out_.vpdpbusd(acc(i, j, h, k % plan_.chains), b(j, h), reg(plan_.a), vnni_encoding());
  }
}

void AvxVnniEmitter::dot_words(const Xbyak::Xmm& acc, const Xbyak::Xmm& words,
                               const Xbyak::RegExp& pair) {
  const Xbyak::Xmm pairs = reg(plan_.work + 1);
  out_.vpbroadcastd(pairs, out_.ptr[pair]);
  out_.vpdpwssd(acc, words, pairs, vnni_encoding());
}

}  // namespace nibble::jit
