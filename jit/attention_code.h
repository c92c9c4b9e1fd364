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
      : spec_(spec),
        dim_(spec.head_dim),
        layout_(kv_record(spec.kv, spec.head_dim)),
        v_(isa),
        cc_(v_.cc()) {}

  // The whole of one path, which takes so many rows together.
  virtual void path(int rows) = 0;

  // `together`: rows of the path for more than one row.
  std::vector<uint8_t> generate_paths(int together) {
    base_ = v_.load_gp(v_.field(offsetof(AttentionArgs, scratch)), "scratch");
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
  // The record of the split that begins at this position.
  Gp record_of(const Gp& position) {
    constexpr int kSplits = static_cast<int>(kKvPage / kKvSplit);
    static_assert(kKvPage == 256 && kKvSplit == 64);
    const Gp record = copy(position, "record");
    const Gp page = copy(position, "page");
    cc_.sar(page, 8);
    cc_.imul(page, v_.field(offsetof(AttentionArgs, cache.page_stride)));
    cc_.add(page, v_.field(offsetof(AttentionArgs, cache.pages)));
    cc_.sar(record, 6);
    cc_.and_(record, kSplits - 1);
    cc_.imul(record, record, static_cast<int32_t>(layout_.bytes));
    cc_.add(record, page);
    return record;
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
  const KvRecord layout_;
  CompilerMath v_;
  asmjit::x86::Compiler& cc_;
  Gp base_;  // the scratch
};

}  // namespace nibble::jit
