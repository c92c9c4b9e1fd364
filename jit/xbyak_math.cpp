#include "jit/xbyak_math.h"

#include <bit>
#include <utility>

#include "jit/error.h"
#include "jit/vector_math.h"

namespace nibble::jit {
namespace {
constexpr uint8_t kNearestEven = 8;  // vroundps, vrndscaleps: half to even, no precision exception
constexpr int kExponentBias = 127;
constexpr int kMantissaBits = 23;
}  // namespace

XbyakMath::Reg::Reg(const Reg& other)
    : owner_(other.owner_), index_(other.index_), constant_(other.constant_) {
  if (index_ >= 0) ++owner_->uses_[index_];
}

XbyakMath::Reg::Reg(Reg&& other) noexcept
    : owner_(other.owner_), index_(std::exchange(other.index_, -1)), constant_(other.constant_) {}

XbyakMath::Reg& XbyakMath::Reg::operator=(Reg other) noexcept {
  std::swap(owner_, other.owner_);
  std::swap(index_, other.index_);
  std::swap(constant_, other.constant_);
  return *this;
}

XbyakMath::Reg::~Reg() {
  if (index_ >= 0) --owner_->uses_[index_];
}

XbyakMath::Reg XbyakMath::fresh() {
  const int count = zmm_ ? 32 : 16;
  for (int i = 0; i < count; ++i) {
    if (uses_[i] != 0) continue;
    uses_[i] = 1;
    return {this, i, 0};
  }
  fail("The vector math needs more than the {} registers there are.", count);
}

Xbyak::Xmm XbyakMath::vector(const Reg& a) const {
  return {zmm_ ? Xbyak::Operand::ZMM : Xbyak::Operand::YMM, a.index_};
}

XbyakMath::Reg XbyakMath::load(const Xbyak::Address& source) {
  Reg out = fresh();
  out_.vmovups(vector(out), source);
  return out;
}

XbyakMath::Reg XbyakMath::in_register(const Reg& a) {
  return a.is_constant() ? load(out_.constant(a.constant_)) : a;
}

template <typename Emit>
XbyakMath::Reg XbyakMath::binary(const Reg& a, const Reg& b, Emit emit) {
  const Reg left = in_register(a);
  Reg out = fresh();
  if (b.is_constant()) {
    emit(vector(out), vector(left), out_.constant(b.constant_));
  } else {
    emit(vector(out), vector(left), vector(b));
  }
  return out;
}

XbyakMath::Reg XbyakMath::imm(float value) { return {this, -1, std::bit_cast<uint32_t>(value)}; }

XbyakMath::Reg XbyakMath::add(const Reg& a, const Reg& b) {
  return binary(a, b, [&](auto d, auto x, const auto& y) { out_.vaddps(d, x, y); });
}
XbyakMath::Reg XbyakMath::sub(const Reg& a, const Reg& b) {
  return binary(a, b, [&](auto d, auto x, const auto& y) { out_.vsubps(d, x, y); });
}
XbyakMath::Reg XbyakMath::mul(const Reg& a, const Reg& b) {
  return binary(a, b, [&](auto d, auto x, const auto& y) { out_.vmulps(d, x, y); });
}
XbyakMath::Reg XbyakMath::div(const Reg& a, const Reg& b) {
  return binary(a, b, [&](auto d, auto x, const auto& y) { out_.vdivps(d, x, y); });
}
XbyakMath::Reg XbyakMath::max(const Reg& a, const Reg& b) {
  return binary(a, b, [&](auto d, auto x, const auto& y) { out_.vmaxps(d, x, y); });
}
XbyakMath::Reg XbyakMath::min(const Reg& a, const Reg& b) {
  return binary(a, b, [&](auto d, auto x, const auto& y) { out_.vminps(d, x, y); });
}

// out = first * second + c with the first copied into out; c may stay in memory.
XbyakMath::Reg XbyakMath::fma(const Reg& a, const Reg& b, const Reg& c) {
  const bool swap = b.is_constant() && !a.is_constant();
  const Reg& first = swap ? b : a;
  const Reg second = in_register(swap ? a : b);
  Reg out = fresh();
  if (first.is_constant()) {
    out_.vmovups(vector(out), out_.constant(first.constant_));
  } else {
    out_.vmovaps(vector(out), vector(first));
  }
  if (c.is_constant()) {
    out_.vfmadd213ps(vector(out), vector(second), out_.constant(c.constant_));
  } else {
    out_.vfmadd213ps(vector(out), vector(second), vector(c));
  }
  return out;
}

XbyakMath::Reg XbyakMath::round(const Reg& a) {
  const Reg value = in_register(a);
  Reg out = fresh();
  if (zmm_) {
    out_.vrndscaleps(Xbyak::Zmm(out.index_), Xbyak::Zmm(value.index_), kNearestEven);
  } else {
    out_.vroundps(vector(out), vector(value), kNearestEven);
  }
  return out;
}

XbyakMath::Reg XbyakMath::pow2(const Reg& a) {
  const Reg value = in_register(a);
  Reg out = fresh();
  out_.vcvttps2dq(vector(out), vector(value));
  out_.vpaddd(vector(out), vector(out), out_.constant(uint32_t{kExponentBias}));
  out_.vpslld(vector(out), vector(out), kMantissaBits);
  return out;
}

XbyakMath::Reg XbyakMath::abs(const Reg& a) {
  const Reg value = in_register(a);
  Reg out = fresh();
  out_.vandps(vector(out), vector(value), out_.constant(~kSignBit));
  return out;
}

XbyakMath::Reg XbyakMath::neg(const Reg& a) {
  const Reg value = in_register(a);
  Reg out = fresh();
  out_.vxorps(vector(out), vector(value), out_.constant(kSignBit));
  return out;
}

}  // namespace nibble::jit
