#include "jit/isa.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "jit/error.h"

namespace nibble::jit {
namespace {

struct Leaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf leaf(uint32_t index, uint32_t subleaf = 0) {
  Leaf out;
  __get_cpuid_count(index, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx);
  return out;
}

bool bit(uint32_t word, int index) { return ((word >> index) & 1U) != 0; }

uint64_t xcr0() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

std::string trimmed(const char* text, size_t size) {
  std::string out(text, strnlen(text, size));
  const size_t first = out.find_first_not_of(' ');
  if (first == std::string::npos) return "";
  return out.substr(first, out.find_last_not_of(' ') - first + 1);
}

void read_identity(CpuInfo& info) {
  const Leaf vendor = leaf(0);
  std::array<char, 12> vendor_text{};
  std::memcpy(vendor_text.data(), &vendor.ebx, 4);
  std::memcpy(vendor_text.data() + 4, &vendor.edx, 4);
  std::memcpy(vendor_text.data() + 8, &vendor.ecx, 4);
  info.vendor = trimmed(vendor_text.data(), vendor_text.size());

  const uint32_t signature = leaf(1).eax;
  info.stepping = signature & 15U;
  info.model = (signature >> 4) & 15U;
  info.family = (signature >> 8) & 15U;
  if (info.family == 6 || info.family == 15) info.model |= ((signature >> 16) & 15U) << 4;
  if (info.family == 15) info.family += (signature >> 20) & 255U;

  if (leaf(0x80000000U).eax < 0x80000004U) return;
  std::array<char, 48> brand{};
  for (uint32_t i = 0; i < 3; ++i) {
    const Leaf part = leaf(0x80000002U + i);
    std::memcpy(brand.data() + size_t{16} * i, &part, 16);
  }
  info.brand = trimmed(brand.data(), brand.size());
}

// CPUID 4 (Intel) and 0x8000001D (AMD with topology extensions) share one encoding.
void read_caches(CpuInfo& info) {
  const bool amd_leaf = leaf(0x80000000U).eax >= 0x8000001DU && bit(leaf(0x80000001U).ecx, 22);
  const uint32_t index = amd_leaf ? 0x8000001DU : 4U;
  for (uint32_t i = 0; i < 16; ++i) {
    const Leaf cache = leaf(index, i);
    const uint32_t type = cache.eax & 31U;  // 1 data, 2 instruction, 3 unified
    if (type == 0) break;
    if (type == 2) continue;
    const uint64_t ways = ((cache.ebx >> 22) & 1023U) + 1;
    const uint64_t partitions = ((cache.ebx >> 12) & 1023U) + 1;
    const uint64_t line = (cache.ebx & 4095U) + 1;
    const uint64_t bytes = ways * partitions * line * (uint64_t{cache.ecx} + 1);
    const uint32_t level = (cache.eax >> 5) & 7U;
    if (level == 1) info.l1d_bytes = bytes;
    if (level == 2) info.l2_bytes = bytes;
    if (level == 3) info.l3_bytes = bytes;
  }
  if (info.l1d_bytes == 0) info.l1d_bytes = uint64_t{32} << 10;
  if (info.l2_bytes == 0) info.l2_bytes = uint64_t{512} << 10;
}

// Loads a tile configuration and zeroes one tile; dies of SIGILL where tiles do not work.
void use_one_tile() {
  alignas(64) std::array<uint8_t, 64> config{};
  config[0] = 1;    // palette
  config[16] = 64;  // bytes a row of tile 0
  config[48] = 16;  // rows of tile 0
  // ldtilecfg [config]; tilezero tmm0; tilerelease
  __asm__ volatile(
      ".byte 0xc4, 0xe2, 0x78, 0x49, 0x00\n\t"
      ".byte 0xc4, 0xe2, 0x7b, 0x49, 0xc0\n\t"
      ".byte 0xc4, 0xe2, 0x78, 0x49, 0xc0"
      :
      : "a"(config.data())
      : "memory");
}

// Some virtual machines show AMX and then fault, so a forked child tries it first. The answer comes
// back through a pipe: waitpid alone would fail in a process that ignores SIGCHLD.
bool tile_survives_in_child() {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    for (const int number : {SIGILL, SIGSEGV, SIGBUS, SIGFPE}) std::signal(number, SIG_DFL);
    use_one_tile();
    const char yes = 1;
    const bool told = write(ends[1], &yes, 1) == 1;
    _exit(told ? 0 : 1);
  }
  close(ends[1]);
  char answer = 0;
  ssize_t got = -1;
  if (child > 0) {
    do {
      got = read(ends[0], &answer, 1);
    } while (got < 0 && errno == EINTR);
    while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  close(ends[0]);
  return got == 1 && answer == 1;
}

// Why tiles cannot be used although CPUID shows them; empty when they can.
std::string find_amx_obstacle(uint64_t enabled) {
  constexpr uint64_t kTileState = (1U << 17) | (1U << 18);
  if ((enabled & kTileState) != kTileState) {
    return "the operating system does not save tile registers (XCR0)";
  }
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) {
    return "the kernel refused permission to use tile registers (arch_prctl)";
  }
  if (!tile_survives_in_child()) return "a tile instruction failed when tried in a child process";
  return "";
}

void read_features(CpuInfo& info) {
  const Leaf basic = leaf(1);
  const bool os_saves = bit(basic.ecx, 27);  // OSXSAVE: xgetbv may be used
  const uint64_t enabled = os_saves ? xcr0() : 0;
  if ((enabled & 0x6) != 0x6) return;  // xmm and ymm
  const Leaf seven = leaf(7, 0);
  const Leaf seven_one = seven.eax >= 1 ? leaf(7, 1) : Leaf{};
  info.fma = bit(basic.ecx, 12);
  info.f16c = bit(basic.ecx, 29);
  info.avx2 = bit(basic.ecx, 28) && bit(seven.ebx, 5);
  info.avx_vnni = bit(seven_one.eax, 4);
  if ((enabled & 0xe6) == 0xe6) {  // and opmask, zmm0..15 upper halves, zmm16..31
    info.avx512f = bit(seven.ebx, 16);
    info.avx512dq = bit(seven.ebx, 17);
    info.avx512bw = bit(seven.ebx, 30);
    info.avx512vl = bit(seven.ebx, 31);
    info.avx512_vnni = bit(seven.ecx, 11);
    info.avx512_vbmi = bit(seven.ecx, 1);
    info.avx512_bf16 = bit(seven_one.eax, 5);
    info.avx512_fp16 = bit(seven.edx, 23);
  }
  if (!bit(seven.edx, 24)) return;  // AMX-TILE
  info.amx_obstacle = find_amx_obstacle(enabled);
  if (!info.amx_obstacle.empty()) return;
  info.amx_tile = true;
  info.amx_bf16 = bit(seven.edx, 22);
  info.amx_int8 = bit(seven.edx, 25);
}

CpuInfo detect() {
  CpuInfo info;
  read_identity(info);
  read_features(info);
  read_caches(info);
  return info;
}

constexpr std::array<Isa, 5> kAllIsas = {Isa::avx2, Isa::avx_vnni, Isa::avx512, Isa::avx512_vnni,
                                         Isa::amx_int8};

std::string isa_list(const CpuInfo& info) {
  std::string out;
  for (const Isa isa : kAllIsas) {
    if (!supports(info, isa) || !has_emitter(isa)) continue;
    if (!out.empty()) out += ", ";
    out += isa_name(isa);
  }
  return out;
}

std::string machine_name(const CpuInfo& info) {
  return info.brand.empty() ? "this machine" : fmt::format("this machine ({})", info.brand);
}

}  // namespace

