#include "jit/compiler_math.h"

#include <array>
#include <numeric>

#include "jit/error.h"

namespace nibble::jit {
namespace {

using asmjit::ConstPoolScope;
using asmjit::Operand;
namespace Inst = asmjit::x86::Inst;
namespace x86 = asmjit::x86;

constexpr uint32_t kSignBit = 0x80000000U;
constexpr uint8_t kSwapPairs = 0x4E;       // dwords or qwords 2, 3, 0, 1
constexpr uint8_t kSwapNeighbours = 0xB1;  // 1, 0, 3, 2

bool is_wide(Isa isa) { return isa != Isa::avx2 && isa != Isa::avx_vnni; }

}  // namespace

CompilerMath::CompilerMath(Isa isa) : wide_(is_wide(isa)) {
  code_.init(asmjit::Environment::host());
  code_.setErrorHandler(this);
  code_.attach(&cc_);
  auto* function =
      cc_.addFunc(asmjit::FuncSignatureT<void, const void*>(asmjit::CallConvId::kHost));
  function->frame().setAvxEnabled();
  function->frame().setAvxCleanup();
  if (wide_) function->frame().setAvx512Enabled();
  args_ = cc_.newIntPtr("args");
  function->setArg(0, args_);
}

void CompilerMath::handleError(asmjit::Error error, const char* message, asmjit::BaseEmitter*) {
  fail("asmjit refused a generated instruction ({}): {}.", error, message);
}

std::vector<uint8_t> CompilerMath::finish() {
  cc_.endFunc();
  cc_.finalize();
  code_.flatten();
  code_.resolveUnresolvedLinks();
  if (code_.hasRelocEntries()) {
    fail("A generated kernel holds an absolute address, expected only addresses relative to rip.");
  }
  std::vector<uint8_t> bytes(code_.codeSize());
  code_.copyFlattenedData(bytes.data(), bytes.size());
  return bytes;
}

CompilerMath::Vec CompilerMath::new_vec() {
  if (wide_) return cc_.newZmm();
  return cc_.newYmm();
}

CompilerMath::Reg CompilerMath::fresh() {
  Reg r;
  for (int p = 0; p < parts(); ++p) r.part[p] = new_vec();
  return r;
}

CompilerMath::Reg CompilerMath::imm_bits(uint32_t bits) {
  Reg r;
  r.constant = true;
  r.bits = bits;
  return r;
}

CompilerMath::Mem CompilerMath::pool(uint32_t bits) {
  if (wide_) return cc_.newConst(ConstPoolScope::kLocal, &bits, sizeof(bits));
  std::array<uint32_t, 8> lanes;
  lanes.fill(bits);
  return cc_.newConst(ConstPoolScope::kLocal, lanes.data(), sizeof(lanes));
}

CompilerMath::Vec CompilerMath::vec(const Reg& a, int part) {
  if (!a.constant) return a.part[part];
  Vec v = new_vec();
  if (a.bits == 0) {
    cc_.vxorps(v, v, v);
  } else if (wide_) {
    cc_.vbroadcastss(v, pool(a.bits));
  } else {
    cc_.vmovups(v, pool(a.bits));
  }
  return v;
}

// A source that may be a memory operand: constants come straight from the pool.
Operand CompilerMath::operand(const Reg& a, int part) {
  if (!a.constant) return a.part[part];
  Mem m = pool(a.bits);
  return wide_ ? m._1to16() : m;
}

CompilerMath::Reg CompilerMath::binary(uint32_t instruction, const Reg& a, const Reg& b) {
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) cc_.emit(instruction, r.part[p], vec(a, p), operand(b, p));
  return r;
}

CompilerMath::Reg CompilerMath::commutative(uint32_t instruction, const Reg& a, const Reg& b) {
  return a.constant ? binary(instruction, b, a) : binary(instruction, a, b);
}

CompilerMath::Reg CompilerMath::unary(uint32_t instruction, const Reg& a) {
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) cc_.emit(instruction, r.part[p], vec(a, p));
  return r;
}

CompilerMath::Reg CompilerMath::add(const Reg& a, const Reg& b) {
  return commutative(Inst::kIdVaddps, a, b);
}
CompilerMath::Reg CompilerMath::sub(const Reg& a, const Reg& b) {
  return binary(Inst::kIdVsubps, a, b);
}
CompilerMath::Reg CompilerMath::mul(const Reg& a, const Reg& b) {
  return commutative(Inst::kIdVmulps, a, b);
}
CompilerMath::Reg CompilerMath::div(const Reg& a, const Reg& b) {
  return binary(Inst::kIdVdivps, a, b);
}
CompilerMath::Reg CompilerMath::max(const Reg& a, const Reg& b) {
  return binary(Inst::kIdVmaxps, a, b);
}
CompilerMath::Reg CompilerMath::min(const Reg& a, const Reg& b) {
  return binary(Inst::kIdVminps, a, b);
}

