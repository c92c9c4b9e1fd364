#include "jit/compiler_math.h"

#include <array>

#include "jit/error.h"
#include "jit/float16.h"
#include "jit/vector_math.h"

namespace nibble::jit {
namespace {

using asmjit::ConstPoolScope;
using asmjit::Operand;
namespace Inst = asmjit::x86::Inst;
namespace x86 = asmjit::x86;

constexpr uint8_t kSwapPairs = 0x4E;       // dwords or qwords 2, 3, 0, 1
constexpr uint8_t kSwapNeighbours = 0xB1;  // 1, 0, 3, 2
// 128-bit quarters that vshuff64x2 takes: two of its first operand, two of its second.
constexpr uint8_t kLowHalves = 0x44, kHighHalves = 0xEE;
constexpr uint8_t kEvenQuarters = 0x88, kOddQuarters = 0xDD;

bool is_wide(Isa isa) { return isa != Isa::avx2 && isa != Isa::avx_vnni; }

}  // namespace

CompilerMath::CompilerMath(Isa isa)
    : wide_(is_wide(isa)),
      vnni_(isa != Isa::avx2 && isa != Isa::avx512),
      vex_(isa == Isa::avx_vnni && cpu().avx_vnni) {
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

void CompilerMath::hold(std::span<const float> values) {
  if (!wide_) return;
  for (const float value : values) {
    Reg r = imm(value);
    r.part[0] = vec(r, 0);
    held_.push_back(r);
  }
}

const CompilerMath::Vec* CompilerMath::held(uint32_t bits) const {
  for (const Reg& r : held_) {
    if (r.bits == bits) return &r.part[0];
  }
  return nullptr;
}

CompilerMath::Vec CompilerMath::vec(const Reg& a, int part) {
  if (!a.constant) return a.part[part];
  if (const Vec* v = held(a.bits)) return *v;
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
  if (const Vec* v = held(a.bits)) return *v;
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
// A vector's division holds the divider for as many steps as it has lanes.
CompilerMath::Reg CompilerMath::div_uniform(const Reg& a, const Reg& b) {
  const asmjit::x86::Xmm one = cc_.newXmm();
  cc_.vdivss(one, vec(a, 0).xmm(), vec(b, 0).xmm());
  Reg r;
  r.part[0] = new_vec();
  r.part[1] = r.part[0];
  cc_.vbroadcastss(r.part[0], one);
  return r;
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

// Without VNNI the pair's products are added by vpmaddwd, which only leaves int32 where VNNI's sum
// wraps too: at -32768 * -32768 twice.
void CompilerMath::dot_int16(const Reg& acc, const Reg& a, const Reg& b) {
  for (int p = 0; p < parts(); ++p) {
    if (vnni_) {
      if (vex_) cc_.vex();
      cc_.vpdpwssd(acc.part[p], a.part[p], b.part[p]);
    } else {
      const Vec products = new_vec();
      cc_.vpmaddwd(products, a.part[p], b.part[p]);
      cc_.vpaddd(acc.part[p], acc.part[p], products);
    }
  }
}

void CompilerMath::dot_int8(const Reg& acc, const Reg& a, const Reg& b) {
  for (int p = 0; p < parts(); ++p) {
    if (vex_) cc_.vex();
    cc_.vpdpbusd(acc.part[p], a.part[p], b.part[p]);
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

CompilerMath::Reg CompilerMath::scale_pow2(const Reg& p, const Reg& n) {
  const Reg shifted = to_int(n);
  for (int part = 0; part < parts(); ++part) cc_.vpslld(shifted.part[part], shifted.part[part], 23);
  return int_add(p, shifted);
}

CompilerMath::Reg CompilerMath::add_exponent(const Reg& p, const Reg& t) {
  return int_add(p, shift_left(t, 23));
}

CompilerMath::Reg CompilerMath::abs(const Reg& a) {
  return binary(Inst::kIdVandps, a, imm_bits(~kSignBit));
}
CompilerMath::Reg CompilerMath::neg(const Reg& a) {
  return binary(Inst::kIdVxorps, a, imm_bits(kSignBit));
}
CompilerMath::Reg CompilerMath::sqrt(const Reg& a) { return unary(Inst::kIdVsqrtps, a); }
CompilerMath::Reg CompilerMath::to_int(const Reg& a) { return unary(Inst::kIdVcvtps2dq, a); }

CompilerMath::Reg CompilerMath::to_int(const Mask& mask, const Reg& a) {
  if (!wide_) return keep(mask, to_int(a));
  Reg r = fresh();
  const Vec value = vec(a, 0);
  cc_.k(mask.k).z().vcvtps2dq(r.part[0], value);
  return r;
}
CompilerMath::Reg CompilerMath::to_float(const Reg& a) { return unary(Inst::kIdVcvtdq2ps, a); }
CompilerMath::Reg CompilerMath::int_add(const Reg& a, const Reg& b) {
  return commutative(Inst::kIdVpaddd, a, b);
}
CompilerMath::Reg CompilerMath::int_max(const Reg& a, const Reg& b) {
  return commutative(Inst::kIdVpmaxsd, a, b);
}

CompilerMath::Reg CompilerMath::shift(uint32_t instruction, const Reg& a, int bits) {
  Reg r = fresh();
  for (int p = 0; p < parts(); ++p) {
    cc_.emit(instruction, r.part[p], vec(a, p), asmjit::Imm(bits));
  }
  return r;
}

CompilerMath::Reg CompilerMath::shift_left(const Reg& a, int bits) {
  return shift(Inst::kIdVpslld, a, bits);
}
CompilerMath::Reg CompilerMath::shift_right(const Reg& a, int bits) {
  return shift(Inst::kIdVpsrld, a, bits);
}
CompilerMath::Reg CompilerMath::shift_words_left(const Reg& a, int bits) {
  return shift(Inst::kIdVpsllw, a, bits);
}
CompilerMath::Reg CompilerMath::shift_words_right(const Reg& a, int bits) {
  return shift(Inst::kIdVpsrlw, a, bits);
}
CompilerMath::Reg CompilerMath::shift_words_right_signed(const Reg& a, int bits) {
  return shift(Inst::kIdVpsraw, a, bits);
}

CompilerMath::Reg CompilerMath::bit_and(const Reg& a, const Reg& b) {
  return commutative(Inst::kIdVandps, a, b);
}
CompilerMath::Reg CompilerMath::bit_or(const Reg& a, const Reg& b) {
  return commutative(Inst::kIdVorps, a, b);
}

CompilerMath::Reg CompilerMath::to_bf16_activation(const Reg& a) {
  return to_bf16(a, kLeastBf16Activation);
}
CompilerMath::Reg CompilerMath::to_bf16_factor(const Reg& a) {
  return to_bf16(a, kLeastBf16Factor);
}

CompilerMath::Reg CompilerMath::to_bf16(const Reg& a, float least) {
  constexpr uint32_t kInfinity = 0x7F800000U, kNan = 0x7FC0U;
  const Reg magnitude = abs(a);
  const Reg odd = bit_and(shift_right(a, 16), imm_bits(1));
  const Reg rounded = shift_right(int_add(int_add(a, odd), imm_bits(0x7FFF)), 16);
  const uint32_t below = std::bit_cast<uint32_t>(least) - 1;
  const Reg kept = keep(int_greater(magnitude, imm_bits(below)), rounded);
  return select(int_greater(magnitude, imm_bits(kInfinity)), imm_bits(kNan), kept);
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

// Lanes l and l + 8 of a, then of b.
CompilerMath::Reg CompilerMath::reduce_two(uint32_t instruction, const Reg& a, const Reg& b) {
  const Vec high = new_vec();
  Reg r = fresh();
  cc_.vshuff64x2(r.part[0], vec(a, 0), vec(b, 0), kLowHalves);
  cc_.vshuff64x2(high, vec(a, 0), vec(b, 0), kHighHalves);
  cc_.emit(instruction, r.part[0], r.part[0], high);
  return r;
}

// Lanes l and l + 4 of four rows of 8 lanes, then the last two steps within their four.
CompilerMath::Reg CompilerMath::reduce_rows(uint32_t instruction, const Reg& ab, const Reg& cd) {
  const Vec other = new_vec();
  Reg r = fresh();
  cc_.vshuff64x2(r.part[0], vec(ab, 0), vec(cd, 0), kEvenQuarters);
  cc_.vshuff64x2(other, vec(ab, 0), vec(cd, 0), kOddQuarters);
  cc_.emit(instruction, r.part[0], r.part[0], other);
  for (const uint8_t swap : {kSwapPairs, kSwapNeighbours}) {
    cc_.vpermilps(other, r.part[0], swap);
    cc_.emit(instruction, r.part[0], r.part[0], other);
  }
  return r;
}

CompilerMath::Reg CompilerMath::reduce_two_add(const Reg& a, const Reg& b) {
  return reduce_two(Inst::kIdVaddps, a, b);
}
CompilerMath::Reg CompilerMath::reduce_two_max(const Reg& a, const Reg& b) {
  return reduce_two(Inst::kIdVmaxps, a, b);
}
CompilerMath::Reg CompilerMath::reduce_rows_add(const Reg& ab, const Reg& cd) {
  return reduce_rows(Inst::kIdVaddps, ab, cd);
}
CompilerMath::Reg CompilerMath::reduce_rows_max(const Reg& ab, const Reg& cd) {
  return reduce_rows(Inst::kIdVmaxps, ab, cd);
}

// Every fourth dword, by taking every second one twice.
void CompilerMath::store_rows(const Mem& to, const Reg& rows) {
  const asmjit::x86::Ymm pairs = cc_.newYmm();
  const asmjit::x86::Xmm singles = cc_.newXmm();
  cc_.vpmovqd(pairs, vec(rows, 0));
  cc_.vpmovqd(singles, pairs);
  cc_.vmovups(to, singles);
}

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
