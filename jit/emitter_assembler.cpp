#include "jit/emitter_assembler.h"

namespace nibble::jit {
namespace {

// Plain heap memory: Xbyak must not make it executable.
struct HeapAllocator : Xbyak::Allocator {
  bool useProtect() const override { return false; }
};

HeapAllocator& heap_allocator() {
  static HeapAllocator allocator;
  return allocator;
}

constexpr size_t kFirstBytes = size_t{32} * 1024;
constexpr int kConstantLanes = 16;

}  // namespace

Assembler::Assembler() : CodeGenerator(kFirstBytes, Xbyak::AutoGrow, &heap_allocator()) {}

Xbyak::Address Assembler::constant(uint32_t bits) { return ptr[rip + constants_[bits]]; }

void Assembler::load_mask_table(const Xbyak::Reg64& reg) {
  uses_mask_table_ = true;
  lea(reg, ptr[rip + mask_table_]);
}

std::vector<uint8_t> Assembler::finish() {
  align(64);
  for (auto& [bits, label] : constants_) {
    L(label);
    for (int lane = 0; lane < kConstantLanes; ++lane) dd(bits);
  }
  for (auto& [line, label] : lines_) {
    L(label);
    for (const uint32_t bits : line) dd(bits);
  }
  if (uses_mask_table_) {
    L(mask_table_);
    for (int lane = 0; lane < kConstantLanes; ++lane) dd(0xffffffffU);
    for (int lane = 0; lane < kConstantLanes; ++lane) dd(0);
  }
  ready();
  return {getCode(), getCode() + getSize()};
}

void load_scales(Assembler& out, ScaleType type, const Xbyak::Xmm& dst,
                 const Xbyak::RegExp& source) {
  switch (type) {
    case ScaleType::f16:
      out.vcvtph2ps(dst, out.ptr[source]);
      return;
    case ScaleType::f32:
      out.vmovups(dst, out.ptr[source]);
      return;
    case ScaleType::bf16:
      out.vpmovzxwd(dst, out.ptr[source]);
      out.vpslld(dst, dst, 16);
      return;
    case ScaleType::q8:
      out.vpmovsxbd(dst, out.ptr[source]);
      out.vcvtdq2ps(dst, dst);
      return;
  }
}

}  // namespace nibble::jit