CompilerMath::Reg CompilerMath::fma(const Reg& a, const Reg& b, const Reg& c) {
  if (a.constant && !b.constant) return fma(b, a, c);
  Reg r;
  if (c.constant) {
    r = accumulator(a);
    for (int p = 0; p < parts(); ++p) {
      cc_.emit(Inst::kIdVfmadd213ps, r.part[p], vec(b, p), operand(c, p));
    }
  } else {
    r = accumulator(c);
    fma_into(r, a, b);
  }
  return r;
}

void CompilerMath::fma_into(const Reg& acc, const Reg& a, const Reg& b) {
  for (int p = 0; p < parts(); ++p) {
    cc_.emit(Inst::kIdVfmadd231ps, acc.part[p], vec(a, p), operand(b, p));
  }
}

CompilerMath::Reg CompilerMath::round(const Reg& a) {
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) {
    if (wide_) {
      cc_.vrndscaleps(r.part[p], vec(a, p), 8);
    } else {
      cc_.vroundps(r.part[p], vec(a, p), 8);
    }
  }
  return r;
}

CompilerMath::Reg CompilerMath::pow2(const Reg& a) {
  Reg biased = int_add(to_int(a), imm_bits(127));
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) cc_.vpslld(r.part[p], biased.part[p], 23);
  return r;
}

CompilerMath::Reg CompilerMath::abs(const Reg& a) {
  return binary(Inst::kIdVandps, a, imm_bits(~kSignBit));
}
CompilerMath::Reg CompilerMath::neg(const Reg& a) {
  return binary(Inst::kIdVxorps, a, imm_bits(kSignBit));
}
CompilerMath::Reg CompilerMath::sqrt(const Reg& a) { return unary(Inst::kIdVsqrtps, a); }
CompilerMath::Reg CompilerMath::to_int(const Reg& a) { return unary(Inst::kIdVcvtps2dq, a); }
CompilerMath::Reg CompilerMath::to_float(const Reg& a) { return unary(Inst::kIdVcvtdq2ps, a); }
CompilerMath::Reg CompilerMath::int_add(const Reg& a, const Reg& b) {
  return commutative(Inst::kIdVpaddd, a, b);
}
CompilerMath::Reg CompilerMath::int_max(const Reg& a, const Reg& b) {
  return commutative(Inst::kIdVpmaxsd, a, b);
}

CompilerMath::Reg CompilerMath::accumulator(const Reg& init) {
  Reg r = fresh();
  assign(r, init);
  return r;
}

void CompilerMath::assign(const Reg& to, const Reg& from) {
  for (int p = 0; p < parts(); ++p) {
    if (!from.constant) {
      cc_.vmovaps(to.part[p], from.part[p]);
    } else if (from.bits == 0) {
      cc_.vxorps(to.part[p], to.part[p], to.part[p]);
    } else if (wide_) {
      cc_.vbroadcastss(to.part[p], pool(from.bits));
    } else {
      cc_.vmovups(to.part[p], pool(from.bits));
    }
  }
}

CompilerMath::Reg CompilerMath::load(const Mem& from, const Mask* mask) {
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) {
    const Mem m = from.cloneAdjusted(32 * p);
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
    const Mem m = to.cloneAdjusted(32 * p);
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

void CompilerMath::store_int8(const Mem& to, const Reg& a, int count) {
  x86::Xmm bytes = cc_.newXmm();
  if (wide_) {
    cc_.vpmovsdb(bytes, vec(a, 0));
  } else {
    // vpackssdw works within 128 bits: dwords 0-3, 8-11 | 4-7, 12-15, put in order by vpermq.
    Vec words = new_vec();
    x86::Xmm high = cc_.newXmm();
    cc_.vpackssdw(words, vec(a, 0), vec(a, 1));
    cc_.vpermq(words, words, 0xD8);
    cc_.vextracti128(high, words, 1);
    cc_.vpacksswb(bytes, words.xmm(), high);
  }
  if (count == 8) {
    cc_.vmovq(to, bytes);
  } else {
    cc_.vmovups(to, bytes);
  }
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
    cc_.vmaskmovps(four, lanes, from.cloneAdjusted(16 * p));
    cc_.vpmovzxdq(r.part[p], four);
    cc_.vmovsldup(r.part[p], r.part[p]);
  }
  return r;
}

