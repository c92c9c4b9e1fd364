#include "jit/isa.h"

#include <gtest/gtest.h>

#include <string>

#include "jit/error.h"

namespace nibble::jit {
namespace {

CpuInfo haswell() {
  CpuInfo info;
  info.brand = "Invented CPU";
  info.avx2 = info.fma = info.f16c = true;
  return info;
}

CpuInfo skylake_server() {
  CpuInfo info = haswell();
  info.avx512f = info.avx512bw = info.avx512vl = info.avx512dq = true;
  return info;
}

CpuInfo ice_lake() {
  CpuInfo info = skylake_server();
  info.avx512_vnni = true;
  return info;
}

CpuInfo alder_lake() {
  CpuInfo info = haswell();
  info.avx_vnni = true;
  return info;
}

CpuInfo sapphire_rapids() {
  CpuInfo info = ice_lake();
  info.avx_vnni = info.avx512_vbmi = info.amx_tile = info.amx_int8 = info.amx_bf16 = true;
  return info;
}

std::string refusal(const CpuInfo& info, const char* cap) {
  try {
    choose_isa(info, cap);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Isa, BestOfInventedMachines) {
  EXPECT_EQ(choose_isa(haswell(), nullptr), Isa::avx2);
  EXPECT_EQ(choose_isa(alder_lake(), nullptr), Isa::avx_vnni);
  EXPECT_EQ(choose_isa(skylake_server(), nullptr), Isa::avx512);
  EXPECT_EQ(choose_isa(ice_lake(), nullptr), Isa::avx512_vnni);
  EXPECT_EQ(choose_isa(haswell(), ""), Isa::avx2);
  EXPECT_EQ(choose_isa(sapphire_rapids(), nullptr), Isa::amx_int8);
}

TEST(Isa, CapPicksAnythingTheMachineHas) {
  EXPECT_EQ(choose_isa(ice_lake(), "avx2"), Isa::avx2);
  EXPECT_EQ(choose_isa(ice_lake(), "avx512"), Isa::avx512);
  // AVX512_VNNI with VL runs the 256-bit form as well, AVX-512 without VNNI does not.
  EXPECT_EQ(choose_isa(ice_lake(), "avx_vnni"), Isa::avx_vnni);
  EXPECT_NE(refusal(skylake_server(), "avx_vnni").find("AVX-VNNI"), std::string::npos);
  EXPECT_EQ(choose_isa(sapphire_rapids(), "amx_int8"), Isa::amx_int8);
  EXPECT_EQ(choose_isa(sapphire_rapids(), "avx512_vnni"), Isa::avx512_vnni);
}

TEST(Isa, AskingForTooMuchNamesWhatIsMissing) {
  const std::string message = refusal(haswell(), "avx512_vnni");
  for (const char* part : {"avx512_vnni", "AVX512F", "AVX512BW", "AVX512VL", "AVX512DQ",
                           "AVX512_VNNI", "Invented CPU", "it supports avx2."}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " is not in: " << message;
  }
  EXPECT_NE(refusal(ice_lake(), "amx_int8").find("AMX-TILE"), std::string::npos);
  EXPECT_NE(refusal(ice_lake(), "sse9").find("'sse9'"), std::string::npos);
}

TEST(Isa, AmxObstacleIsTold) {
  CpuInfo info = ice_lake();
  info.amx_obstacle = "the kernel refused";
  EXPECT_EQ(choose_isa(info, nullptr), Isa::avx512_vnni);
  EXPECT_NE(refusal(info, "amx_int8").find("the kernel refused"), std::string::npos);
}

// Kernels of amx_int8 use both kinds of tiles.
TEST(Isa, HalfOfAmxIsNoAmx) {
  CpuInfo info = sapphire_rapids();
  info.amx_bf16 = false;
  EXPECT_EQ(choose_isa(info, nullptr), Isa::avx512_vnni);
  EXPECT_NE(refusal(info, "amx_int8").find("AMX-BF16"), std::string::npos);
}

TEST(Isa, NoAvx2IsRefused) {
  CpuInfo info;
  EXPECT_NE(refusal(info, nullptr).find("AVX2, FMA, F16C"), std::string::npos);
  info = haswell();
  info.fma = false;
  const std::string message = refusal(info, nullptr);
  EXPECT_NE(message.find("lacks FMA."), std::string::npos) << message;
}

TEST(Isa, NamesRoundTrip) {
  for (const Isa isa : {Isa::avx2, Isa::avx_vnni, Isa::avx512, Isa::avx512_vnni, Isa::amx_int8}) {
    EXPECT_EQ(parse_isa(isa_name(isa)), isa);
  }
  EXPECT_FALSE(parse_isa("AVX2"));
  EXPECT_FALSE(parse_isa(""));
}

TEST(Isa, ThisMachine) {
  const CpuInfo& info = cpu();
  EXPECT_FALSE(info.vendor.empty());
  EXPECT_GE(info.l1d_bytes, 8U << 10);
  EXPECT_LE(info.l1d_bytes, 1U << 20);
  EXPECT_GE(info.l2_bytes, info.l1d_bytes);
  // The compiler's own detection must agree.
  EXPECT_EQ(info.avx2, __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(info.fma, __builtin_cpu_supports("fma") != 0);
  EXPECT_EQ(info.avx512f, __builtin_cpu_supports("avx512f") != 0);
  EXPECT_EQ(info.avx512bw, __builtin_cpu_supports("avx512bw") != 0);
  EXPECT_EQ(info.avx512vl, __builtin_cpu_supports("avx512vl") != 0);
  EXPECT_EQ(info.avx512dq, __builtin_cpu_supports("avx512dq") != 0);
  EXPECT_EQ(info.avx512_vnni, __builtin_cpu_supports("avx512vnni") != 0);
  for (const Isa isa : supported_isas()) {
    EXPECT_TRUE(supports(isa));
    EXPECT_EQ(missing_features(info, isa), "");
  }
}

}  // namespace
}  // namespace nibble::jit
