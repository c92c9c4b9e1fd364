// vector_math.h's backend that emits instructions with Xbyak, so that a kernel's activations have
// the bits of the scalar references. A Reg is one vector register of the kernel's width, counted by
// its copies and given back to the pool when the last one dies, or a constant that lies in memory
// until an instruction needs it in a register. Every operation works lane by lane, so AVX2 runs it
// twice where AVX-512 runs it once.
#pragma once

#include <array>
#include <cstdint>

#include "jit/emitter_assembler.h"

namespace nibble::jit {

class XbyakMath {
 public:
  class Reg {
   public:
    Reg(const Reg& other);
    Reg(Reg&& other) noexcept;
    Reg& operator=(Reg other) noexcept;
    ~Reg();

   private:
    friend class XbyakMath;
    Reg(XbyakMath* owner, int index, uint32_t constant)
        : owner_(owner), index_(index), constant_(constant) {}
    bool is_constant() const { return index_ < 0; }
    XbyakMath* owner_;
    int index_;  // -1: a constant
    uint32_t constant_;
  };

  // May use all registers of its width: 16 ymm or 32 zmm.
  XbyakMath(Assembler& out, bool zmm) : out_(out), zmm_(zmm) {}

  Reg imm(float value);
  Reg add(const Reg& a, const Reg& b);
  Reg sub(const Reg& a, const Reg& b);
  Reg mul(const Reg& a, const Reg& b);
  Reg div(const Reg& a, const Reg& b);
  Reg fma(const Reg& a, const Reg& b, const Reg& c);
  Reg max(const Reg& a, const Reg& b);
  Reg min(const Reg& a, const Reg& b);
  Reg round(const Reg& a);
  Reg pow2(const Reg& a);
  Reg abs(const Reg& a);
  Reg neg(const Reg& a);

  // A fresh register and the register a value is in, for loads and stores around the math.
  Reg fresh();
  Reg load(const Xbyak::Address& source);
  Xbyak::Xmm vector(const Reg& a) const;

 private:
  template <typename Emit>
  Reg binary(const Reg& a, const Reg& b, Emit emit);
  // The value in a register: itself, or a constant loaded.
  Reg in_register(const Reg& a);

  Assembler& out_;
  bool zmm_;
  std::array<int, 32> uses_{};
};

}  // namespace nibble::jit