CompilerMath::Reg CompilerMath::swap_neighbours(const Reg& a) {
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) cc_.vpermilps(r.part[p], vec(a, p), kSwapNeighbours);
  return r;
}

CompilerMath::Reg CompilerMath::fma_sub_add(const Reg& a, const Reg& b, const Reg& c) {
  Reg r = accumulator(a);
  for (int p = 0; p < parts(); ++p) cc_.vfmaddsub213ps(r.part[p], vec(b, p), vec(c, p));
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
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) {
    const Vec y = vec(yes, p);
    const Vec n = vec(no, p);
    if (wide_) {
      cc_.k(mask.k).vblendmps(r.part[p], n, y);
    } else {
      cc_.vblendvps(r.part[p], n, y, mask.part[p]);
    }
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

// Each step pairs lane l with lane l xor 8, 4, 2, 1. The operations commute, so every lane ends
// with lane 0's tree.
CompilerMath::Reg CompilerMath::reduce(uint32_t instruction, const Reg& a) {
  Vec x = new_vec();
  Vec y = new_vec();
  if (wide_) {
    cc_.vshuff64x2(y, a.part[0], a.part[0], kSwapPairs);
    cc_.emit(instruction, x, a.part[0], y);
    cc_.vshuff64x2(y, x, x, kSwapNeighbours);
    cc_.emit(instruction, x, x, y);
  } else {
    cc_.emit(instruction, x, a.part[0], a.part[1]);
    cc_.vperm2f128(y, x, x, 1);
    cc_.emit(instruction, x, x, y);
  }
  cc_.vpermilps(y, x, kSwapPairs);
  cc_.emit(instruction, x, x, y);
  cc_.vpermilps(y, x, kSwapNeighbours);
  cc_.emit(instruction, x, x, y);
  Reg r;
  r.part[0] = x;
  r.part[1] = x;
  return r;
}

CompilerMath::Reg CompilerMath::reduce_add(const Reg& a) { return reduce(Inst::kIdVaddps, a); }
CompilerMath::Reg CompilerMath::reduce_max(const Reg& a) { return reduce(Inst::kIdVmaxps, a); }
CompilerMath::Reg CompilerMath::reduce_int_add(const Reg& a) { return reduce(Inst::kIdVpaddd, a); }
CompilerMath::Reg CompilerMath::reduce_int_max(const Reg& a) { return reduce(Inst::kIdVpmaxsd, a); }

void CompilerMath::loop(const Gp& i, const Gp& end, int64_t step, const Body& body) {
  Label top = cc_.newLabel();
  Label done = cc_.newLabel();
  cc_.cmp(i, end);
  cc_.jge(done);
  cc_.bind(top);
  body();
  cc_.add(i, step);
  cc_.cmp(i, end);
  cc_.jl(top);
  cc_.bind(done);
}

void CompilerMath::loop(const Gp& i, int64_t count, int64_t step, const Body& body) {
  if (count <= 0) return;
  if (count <= step) {
    body();
    cc_.add(i, step);
    return;
  }
  Gp end = gp("end");
  cc_.lea(end, x86::ptr(i, static_cast<int32_t>(count)));
  Label top = cc_.newLabel();
  cc_.bind(top);
  body();
  cc_.add(i, step);
  cc_.cmp(i, end);
  cc_.jl(top);
}

void CompilerMath::blocks(const Gp& i, int64_t count, const BlockBody& body) {
  const int lanes = static_cast<int>(count % 16);
  loop(i, count - lanes, 16, [&] { body(nullptr, 16); });
  if (lanes == 0) return;
  const Mask mask = first_lanes(lanes);
  body(&mask, lanes);
}

void CompilerMath::blocks(const Gp& i, const Gp& count, const BlockBody& body) {
  Label done = cc_.newLabel();
  Gp whole = gp("whole");
  cc_.xor_(i.r32(), i.r32());
  cc_.mov(whole, count);
  cc_.and_(whole, -16);
  loop(i, whole, 16, [&] { body(nullptr, 16); });
  cc_.mov(whole, count);
  cc_.and_(whole, 15);
  cc_.jz(done);
  const Mask mask = first_lanes(whole);
  body(&mask, 0);
  cc_.bind(done);
}

CompilerMath::Gp CompilerMath::load_gp(const Mem& from, const char* name) {
  Gp r = gp(name);
  cc_.mov(r, from);
  return r;
}

CompilerMath::Gp CompilerMath::zero_gp(const char* name) {
  Gp r = gp(name);
  cc_.xor_(r.r32(), r.r32());
  return r;
}

}  // namespace nibble::jit
