// What AMX instructions raise: #UD as SIGILL, #GP as SIGSEGV without an address, page faults as
// SIGSEGV at the address; and that illegal instructions which are no AMX stay illegal.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <vector>

#include "jit/isa.h"
#include "tests/jit/amx_code.h"
#include "tests/support/guarded_buffer.h"

namespace nibble::test {
namespace {

class AmxFaults : public ::testing::Test {
 protected:
  void SetUp() override { jit::cpu(); }
  void TearDown() override {
    run_code([](Code& code) { code.tilerelease(); });
  }
  FaultCatcher catcher_;
  AmxEmulator emulator_;
};

template <typename Emit>
int signal_of(Emit emit) {
  return fault_of(emit).signal;
}

// --- #GP ---

TEST_F(AmxFaults, InvalidConfigurationsAreProtectionFaults) {
  const auto good = tile_config({{16, 64}, {4, 8}});
  run_code([&](Code& code) { code.configure(good); });
  struct Change {
    int byte, value;
  };
  std::vector<Change> changes = {{0, 2},  {0, 255}, {48, 17}, {49, 255}, {16, 65},
                                 {17, 1}, {48, 0},  {16, 0},  {50, 3},   {20, 4}};
  for (int byte = 2; byte < 16; ++byte) changes.push_back({byte, 1});
  for (int byte = 32; byte < 48; ++byte) changes.push_back({byte, 128});
  for (int byte = 56; byte < 64; ++byte) changes.push_back({byte, 1});
  for (const Change& change : changes) {
    auto bad = good;
    bad[static_cast<size_t>(change.byte)] = static_cast<uint8_t>(change.value);
    const Fault fault = fault_of([&](Code& code) { code.configure(bad); });
    EXPECT_EQ(fault.signal, SIGSEGV) << "byte " << change.byte;
    EXPECT_EQ(fault.code, SI_KERNEL) << "byte " << change.byte;
    EXPECT_EQ(fault.address, nullptr) << "byte " << change.byte;
    EXPECT_EQ(current_config(), good) << "byte " << change.byte;
  }
}

// --- #UD ---

TEST_F(AmxFaults, UnconfiguredTilesAreUndefined) {
  alignas(64) uint8_t data[64] = {};
  EXPECT_EQ(signal_of([](Code& c) { c.tilezero(c.tmm0); }), SIGILL);
  EXPECT_EQ(signal_of([&](Code& c) { c.load(0, data, 64); }), SIGILL);
  EXPECT_EQ(signal_of([&](Code& c) { c.store(data, 64, 0); }), SIGILL);
  EXPECT_EQ(signal_of([](Code& c) { c.tdpbssd(c.tmm0, c.tmm1, c.tmm2); }), SIGILL);
  EXPECT_EQ(signal_of([](Code& c) { c.tilerelease(); }), 0);
  // One tile of the configuration is not another.
  const auto config = tile_config({{16, 64}, {16, 64}});
  run_code([&](Code& code) { code.configure(config); });
  EXPECT_EQ(signal_of([](Code& c) { c.tilezero(c.tmm1); }), 0);
  EXPECT_EQ(signal_of([](Code& c) { c.tilezero(c.tmm2); }), SIGILL);
  EXPECT_EQ(signal_of([&](Code& c) { c.load(7, data, 64); }), SIGILL);
  EXPECT_EQ(signal_of([](Code& c) { c.tdpbssd(c.tmm0, c.tmm1, c.tmm2); }), SIGILL);
}

TEST_F(AmxFaults, UndefinedLeavesAnAddressOfCode) {
  const Fault fault = fault_of([](Code& c) { c.tilezero(c.tmm0); });
  EXPECT_EQ(fault.signal, SIGILL);
  EXPECT_NE(fault.address, nullptr);
}

// tmm0 (m x n), tmm1 (m x k), tmm2 (k x n) of the given shapes.
Fault fault_of_shapes(TileShape c, TileShape a, TileShape b) {
  const auto config = tile_config({c, a, b});
  return fault_of([&](Code& code) {
    code.configure(config);
    code.tdpbsud(code.tmm0, code.tmm1, code.tmm2);
  });
}

TEST_F(AmxFaults, ShapesOfAProductMustAgree) {
  EXPECT_EQ(fault_of_shapes({7, 20}, {7, 12}, {3, 20}).signal, 0);
  EXPECT_EQ(fault_of_shapes({6, 20}, {7, 12}, {3, 20}).signal, SIGILL);  // rows of c and a
  EXPECT_EQ(fault_of_shapes({7, 20}, {7, 16}, {3, 20}).signal, SIGILL);  // k
  EXPECT_EQ(fault_of_shapes({7, 20}, {7, 12}, {4, 20}).signal, SIGILL);
  EXPECT_EQ(fault_of_shapes({7, 20}, {7, 12}, {3, 24}).signal, SIGILL);  // columns of c and b
  EXPECT_EQ(fault_of_shapes({7, 21}, {7, 12}, {3, 21}).signal, SIGILL);  // no whole dwords
  EXPECT_EQ(fault_of_shapes({7, 20}, {7, 13}, {3, 20}).signal, SIGILL);
}

TEST_F(AmxFaults, OperandsOfAProductMustDiffer) {
  const auto config = tile_config({{16, 64}, {16, 64}, {16, 64}});
  run_code([&](Code& code) { code.configure(config); });
  EXPECT_EQ(signal_of([](Code& c) { c.tdpbssd(c.tmm0, c.tmm1, c.tmm2); }), 0);
  EXPECT_EQ(signal_of([](Code& c) { c.tdpbssd(c.tmm0, c.tmm0, c.tmm2); }), SIGILL);
  EXPECT_EQ(signal_of([](Code& c) { c.tdpbsud(c.tmm0, c.tmm1, c.tmm0); }), SIGILL);
  EXPECT_EQ(signal_of([](Code& c) { c.tdpbusd(c.tmm0, c.tmm1, c.tmm1); }), SIGILL);
  EXPECT_EQ(signal_of([](Code& c) { c.tdpbuud(c.tmm2, c.tmm2, c.tmm2); }), SIGILL);
  EXPECT_EQ(signal_of([](Code& c) { c.tdpbf16ps(c.tmm1, c.tmm2, c.tmm1); }), SIGILL);
  EXPECT_EQ(signal_of([](Code& c) { c.tdpbf16ps(c.tmm1, c.tmm2, c.tmm0); }), 0);
}

TEST_F(AmxFaults, RowsOfOddBytesCannotBeMoved) {
  uint8_t data[64] = {};
  const auto config = tile_config({{1, 6}});
  run_code([&](Code& code) { code.configure(config); });
  EXPECT_EQ(signal_of([](Code& c) { c.tilezero(c.tmm0); }), 0);
  EXPECT_EQ(signal_of([&](Code& c) { c.load(0, data, 8); }), SIGILL);
  EXPECT_EQ(signal_of([&](Code& c) { c.store(data, 8, 0); }), SIGILL);
}

TEST_F(AmxFaults, StartRowMustLieInTheTile) {
  uint8_t data[1024] = {};
  for (const int start : {4, 16, 255}) {
    const auto config = tile_config({{4, 64}}, start);
    run_code([&](Code& code) { code.configure(config); });
    EXPECT_EQ(signal_of([&](Code& c) { c.load(0, data, 64); }), SIGILL) << start;
    EXPECT_EQ(signal_of([&](Code& c) { c.store(data, 64, 0); }), SIGILL) << start;
    EXPECT_EQ(current_config()[1], start);
  }
}

TEST_F(AmxFaults, EncodingsThatAreNoInstruction) {
  const auto config =
      tile_config({{16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}});
  run_code([&](Code& code) { code.configure(config); });
  alignas(64) static uint8_t data[1024] = {};
  const auto raw = [](std::initializer_list<int> bytes) {
    return signal_of([&](Code& c) {
      c.load_address(c.rax, data);
      c.xor_(c.edx, c.edx);
      c.bytes(bytes);
    });
  };
  // The forms that exist, as a check of this test: tileloadd tmm0, [rax + rdx]; tdpbssd.
  EXPECT_EQ(raw({0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x10}), 0);
  EXPECT_EQ(raw({0xc4, 0xe2, 0x6b, 0x5e, 0xc1}), 0);
  struct Encoding {
    const char* label;
    std::initializer_list<int> bytes;
  };
  const Encoding encodings[] = {
      {"tileloadd without SIB", {0xc4, 0xe2, 0x7b, 0x4b, 0x00}},
      {"tileloadd RIP-relative", {0xc4, 0xe2, 0x7b, 0x4b, 0x05, 0, 0, 0, 0}},
      {"tileloadd of a register", {0xc4, 0xe2, 0x7b, 0x4b, 0xc4}},
      {"tileloadd without prefix", {0xc4, 0xe2, 0x78, 0x4b, 0x04, 0x10}},
      {"tileloadd with vvvv", {0xc4, 0xe2, 0x73, 0x4b, 0x04, 0x10}},
      {"tileloadd of tmm8", {0xc4, 0x62, 0x7b, 0x4b, 0x04, 0x10}},
      {"tileloadd with W1", {0xc4, 0xe2, 0xfb, 0x4b, 0x04, 0x10}},
      {"tileloadd with L1", {0xc4, 0xe2, 0x7f, 0x4b, 0x04, 0x10}},
      {"tileloadd in another map", {0xc4, 0xe1, 0x7b, 0x4b, 0x04, 0x10}},
      {"tilestored without SIB", {0xc4, 0xe2, 0x7a, 0x4b, 0x00}},
      {"a 66 before VEX", {0x66, 0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x10}},
      {"a REX before VEX", {0x48, 0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x10}},
      {"ldtilecfg with reg 1", {0xc4, 0xe2, 0x78, 0x49, 0x08}},
      {"ldtilecfg with vvvv", {0xc4, 0xe2, 0x70, 0x49, 0x00}},
      {"ldtilecfg with F3", {0xc4, 0xe2, 0x7a, 0x49, 0x00}},
      {"tilerelease with reg 1", {0xc4, 0xe2, 0x78, 0x49, 0xc8}},
      {"tilezero with rm 1", {0xc4, 0xe2, 0x7b, 0x49, 0xc1}},
      {"tilezero of tmm8", {0xc4, 0x62, 0x7b, 0x49, 0xc0}},
      {"tdpbssd of memory", {0xc4, 0xe2, 0x6b, 0x5e, 0x00}},
      {"tdpbssd of tmm8", {0xc4, 0xc2, 0x6b, 0x5e, 0xc1}},
      {"tdpbssd of tmm10 in vvvv", {0xc4, 0xe2, 0x2b, 0x5e, 0xc1}},
      {"5c without prefix", {0xc4, 0xe2, 0x68, 0x5c, 0xc1}},
      {"ud2", {0x0f, 0x0b}},
  };
  for (const Encoding& encoding : encodings) {
    EXPECT_EQ(raw(encoding.bytes), SIGILL) << encoding.label;
  }
}

// --- memory ---

constexpr size_t kPage = 4096;

TEST_F(AmxFaults, LoadPastTheEndFaultsAtTheFirstByteThatIsNotThere) {
  GuardedBuffer<uint8_t> data(5 * 64 + 24, 1);
  const auto config = tile_config({{16, 64}});
  const Fault fault = fault_of([&](Code& c) {
    c.configure(config);
    c.load(0, data.data(), 64);
  });
  EXPECT_EQ(fault.signal, SIGSEGV);
  EXPECT_EQ(fault.address, data.end());
  EXPECT_EQ(current_config()[1], 5);  // five rows are done
}

TEST_F(AmxFaults, StorePastTheEndFaultsAfterWholeRows) {
  GuardedBuffer<uint8_t> data(3 * 64, 1);
  const auto config = tile_config({{16, 64}});
  const Fault fault = fault_of([&](Code& c) {
    c.configure(config);
    c.store(data.data(), 64, 0);
  });
  EXPECT_EQ(fault.signal, SIGSEGV);
  EXPECT_EQ(fault.address, data.end());
  EXPECT_EQ(current_config()[1], 3);
  EXPECT_EQ(data[0], 0);
  EXPECT_EQ(data[191], 0);
}

TEST_F(AmxFaults, ConfigurationAtTheEndOfMemory) {
  GuardedBuffer<uint8_t> whole(64);
  const auto config = tile_config({{16, 64}});
  std::copy(config.begin(), config.end(), whole.begin());
  EXPECT_EQ(signal_of([&](Code& c) {
              c.load_address(c.rax, whole.data());
              c.ldtilecfg(c.ptr[c.rax]);
            }),
            0);
  for (const bool load : {true, false}) {
    const Fault fault = fault_of([&](Code& c) {
      c.load_address(c.rax, whole.data() + 1);
      load ? c.ldtilecfg(c.ptr[c.rax]) : c.sttilecfg(c.ptr[c.rax]);
    });
    EXPECT_EQ(fault.signal, SIGSEGV);
    EXPECT_EQ(fault.address, whole.end());
  }
}

TEST_F(AmxFaults, TilesWithinTheirColumnsStayInMemory) {
  // 3 rows of 20 bytes, 24 apart: the last ends where memory ends.
  GuardedBuffer<uint8_t> data(2 * 24 + 20, 7);
  const auto config = tile_config({{3, 20}});
  EXPECT_EQ(signal_of([&](Code& c) {
              c.configure(config);
              c.load(0, data.data(), 24);
              c.store(data.data(), 24, 0);
            }),
            0);
}

// Makes the page of the fault accessible and returns: the load goes on.
std::atomic<int> repairs{0};

TEST_F(AmxFaults, LoadsGoOnWhenAHandlerRepairsTheMapping) {
  auto* memory = static_cast<uint8_t*>(
      mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  for (size_t i = 0; i < 2 * kPage; ++i) memory[i] = static_cast<uint8_t>(i / 64);
  ASSERT_EQ(mprotect(memory + kPage, kPage, PROT_NONE), 0);
  struct sigaction repair {
  }, before{};
  repair.sa_sigaction = [](int, siginfo_t* info, void*) {
    const auto page = reinterpret_cast<uintptr_t>(info->si_addr) / kPage * kPage;
    mprotect(reinterpret_cast<void*>(page), kPage, PROT_READ);
    ++repairs;
  };
  repair.sa_flags = SA_SIGINFO;
  ASSERT_EQ(sigaction(SIGSEGV, &repair, &before), 0);
  repairs = 0;
  const auto config = tile_config({{16, 64}});
  uint8_t out[1024] = {};
  run_code([&](Code& c) {
    c.configure(config);
    c.load(0, memory + kPage - 5 * 64, 64);
    c.store(out, 64, 0);
  });
  sigaction(SIGSEGV, &before, nullptr);
  EXPECT_EQ(repairs, 1);
  for (int i = 0; i < 1024; ++i) ASSERT_EQ(out[i], kPage / 64 - 5 + i / 64) << i;
  munmap(memory, 2 * kPage);
}

// --- the process ---

TEST(AmxFaultsDeathTest, OtherIllegalInstructionsEndTheProcess) {
  EXPECT_EXIT(
      {
        std::signal(SIGILL, SIG_DFL);
        const AmxEmulator emulator;
        run_code([](Code& c) { c.ud2(); });
      },
      ::testing::KilledBySignal(SIGILL), "");
}

TEST(AmxFaultsDeathTest, UndefinedTileInstructionsEndTheProcess) {
  EXPECT_EXIT(
      {
        std::signal(SIGILL, SIG_DFL);
        const AmxEmulator emulator;
        run_code([](Code& c) { c.tilezero(c.tmm0); });
      },
      ::testing::KilledBySignal(SIGILL), "");
}

TEST(AmxFaultsDeathTest, TheHandlerGoesWithItsObject) {
  if (jit::cpu().amx_tile) GTEST_SKIP() << "tiles are real here";
  EXPECT_EXIT(
      {
        std::signal(SIGILL, SIG_DFL);
        { const AmxEmulator emulator; }
        run_code([](Code& c) { c.tilerelease(); });
      },
      ::testing::KilledBySignal(SIGILL), "");
}

}  // namespace
}  // namespace nibble::test
