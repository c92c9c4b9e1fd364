// Disassembly of generated kernels by Zydis: offset in the kernel, bytes, Intel syntax. Branch
// targets get labels; constants behind the code are shown as data, not as nonsense instructions.
#include <Zydis/Zydis.h>

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <string>

#include "jit/code_cache.h"
#include "jit/error.h"

namespace nibble::jit {
namespace {

struct Decoded {
  ZydisDecodedInstruction instruction;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

class Listing {
 public:
  explicit Listing(std::span<const uint8_t> code) : code_(code), code_end_(code.size()) {
    ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter_, ZYDIS_FORMATTER_STYLE_INTEL);
    find_structure();
  }

  std::string text() const {
    std::string out;
    size_t offset = 0;
    while (offset < code_end_) {
      if (const auto label = labels_.find(offset); label != labels_.end()) {
        out += fmt::format("L{}:\n", label->second);
      }
      Decoded decoded;
      if (!decode(offset, decoded)) {
        out += line(offset, 1, "(not an instruction)");
        ++offset;
        continue;
      }
      out += line(offset, decoded.instruction.length, instruction_text(offset, decoded));
      offset += decoded.instruction.length;
    }
    for (; offset < code_.size(); offset += 16) {
      out += line(offset, std::min<size_t>(16, code_.size() - offset), "");
    }
    return out;
  }

 private:
  bool decode(size_t offset, Decoded& out) const {
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(
        &decoder_, code_.data() + offset, code_.size() - offset, &out.instruction, out.operands));
  }

  // Where a relative operand points, as an offset in the kernel; the size when there is none.
  size_t relative_target(size_t offset, const Decoded& decoded, ZydisOperandType type) const {
    for (size_t i = 0; i < decoded.instruction.operand_count_visible; ++i) {
      const ZydisDecodedOperand& operand = decoded.operands[i];
      if (operand.type != type) continue;
      const bool relative = type == ZYDIS_OPERAND_TYPE_IMMEDIATE
                                ? operand.imm.is_relative == ZYAN_TRUE
                                : operand.mem.base == ZYDIS_REGISTER_RIP;
      ZyanU64 target = 0;
      if (relative &&
          ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&decoded.instruction, &operand, offset, &target))) {
        return std::min<size_t>(target, code_.size());
      }
    }
    return code_.size();
  }

  // Collects branch targets and finds where code ends: at the first constant that an instruction
  // reads, or after an unconditional leave that no branch passes over.
  void find_structure() {
    std::set<size_t> targets;
    size_t offset = 0;
    while (offset < code_end_) {
      Decoded decoded;
      if (!decode(offset, decoded)) {
        ++offset;
        continue;
      }
      const size_t next = offset + decoded.instruction.length;
      const size_t branch = relative_target(offset, decoded, ZYDIS_OPERAND_TYPE_IMMEDIATE);
      if (branch < code_.size()) targets.insert(branch);
      const size_t constant = relative_target(offset, decoded, ZYDIS_OPERAND_TYPE_MEMORY);
      if (constant >= next) code_end_ = std::min(code_end_, constant);
      const auto category = decoded.instruction.meta.category;
      const bool leaves = category == ZYDIS_CATEGORY_RET || category == ZYDIS_CATEGORY_UNCOND_BR;
      if (leaves && targets.lower_bound(next) == targets.end()) {
        code_end_ = std::min(code_end_, next);
      }
      offset = next;
    }
    int number = 0;
    for (const size_t target : targets) labels_[target] = number++;
  }

  std::string instruction_text(size_t offset, const Decoded& decoded) const {
    const size_t branch = relative_target(offset, decoded, ZYDIS_OPERAND_TYPE_IMMEDIATE);
    if (const auto label = labels_.find(branch); label != labels_.end()) {
      return fmt::format("{} L{}  ; {:x}", ZydisMnemonicGetString(decoded.instruction.mnemonic),
                         label->second, branch);
    }
    char buffer[256];
    const ZyanStatus status = ZydisFormatterFormatInstruction(
        &formatter_, &decoded.instruction, decoded.operands,
        decoded.instruction.operand_count_visible, buffer, sizeof(buffer), offset, nullptr);
    return ZYAN_SUCCESS(status) ? buffer : "(not printable)";
  }

  std::string line(size_t offset, size_t length, const std::string& text) const {
    std::string bytes;
    for (size_t i = 0; i < length; ++i) bytes += fmt::format("{:02x} ", code_[offset + i]);
    std::string out = fmt::format("{:6x}:  {:<34}{}", offset, bytes, text);
    out.erase(out.find_last_not_of(' ') + 1);
    return out + "\n";
  }

  std::span<const uint8_t> code_;
  size_t code_end_;
  std::map<size_t, int> labels_;
  ZydisDecoder decoder_;
  ZydisFormatter formatter_;
};

}  // namespace

std::string disassemble(const Kernel& kernel) {
  if (kernel.code == nullptr) {
    fail(
        "The kernel {} has no machine code to disassemble: executable memory was refused and it "
        "runs as its plain C++ reference.",
        name(kernel.key));
  }
  return Listing({static_cast<const uint8_t*>(kernel.code), kernel.code_bytes}).text();
}

}  // namespace nibble::jit