const CpuInfo& cpu() {
  static const CpuInfo info = detect();
  return info;
}

std::string missing_features(const CpuInfo& info, Isa isa) {
  std::string out;
  const auto need = [&out](bool present, std::string_view feature) {
    if (present) return;
    if (!out.empty()) out += ", ";
    out += feature;
  };
  need(info.avx2, "AVX2");
  need(info.fma, "FMA");
  need(info.f16c, "F16C");
  if (isa == Isa::avx_vnni) {
    need(info.avx_vnni || (info.avx512f && info.avx512vl && info.avx512_vnni), "AVX-VNNI");
  }
  if (isa >= Isa::avx512) {
    need(info.avx512f, "AVX512F");
    need(info.avx512bw, "AVX512BW");
    need(info.avx512vl, "AVX512VL");
    need(info.avx512dq, "AVX512DQ");
  }
  if (isa >= Isa::avx512_vnni) need(info.avx512_vnni, "AVX512_VNNI");
  if (isa == Isa::amx_int8) {
    need(info.avx512_vbmi, "AVX512_VBMI");
    need(info.amx_tile, "AMX-TILE");
    need(info.amx_int8, "AMX-INT8");
    need(info.amx_bf16, "AMX-BF16");
    if (!info.amx_obstacle.empty()) out += fmt::format(" ({})", info.amx_obstacle);
  }
  return out;
}

bool supports(const CpuInfo& info, Isa isa) { return missing_features(info, isa).empty(); }

bool has_emitter(Isa isa) { return isa <= Isa::amx_int8; }

bool supports(Isa isa) { return has_emitter(isa) && supports(cpu(), isa); }

std::vector<Isa> supported_isas() {
  std::vector<Isa> out;
  for (const Isa isa : kAllIsas) {
    if (supports(isa)) out.push_back(isa);
  }
  return out;
}

Isa choose_isa(const CpuInfo& info, const char* cap) {
  const std::string lacking = missing_features(info, Isa::avx2);
  if (!lacking.empty()) {
    fail("Nibble needs a processor with AVX2, FMA and F16C, and {} lacks {}.", machine_name(info),
         lacking);
  }
  if (cap == nullptr || *cap == '\0') {
    Isa best = Isa::avx2;
    for (const Isa isa : kAllIsas) {
      if (has_emitter(isa) && supports(info, isa)) best = isa;
    }
    return best;
  }
  const std::optional<Isa> asked = parse_isa(cap);
  if (!asked) {
    fail(
        "NIBBLE_ISA is '{}', which names no instruction set; expected one of avx2, avx_vnni, "
        "avx512, avx512_vnni, amx_int8.",
        cap);
  }
  const std::string missing = missing_features(info, *asked);
  if (!missing.empty()) {
    fail("NIBBLE_ISA asks for {}, but {} lacks {}; it supports {}.", cap, machine_name(info),
         missing, isa_list(info));
  }
  if (!has_emitter(*asked)) {
    fail("NIBBLE_ISA asks for {}, for which no kernels are generated yet; {} supports {}.", cap,
         machine_name(info), isa_list(info));
  }
  return *asked;
}

Isa selected_isa() { return choose_isa(cpu(), std::getenv("NIBBLE_ISA")); }

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx_vnni:
      return "avx_vnni";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_vnni:
      return "avx512_vnni";
    case Isa::amx_int8:
      return "amx_int8";
  }
  return "unknown";
}

std::optional<Isa> parse_isa(std::string_view name) {
  for (const Isa isa : kAllIsas) {
    if (isa_name(isa) == name) return isa;
  }
  return std::nullopt;
}

}  // namespace nibble::jit
