// Memory and masks of the 16-lane machine.
#include <array>
#include <numeric>

#include "jit/compiler_math.h"

namespace nibble::jit {
namespace {

using asmjit::ConstPoolScope;
namespace Inst = asmjit::x86::Inst;
namespace x86 = asmjit::x86;

}  // namespace

CompilerMath::Reg CompilerMath::load(const Mem& from, const Mask* mask) {
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) {
    const Mem m = from.cloneAdjusted(int64_t{32} * p);
    if (mask == nullptr) {
      cc_.vmovups(r.part[p], m);
    } else if (wide_) {
      cc_.k(mask->k).z().vmovups(r.part[p], m);
    } else {
      cc_.vmaskmovps(r.part[p], mask->part[p], m);
    }
  }
  return r;
}

void CompilerMath::store(const Mem& to, const Reg& a, const Mask* mask) {
  for (int p = 0; p < parts(); ++p) {
    const Mem m = to.cloneAdjusted(int64_t{32} * p);
    if (mask == nullptr) {
      cc_.vmovups(m, vec(a, p));
    } else if (wide_) {
      const Vec value = vec(a, p);
      cc_.k(mask->k).vmovups(m, value);
    } else {
      cc_.vmaskmovps(m, mask->part[p], vec(a, p));
    }
  }
}

CompilerMath::Reg CompilerMath::broadcast(const Mem& from) {
  Reg r;
  r.part[0] = new_vec();
  r.part[1] = r.part[0];
  cc_.vbroadcastss(r.part[0], from);
  return r;
}

CompilerMath::Reg CompilerMath::broadcast(const Gp& value) {
  Reg r;
  r.part[0] = new_vec();
  r.part[1] = r.part[0];
  if (wide_) {
    cc_.vpbroadcastd(r.part[0], value.r32());
  } else {
    x86::Xmm low = cc_.newXmm();
    cc_.vmovd(low, value.r32());
    cc_.vpbroadcastd(r.part[0], low);
  }
  return r;
}

void CompilerMath::store_lane0(const Mem& to, const Reg& a) { cc_.vmovss(to, vec(a, 0).xmm()); }

x86::Xmm CompilerMath::bytes_of(const Reg& a, const Narrowing& by) {
  x86::Xmm bytes = cc_.newXmm();
  if (wide_) {
    cc_.emit(by.to_bytes, bytes, vec(a, 0));
  } else {
    // Packing works within 128 bits: dwords 0-3, 8-11 | 4-7, 12-15, put in order by vpermq.
    Vec words = new_vec();
    x86::Xmm high = cc_.newXmm();
    cc_.emit(by.to_words, words, vec(a, 0), vec(a, 1));
    cc_.vpermq(words, words, 0xD8);
    cc_.vextracti128(high, words, 1);
    cc_.emit(by.words_to_bytes, bytes, words.xmm(), high);
  }
  return bytes;
}

void CompilerMath::store_int8(const Mem& to, const Reg& a, int count) {
  const x86::Xmm bytes = bytes_of(a, {Inst::kIdVpmovsdb, Inst::kIdVpackssdw, Inst::kIdVpacksswb});
  if (count == 8) {
    cc_.vmovq(to, bytes);
  } else {
    cc_.vmovups(to, bytes);
  }
}

void CompilerMath::store_words(const Mem& to, const Reg& a, int count) {
  x86::Ymm words = cc_.newYmm();
  if (wide_) {
    cc_.vpmovdw(words, vec(a, 0));
  } else {
    // vpackusdw works within 128 bits, as vpackssdw does above.
    cc_.vpackusdw(words, vec(a, 0), vec(a, 1));
    cc_.vpermq(words, words, 0xD8);
  }
  if (count == 8) {
    cc_.vmovups(to, words.xmm());
  } else {
    cc_.vmovups(to, words);
  }
}

// `count` < 8 words, zeros behind them. AVX2 has no masked 16-bit loads: they are put together from
// qword, dword and word.
void CompilerMath::load_words(const x86::Xmm& words, const Mem& from, int count) {
  const auto at = [&](int word) { return from.cloneAdjusted(int64_t{2} * word); };
  int next = 0;
  cc_.vpxor(words, words, words);
  for (; count - next >= 4; next += 4) cc_.vpinsrq(words, words, at(next), 0);
  for (; count - next >= 2; next += 2) cc_.vpinsrd(words, words, at(next), next / 2);
  if (count > next) cc_.vpinsrw(words, words, at(next), next);
}

