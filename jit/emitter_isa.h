// The emitters, one an ISA: what differs is how a nibble is unpacked, how an activation is
// broadcast, and the dot product.
#pragma once

#include "jit/emitter.h"

namespace nibble::jit {

// ymm0..15; a column block is two registers, a line of weights is read as two halves.
class Avx2Emitter : public Emitter {
 public:
  using Emitter::Emitter;
  void load_a(int i, int k) override;
  void dot(int i, int j, int k) override;

 protected:
  void unpack(const Xbyak::Xmm& dst, const Xbyak::Operand& bits, int shift, uint32_t mask) override;
};

class AvxVnniEmitter : public Avx2Emitter {
 public:
  using Avx2Emitter::Avx2Emitter;
  void dot(int i, int j, int k) override;

 protected:
  void dot_words(const Xbyak::Xmm& acc, const Xbyak::Xmm& words,
                 const Xbyak::RegExp& pair) override;
};

// zmm0..31; a column block is one register.
class Avx512Emitter : public Emitter {
 public:
  using Emitter::Emitter;
  void begin() override;
  void load_a(int i, int k) override;
  void dot(int i, int j, int k) override;

 protected:
  void unpack(const Xbyak::Xmm& dst, const Xbyak::Operand& bits, int shift, uint32_t mask) override;
  void unpack_nibbles(const Xbyak::Xmm& dst, const Xbyak::RegExp& bits, int shift) override;
  bool nibbles_are_centred() const override {
    return plan_.dot == DotKind::bf16 && !spec_.weight.asym;
  }

 private:
  const Xbyak::Opmask high_words_{1};
};

class Avx512VnniEmitter : public Avx512Emitter {
 public:
  using Avx512Emitter::Avx512Emitter;
  void dot(int i, int j, int k) override;

 protected:
  void dot_words(const Xbyak::Xmm& acc, const Xbyak::Xmm& words,
                 const Xbyak::RegExp& pair) override;
};

}  // namespace nibble::jit
