// The instruction sets that kernels are generated for, and what this machine has of them.
//
// Detection is CPUID, XCR0 (the kernel saves the registers) and, for AMX, arch_prctl permission.
// NIBBLE_ISA caps the choice; asking for more than the machine has is an Error.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::jit {

enum class Isa : uint8_t {
  avx2,         // AVX2 + FMA + F16C: vpmaddubsw, vpmaddwd
  avx_vnni,     // 256-bit vpdpbusd: VEX (AVX-VNNI), else EVEX (AVX512-VNNI with VL) on ymm0..15
  avx512,       // AVX-512 F, BW, VL, DQ: vpmaddubsw on zmm
  avx512_vnni,  // + vpdpbusd on zmm
  amx_int8,  // + tiles of int8 and of bf16, and AVX512_VBMI: processors with tiles have all three
};

// What CPUID says of this machine, read once.
struct CpuInfo {
  std::string vendor, brand;
  uint32_t family = 0, model = 0, stepping = 0;
  bool avx2 = false, fma = false, f16c = false, avx_vnni = false;
  bool avx512f = false, avx512bw = false, avx512vl = false, avx512dq = false, avx512_vnni = false;
  bool avx512_vbmi = false, avx512_bf16 = false, avx512_fp16 = false, amx_tile = false,
       amx_int8 = false, amx_bf16 = false;
  // Why AMX is off although CPUID shows it (the kernel refused, or the trial instruction died).
  std::string amx_obstacle;
  // Of one core (L3: of the whole slice); 32 KiB, 512 KiB and 0 where CPUID does not tell.
  uint64_t l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;
};

const CpuInfo& cpu();

// Whether the machine has all that kernels of `isa` use, and what it lacks ("" when nothing).
bool supports(const CpuInfo& info, Isa isa);
std::string missing_features(const CpuInfo& info, Isa isa);
// Whether the generators write code for `isa`: for all of them today.
bool has_emitter(Isa isa);

bool supports(Isa isa);             // this machine has it and kernels are generated for it
std::vector<Isa> supported_isas();  // ascending

// The decision behind selected_isa(), for any machine: `cap` is NIBBLE_ISA's text, null when unset.
Isa choose_isa(const CpuInfo& info, const char* cap);

// The ISA to generate for: the best one, or NIBBLE_ISA's when it is set. Throws Error when the
// machine has no AVX2, when NIBBLE_ISA is no ISA's name, or names one that the machine lacks.
Isa selected_isa();

std::string_view isa_name(Isa isa);  // "avx2", "avx_vnni", "avx512", "avx512_vnni", "amx_int8"
std::optional<Isa> parse_isa(std::string_view name);

}  // namespace nibble::jit