CompilerMath::Reg CompilerMath::load_half(const Mem& from, int count) {
  Reg r = fresh();
  if (wide_) {
    if (count == 16) {
      cc_.vcvtph2ps(r.part[0], from);
    } else {
      const Mask mask = first_lanes(count);
      x86::Ymm halves = cc_.newYmm();
      cc_.k(mask.k).z().vmovdqu16(halves, from);
      cc_.vcvtph2ps(r.part[0], halves);
    }
    return r;
  }
  for (int p = 0; p < 2; ++p) {
    const int here = count - 8 * p;
    const Mem m = from.cloneAdjusted(int64_t{16} * p);
    if (here >= 8) {
      cc_.vcvtph2ps(r.part[p], m);
      continue;
    }
    x86::Xmm halves = cc_.newXmm();
    load_words(halves, m, here);
    cc_.vcvtph2ps(r.part[p], halves);
  }
  return r;
}

CompilerMath::Reg CompilerMath::load_bfloat(const Mem& from, int count) {
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) {
    const int lanes = 16 / parts();
    const int here = count - lanes * p;
    Mem m = from.cloneAdjusted(int64_t{2} * lanes * p);
    m.setSize(static_cast<uint32_t>(2 * lanes));
    if (here >= lanes) {
      cc_.vpmovzxwd(r.part[p], m);
    } else if (wide_) {
      const Mask mask = first_lanes(count);
      cc_.k(mask.k).z().vpmovzxwd(r.part[p], m);
    } else {
      x86::Xmm words = cc_.newXmm();
      m.setSize(0);
      load_words(words, m, here);
      cc_.vpmovzxwd(r.part[p], words);
    }
    cc_.vpslld(r.part[p], r.part[p], 16);
  }
  return r;
}

void CompilerMath::store_int16(const Mem& to, const Reg& a) {
  x86::Ymm words = cc_.newYmm();
  if (wide_) {
    cc_.vpmovsdw(words, vec(a, 0));
  } else {
    // vpackssdw works within 128 bits: dwords 0-3, 8-11 | 4-7, 12-15, put in order by vpermq.
    cc_.vpackssdw(words, vec(a, 0), vec(a, 1));
    cc_.vpermq(words, words, 0xD8);
  }
  cc_.vmovups(to, words);
}

void CompilerMath::store_int16_even_odd(const Mem& to, const Reg& a) {
  constexpr uint8_t kEvenThenOdd = 0xD8;  // 0, 2, 1, 3
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) cc_.vpshufd(r.part[p], vec(a, p), kEvenThenOdd);
  store_int16(to, r);
}

void CompilerMath::store_uint8(const Mem& to, const Reg& a) {
  cc_.vmovups(to, bytes_of(a, {Inst::kIdVpmovusdb, Inst::kIdVpackusdw, Inst::kIdVpackuswb}));
}

// Packing works within 128 bits, which is what puts the registers' dwords side by side.
void CompilerMath::store_four_uint8(const Mem& to, std::span<const Reg, 4> a) {
  Vec low = new_vec();
  Vec high = new_vec();
  cc_.vpackusdw(low, vec(a[0], 0), vec(a[1], 0));
  cc_.vpackusdw(high, vec(a[2], 0), vec(a[3], 0));
  cc_.vpackuswb(low, low, high);
  cc_.vmovups(to, low);
}

// Eight floats zero-extended to qwords, then the low dword copied over the high one.
CompilerMath::Reg CompilerMath::load_twice(const Mem& from, int count) {
  Reg r = fresh();
  if (wide_) {
    Mem m = from;
    m.setSize(32);
    if (count == 8) {
      cc_.vpmovzxdq(r.part[0], m);
    } else {
      const Mask mask = first_lanes(count);
      cc_.k(mask.k).z().vpmovzxdq(r.part[0], m);
    }
    cc_.vmovsldup(r.part[0], r.part[0]);
    return r;
  }
  const Mask mask = first_lanes(count);
  for (int p = 0; p < 2; ++p) {
    // Four floats each; the mask of part 0 covers all eight.
    x86::Xmm four = cc_.newXmm();
    x86::Xmm lanes = cc_.newXmm();
    if (p == 0) {
      cc_.vmovups(lanes, mask.part[0].xmm());
    } else {
      cc_.vextractf128(lanes, mask.part[0], 1);
    }
    cc_.vmaskmovps(four, lanes, from.cloneAdjusted(int64_t{16} * p));
    cc_.vpmovzxdq(r.part[p], four);
    cc_.vmovsldup(r.part[p], r.part[p]);
  }
  return r;
}

