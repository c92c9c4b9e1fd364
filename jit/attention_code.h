// What the generators of attention share, whatever the cache holds: the scratch, the two paths of
// one function (all rows together and, where the call has one row only, that row alone), and the
// arithmetic of positions. Base of attention_generator.cpp and attention_integer_generator.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jit/attention.h"
#include "jit/compiler_math.h"

namespace nibble::jit {

class AttentionCode {
 public:
  virtual ~AttentionCode() = default;
  AttentionCode(const AttentionCode&) = delete;
  AttentionCode& operator=(const AttentionCode&) = delete;

 protected:
  using Gp = CompilerMath::Gp;
  using Label = CompilerMath::Label;
  using Mem = CompilerMath::Mem;

  AttentionCode(const AttentionSpec& spec, Isa isa)
      : spec_(spec), dim_(spec.head_dim), v_(isa), cc_(v_.cc()) {}

  // The whole of one path, which takes so many rows together.
  virtual void path(int rows) = 0;

  // `together`: rows of the path for more than one row.
  std::vector<uint8_t> generate_paths(int together) {
    base_ = v_.load_gp(v_.field(offsetof(AttentionArgs, scratch)), "scratch");
    to_value_ = v_.load_gp(v_.field(offsetof(AttentionArgs, values)), "to_value");
    cc_.sub(to_value_, v_.field(offsetof(AttentionArgs, keys)));
    if (spec_.rows == 1) {
      path(1);
      return v_.finish();
    }
    Label more = cc_.newLabel();
    Label done = cc_.newLabel();
    cc_.cmp(v_.field(offsetof(AttentionArgs, rows)), 1);
    cc_.jne(more);
    path(1);
    cc_.jmp(done);
    cc_.bind(more);
    path(together);
    cc_.bind(done);
    return v_.finish();
  }

  Mem at(int64_t offset) const { return asmjit::x86::ptr(base_, static_cast<int32_t>(offset)); }
  Mem at(int64_t offset, const Gp& index, uint32_t shift) const {
    return asmjit::x86::ptr(base_, index, shift, static_cast<int32_t>(offset));
  }
  Gp address(const Mem& of, const char* name) {
    Gp r = v_.gp(name);
    cc_.lea(r, of);
    return r;
  }
  Gp copy(const Gp& from, const char* name) {
    Gp r = v_.gp(name);
    cc_.mov(r, from);
    return r;
  }
  void raise(const Gp& a, const Gp& b) {  // a = max(a, b)
    cc_.cmp(a, b);
    cc_.cmovl(a, b);
  }
  void lower(const Gp& a, const Gp& b) {  // a = min(a, b)
    cc_.cmp(a, b);
    cc_.cmovg(a, b);
  }

  const AttentionSpec spec_;
  const int64_t dim_;
  CompilerMath v_;
  asmjit::x86::Compiler& cc_;
  Gp base_;      // the scratch
  Gp to_value_;  // from a key's address to the value's
};

}  // namespace nibble::jit
