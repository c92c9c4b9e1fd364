#include "jit/core.h"

namespace nibble::jit {

Core core_of(const CpuInfo& info) {
  constexpr uint32_t kZen5Family = 26;
  if (info.vendor == "GenuineIntel") return Core::golden_cove;
  return info.vendor == "AuthenticAMD" && info.family >= kZen5Family ? Core::zen5 : Core::zen4;
}

Core this_core() {
  static const Core core = core_of(cpu());
  return core;
}

}  // namespace nibble::jit