CompilerMath::Reg CompilerMath::iota() {
  std::array<uint32_t, 16> lanes;
  std::iota(lanes.begin(), lanes.end(), 0U);
  return load(cc_.newConst(ConstPoolScope::kLocal, lanes.data(), sizeof(lanes)));
}

CompilerMath::Mask CompilerMath::first_lanes(int count) {
  Mask mask;
  if (wide_) {
    Gp ones = gp("lanes");
    cc_.mov(ones.r32(), (1 << count) - 1);
    mask.k = cc_.newKw();
    cc_.kmovw(mask.k, ones.r32());
    return mask;
  }
  for (int p = 0; p < 2; ++p) {
    std::array<uint32_t, 8> lanes;
    for (int l = 0; l < 8; ++l) lanes[static_cast<size_t>(l)] = p * 8 + l < count ? ~0U : 0U;
    mask.part[p] = new_vec();
    cc_.vmovups(mask.part[p], cc_.newConst(ConstPoolScope::kLocal, lanes.data(), sizeof(lanes)));
  }
  return mask;
}

CompilerMath::Mask CompilerMath::first_lanes(const Gp& count) {
  return int_greater(broadcast(count), iota());
}

CompilerMath::Mask CompilerMath::int_greater(const Reg& a, const Reg& b) {
  Mask mask;
  if (wide_) {
    mask.k = cc_.newKw();
    cc_.emit(Inst::kIdVpcmpgtd, mask.k, vec(a, 0), operand(b, 0));
    return mask;
  }
  for (int p = 0; p < 2; ++p) {
    mask.part[p] = new_vec();
    cc_.emit(Inst::kIdVpcmpgtd, mask.part[p], vec(a, p), operand(b, p));
  }
  return mask;
}

CompilerMath::Mask CompilerMath::not_less(const Reg& a, const Reg& b) {
  constexpr uint8_t kNotLess = 0x15;  // quiet
  Mask mask;
  if (wide_) {
    mask.k = cc_.newKw();
    cc_.emit(Inst::kIdVcmpps, mask.k, vec(a, 0), operand(b, 0), asmjit::Imm(kNotLess));
    return mask;
  }
  for (int p = 0; p < 2; ++p) {
    mask.part[p] = new_vec();
    cc_.emit(Inst::kIdVcmpps, mask.part[p], vec(a, p), operand(b, p), asmjit::Imm(kNotLess));
  }
  return mask;
}

CompilerMath::Mask CompilerMath::both(const Mask& a, const Mask& b) {
  Mask mask;
  if (wide_) {
    mask.k = cc_.newKw();
    cc_.kandw(mask.k, a.k, b.k);
    return mask;
  }
  for (int p = 0; p < 2; ++p) {
    mask.part[p] = new_vec();
    cc_.vandps(mask.part[p], a.part[p], b.part[p]);
  }
  return mask;
}

CompilerMath::Reg CompilerMath::select(const Mask& mask, const Reg& yes, const Reg& no) {
  if (wide_) {
    // Not vblendmps, whose destination asmjit takes for a source.
    Reg r = accumulator(no);
    const Vec y = vec(yes, 0);
    cc_.k(mask.k).vmovaps(r.part[0], y);
    return r;
  }
  Reg r = fresh();
  for (int p = 0; p < 2; ++p) {
    const Vec n = vec(no, p);
    cc_.vblendvps(r.part[p], n, vec(yes, p), mask.part[p]);
  }
  return r;
}

CompilerMath::Reg CompilerMath::keep(const Mask& mask, const Reg& a) {
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) {
    const Vec value = vec(a, p);
    if (wide_) {
      cc_.k(mask.k).z().vmovaps(r.part[p], value);
    } else {
      cc_.vandps(r.part[p], value, mask.part[p]);
    }
  }
  return r;
}

}  // namespace nibble::jit
