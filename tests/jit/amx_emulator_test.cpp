// Every AMX instruction against a plain reference: under the emulator where the machine has no AMX,
// natively where it has. Faults are amx_faults_test.cpp.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "jit/isa.h"
#include "tests/jit/amx_code.h"

namespace nibble::test {
namespace {

using Xbyak::Tmm;

class AmxEmulatorTest : public ::testing::Test {
 protected:
  void SetUp() override { jit::cpu(); }  // asks for permission to use tiles where they are real
  void TearDown() override {
    run_code([](Code& code) { code.tilerelease(); });
  }
  AmxEmulator emulator_;
};

std::vector<uint8_t> random_bytes(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> out(count);
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(random());
  return out;
}

TEST_F(AmxEmulatorTest, EveryInstructionTrapsOnlyWhereThereIsNoAmx) {
  const uint64_t before = AmxEmulator::executed();
  run_code([](Code& code) { code.tilerelease(); });
  EXPECT_EQ(AmxEmulator::executed() - before, jit::cpu().amx_tile ? 0U : 1U);
}

// --- configuration ---

TEST_F(AmxEmulatorTest, ConfigurationComesBack) {
  const AmxTiles::Config none{};
  EXPECT_EQ(current_config(), none);
  const auto config =
      tile_config({{16, 64}, {1, 4}, {7, 60}, {0, 0}, {16, 8}, {3, 3}, {2, 64}, {9, 36}});
  run_code([&](Code& code) { code.configure(config); });
  EXPECT_EQ(current_config(), config);
  run_code([](Code& code) { code.tilerelease(); });
  EXPECT_EQ(current_config(), none);
}

TEST_F(AmxEmulatorTest, PaletteZeroReleases) {
  const auto config = tile_config({{16, 64}});
  AmxTiles::Config zero = config;
  zero[0] = 0;
  run_code([&](Code& code) {
    code.configure(config);
    code.configure(zero);
  });
  EXPECT_EQ(current_config(), AmxTiles::Config{});
}

TEST_F(AmxEmulatorTest, ConfiguringZeroesTiles) {
  const auto config = tile_config({{16, 64}});
  const std::vector<uint8_t> data = random_bytes(1024, 1);
  std::vector<uint8_t> out(1024, 0xee);
  run_code([&](Code& code) {
    code.configure(config);
    code.load(0, data.data(), 64);
    code.configure(config);
    code.store(out.data(), 64, 0);
  });
  EXPECT_EQ(out, std::vector<uint8_t>(1024, 0));
}

TEST_F(AmxEmulatorTest, ConfigurationIsReadInEveryAddressingForm) {
  const auto config = tile_config({{5, 20}});
  const uint8_t* at = config.data();
  const std::function<void(Code&)> forms[] = {
      [&](Code& c) {
        c.load_address(c.r13, at);
        c.ldtilecfg(c.ptr[c.r13]);
      },
      [&](Code& c) {
        c.load_address(c.r8, at - 100);
        c.ldtilecfg(c.ptr[c.r8 + 100]);
      },
      [&](Code& c) {
        c.load_address(c.rdx, at + 0x12345);
        c.mov(c.r9, -0x12345);
        c.ldtilecfg(c.ptr[c.rdx + c.r9]);
      },
      [&](Code& c) {
        c.load_address(c.r10, at - 4000);
        c.mov(c.r11, 500);
        c.ldtilecfg(c.ptr[c.r10 + c.r11 * 8]);
      },
      [&](Code& c) {  // RIP-relative, over the bytes of the configuration
        Xbyak::Label data, behind;
        c.ldtilecfg(c.ptr[c.rip + data]);
        c.jmp(behind, Xbyak::CodeGenerator::T_NEAR);
        c.L(data);
        for (const uint8_t byte : config) c.db(byte);
        c.L(behind);
      },
  };
  for (const auto& form : forms) {
    run_code([&](Code& c) {
      for (const auto& reg : {c.r13}) c.push(reg);
      form(c);
      for (const auto& reg : {c.r13}) c.pop(reg);
    });
    EXPECT_EQ(current_config(), config);
    run_code([](Code& c) { c.tilerelease(); });
  }
}

// --- loads and stores ---

// Rows of `colsb` bytes, `stride` apart, in a buffer of 16 * 128.
std::vector<uint8_t> rows_of(const std::vector<uint8_t>& data, int rows, int colsb, int stride) {
  std::vector<uint8_t> out;
  for (int r = 0; r < rows; ++r) {
    out.insert(out.end(), data.begin() + r * stride, data.begin() + r * stride + colsb);
  }
  return out;
}

TEST_F(AmxEmulatorTest, LoadsAndStoresEveryShape) {
  const std::vector<uint8_t> data = random_bytes(16 * 128, 2);
  for (const int rows : {1, 2, 9, 16}) {
    for (const int colsb : {4, 8, 36, 64}) {
      const auto config = tile_config({{}, {}, {}, {rows, colsb}});
      std::vector<uint8_t> out(static_cast<size_t>(rows) * colsb, 0xee);
      run_code([&](Code& code) {
        code.configure(config);
        code.load(3, data.data(), 100);
        code.store(out.data(), colsb, 3);
      });
      EXPECT_EQ(out, rows_of(data, rows, colsb, 100)) << rows << " x " << colsb;
    }
  }
}

TEST_F(AmxEmulatorTest, StoresTouchNothingBetweenRows) {
  const std::vector<uint8_t> data = random_bytes(1024, 3);
  const auto config = tile_config({{3, 12}});
  std::vector<uint8_t> out(3 * 20, 0xee);
  run_code([&](Code& code) {
    code.configure(config);
    code.load(0, data.data(), 64);
    code.store(out.data(), 20, 0);
  });
  for (int i = 0; i < 60; ++i) {
    EXPECT_EQ(out[i], i % 20 < 12 ? data[i / 20 * 64 + i % 20] : 0xee) << i;
  }
}

struct Form {
  const char* label;
  std::function<void(Code&, const uint8_t*, int)> load;  // tile 0 from an address with a stride
};

// tileloadd tmm0 with ModRM and SIB written by hand: r, x, b extend registers when true.
void raw_load(Code& c, int mod, int scale, int index, int base) {
  const int vex = 0xe2 & ~(index >= 8 ? 0x40 : 0) & ~(base >= 8 ? 0x20 : 0);
  c.bytes({0xc4, vex, 0x7b, 0x4b, mod << 6 | 4, scale << 6 | (index & 7) << 3 | (base & 7)});
}

const std::vector<Form>& forms() {
  static const std::vector<Form> all = {
      {"base and index", [](Code& c, const uint8_t* at, int stride) { c.load(0, at, stride); }},
      {"high registers, index times 4, 8 bits of displacement",
       [](Code& c, const uint8_t* at, int stride) {
         c.load_address(c.r8, at + 128);
         c.mov(c.r9, stride / 4);
         c.tileloadd(c.tmm0, c.ptr[c.r8 + c.r9 * 4 - 128]);
       }},
      {"r13 and r12, index times 2, 32 bits of displacement",
       [](Code& c, const uint8_t* at, int stride) {
         c.load_address(c.r13, at - 0x12340);
         c.mov(c.r12, stride / 2);
         c.tileloadd(c.tmm0, c.ptr[c.r13 + c.r12 * 2 + 0x12340]);
       }},
      {"rbp without displacement, index times 8",
       [](Code& c, const uint8_t* at, int stride) {
         c.load_address(c.rbp, at);
         c.mov(c.rcx, stride / 8);
         c.tileloadd(c.tmm0, c.ptr[c.rbp + c.rcx * 8]);
       }},
      {"T1",
       [](Code& c, const uint8_t* at, int stride) {
         c.load_address(c.rsi, at);
         c.mov(c.rdi, stride);
         c.tileloaddt1(c.tmm0, c.ptr[c.rsi + c.rdi]);
       }},
  };
  return all;
}

TEST_F(AmxEmulatorTest, LoadsInEveryAddressingForm) {
  const std::vector<uint8_t> data = random_bytes(16 * 128, 4);
  const auto config = tile_config({{16, 64}});
  for (const Form& form : forms()) {
    std::vector<uint8_t> out(1024, 0xee);
    run_code([&](Code& c) {
      const Xbyak::Reg64 saved[] = {c.rbx, c.rbp, c.r12, c.r13, c.r14, c.r15};
      for (const auto& reg : saved) c.push(reg);
      c.configure(config);
      form.load(c, data.data(), 96);
      c.store(out.data(), 64, 0);
      for (int i = 5; i >= 0; --i) c.pop(saved[i]);
    });
    EXPECT_EQ(out, rows_of(data, 16, 64, 96)) << form.label;
  }
}

TEST_F(AmxEmulatorTest, StridesMayBeNegative) {
  const std::vector<uint8_t> data = random_bytes(1024, 15);
  const auto config = tile_config({{16, 64}});
  std::vector<uint8_t> out(1024, 0xee);
  run_code([&](Code& c) {
    c.configure(config);
    c.load(0, data.data() + 15 * 64, -64);
    c.store(out.data(), 64, 0);
  });
  for (int i = 0; i < 1024; ++i) ASSERT_EQ(out[i], data[(15 - i / 64) * 64 + i % 64]) << i;
}

TEST_F(AmxEmulatorTest, WithoutIndexEveryRowIsTheFirst) {
  const std::vector<uint8_t> data = random_bytes(64, 5);
  const auto config = tile_config({{4, 64}});
  std::vector<uint8_t> out(256, 0xee);
  run_code([&](Code& c) {
    c.configure(config);
    c.load_address(c.rcx, data.data());
    raw_load(c, 0, 0, 4, 1);
    c.store(out.data(), 64, 0);
  });
  EXPECT_EQ(out, rows_of(data, 4, 64, 0));
}

TEST_F(AmxEmulatorTest, WithoutBaseTheDisplacementIsTheAddress) {
  // Below 2 GiB, where a displacement reaches.
  void* low =
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  ASSERT_NE(low, MAP_FAILED);
  const std::vector<uint8_t> data = random_bytes(4096, 6);
  std::memcpy(low, data.data(), data.size());
  const auto config = tile_config({{16, 64}});
  std::vector<uint8_t> out(1024, 0xee);
  run_code([&](Code& c) {
    c.configure(config);
    c.mov(c.rcx, 40);
    raw_load(c, 0, 1, 1, 5);
    c.dd(static_cast<uint32_t>(reinterpret_cast<uint64_t>(low)));
    c.store(out.data(), 64, 0);
  });
  EXPECT_EQ(out, rows_of(data, 16, 64, 80));
  munmap(low, 4096);
}

TEST_F(AmxEmulatorTest, StackPointerAsBase) {
  const std::vector<uint8_t> data = random_bytes(64, 7);
  const auto config = tile_config({{1, 64}});
  std::vector<uint8_t> out(64, 0xee);
  run_code([&](Code& c) {
    c.configure(config);
    c.load(0, data.data(), 64);
    c.sub(c.rsp, 64);
    c.mov(c.rdx, 64);
    c.tilestored(c.ptr[c.rsp + c.rdx], c.tmm0);
    c.tilezero(c.tmm0);
    c.tileloadd(c.tmm0, c.ptr[c.rsp + c.rdx]);
    c.add(c.rsp, 64);
    c.store(out.data(), 64, 0);
  });
  EXPECT_EQ(out, data);
}

TEST_F(AmxEmulatorTest, TileZeroClearsOneTile) {
  const std::vector<uint8_t> data = random_bytes(1024, 8);
  const auto config = tile_config({{16, 64}, {16, 64}});
  std::vector<uint8_t> zeroed(1024, 0xee);
  std::vector<uint8_t> kept(1024, 0xee);
  run_code([&](Code& c) {
    c.configure(config);
    c.load(0, data.data(), 64);
    c.load(1, data.data(), 64);
    c.tilezero(c.tmm1);
    c.store(kept.data(), 64, 0);
    c.store(zeroed.data(), 64, 1);
  });
  EXPECT_EQ(kept, data);
  EXPECT_EQ(zeroed, std::vector<uint8_t>(1024, 0));
}

TEST_F(AmxEmulatorTest, StartRowSkipsRowsOnceAndIsClearedAfterwards) {
  const std::vector<uint8_t> data = random_bytes(512, 9);
  const auto config = tile_config({{8, 64}}, 3);
  std::vector<uint8_t> out(512, 0xee);
  run_code([&](Code& c) {
    c.configure(config);
    c.load(0, data.data(), 64);
    c.store(out.data(), 64, 0);
  });
  std::vector<uint8_t> expected = data;
  std::fill_n(expected.begin(), 192, uint8_t{0});
  EXPECT_EQ(out, expected);
  EXPECT_EQ(current_config()[1], 0);

  std::fill(out.begin(), out.end(), uint8_t{0xee});
  run_code([&](Code& c) {
    c.configure(config);
    c.store(out.data(), 64, 0);
  });
  EXPECT_EQ(out[191], 0xee);
  EXPECT_EQ(out[192], 0);
  EXPECT_EQ(current_config()[1], 0);
}

TEST_F(AmxEmulatorTest, ThreadsHaveTilesOfTheirOwn) {
  const auto config = tile_config({{16, 64}});
  run_code([&](Code& code) { code.configure(config); });
  std::thread([] {
    EXPECT_EQ(current_config(), AmxTiles::Config{});
    const auto other = tile_config({{2, 8}});
    run_code([&](Code& code) { code.configure(other); });
    EXPECT_EQ(current_config(), other);
    run_code([](Code& code) { code.tilerelease(); });
  }).join();
  EXPECT_EQ(current_config(), config);
}

// --- dot products ---

struct Product {
  int m, n, k;
  std::vector<uint8_t> a, b, c;  // rows without gaps
};

Product random_product(int m, int n, int k, uint64_t seed) {
  return {m,
          n,
          k,
          random_bytes(static_cast<size_t>(m) * k * 4, seed),
          random_bytes(static_cast<size_t>(k) * n * 4, seed + 1),
          random_bytes(static_cast<size_t>(m) * n * 4, seed + 2)};
}

// tmm2 += tmm5 * tmm7 by one instruction.
template <typename Emit>
std::vector<uint8_t> multiplied(const Product& p, Emit emit) {
  const auto config =
      tile_config({{}, {}, {p.m, p.n * 4}, {}, {}, {p.m, p.k * 4}, {}, {p.k, p.n * 4}});
  std::vector<uint8_t> out(p.c.size());
  run_code([&](Code& c) {
    c.configure(config);
    c.load(2, p.c.data(), p.n * 4);
    c.load(5, p.a.data(), p.k * 4);
    c.load(7, p.b.data(), p.n * 4);
    emit(c);
    c.store(out.data(), p.n * 4, 2);
  });
  return out;
}

int64_t element(uint8_t byte, bool is_signed) {
  return is_signed ? static_cast<int8_t>(byte) : byte;
}

std::vector<uint8_t> reference_bytes(const Product& p, bool a_signed, bool b_signed) {
  std::vector<uint8_t> out(p.c.size());
  for (int i = 0; i < p.m * p.n; ++i) {
    const int row = i / p.n, column = i % p.n;
    int32_t start = 0;
    std::memcpy(&start, &p.c[static_cast<size_t>(i) * 4], 4);
    int64_t sum = start;
    for (int kk = 0; kk < p.k * 4; ++kk) {
      sum += element(p.a[row * p.k * 4 + kk], a_signed) *
             element(p.b[kk / 4 * p.n * 4 + column * 4 + kk % 4], b_signed);
    }
    const auto wrapped = static_cast<uint32_t>(sum);
    std::memcpy(&out[static_cast<size_t>(i) * 4], &wrapped, 4);
  }
  return out;
}

constexpr int kTileShapes[][3] = {{16, 16, 16}, {1, 1, 1},   {16, 16, 4},
                                  {7, 16, 8},   {16, 3, 15}, {5, 9, 11}};

void check_bytes(const Product& p) {
  const auto label = fmt::format("{} x {} x {}", p.m, p.n, p.k);
  EXPECT_EQ(multiplied(p, [](Code& c) { c.tdpbssd(c.tmm2, c.tmm5, c.tmm7); }),
            reference_bytes(p, true, true))
      << label;
  EXPECT_EQ(multiplied(p, [](Code& c) { c.tdpbsud(c.tmm2, c.tmm5, c.tmm7); }),
            reference_bytes(p, true, false))
      << label;
  EXPECT_EQ(multiplied(p, [](Code& c) { c.tdpbusd(c.tmm2, c.tmm5, c.tmm7); }),
            reference_bytes(p, false, true))
      << label;
  EXPECT_EQ(multiplied(p, [](Code& c) { c.tdpbuud(c.tmm2, c.tmm5, c.tmm7); }),
            reference_bytes(p, false, false))
      << label;
}

TEST_F(AmxEmulatorTest, DotsOfBytesEqualTheirReference) {
  uint64_t seed = 10;
  for (const auto& [m, n, k] : kTileShapes) check_bytes(random_product(m, n, k, seed += 3));
}

TEST_F(AmxEmulatorTest, DotsOfBytesWrapAndTakeExtremes) {
  Product p = random_product(16, 16, 16, 40);
  for (size_t i = 0; i < p.c.size(); i += 4) {
    const int32_t near_the_end = i % 8 == 0 ? INT32_MAX : INT32_MIN;
    std::memcpy(&p.c[i], &near_the_end, 4);
  }
  for (size_t i = 0; i < p.a.size(); ++i) p.a[i] = i % 3 == 0 ? 0x80 : 0xff;
  for (size_t i = 0; i < p.b.size(); ++i) p.b[i] = i % 5 == 0 ? 0x7f : 0x80;
  check_bytes(p);
}

// Zero where it is subnormal.
float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0F, x) : x; }

float bf16(const std::vector<uint8_t>& bytes, size_t index) {
  const uint32_t bits = static_cast<uint32_t>(bytes[2 * index] | bytes[2 * index + 1] << 8) << 16;
  return flushed(std::bit_cast<float>(bits));
}

float bf16_reference(const Product& p, int row, int column) {
  float partial[2] = {0, 0};
  for (int k = 0; k < p.k; ++k) {
    for (int odd = 0; odd < 2; ++odd) {
      const float x = bf16(p.a, static_cast<size_t>(row * p.k + k) * 2 + odd);
      const float y = bf16(p.b, static_cast<size_t>(k * p.n + column) * 2 + odd);
      partial[odd] = flushed(std::fma(x, y, partial[odd]));
    }
  }
  float start = 0;
  std::memcpy(&start, &p.c[static_cast<size_t>(row * p.n + column) * 4], 4);
  return flushed(flushed(start) + flushed(partial[0] + partial[1]));
}

void check_bf16(const Product& p) {
  const std::vector<uint8_t> out =
      multiplied(p, [](Code& c) { c.tdpbf16ps(c.tmm2, c.tmm5, c.tmm7); });
  for (int i = 0; i < p.m * p.n; ++i) {
    float found = 0;
    std::memcpy(&found, &out[static_cast<size_t>(i) * 4], 4);
    const float expected = bf16_reference(p, i / p.n, i % p.n);
    EXPECT_TRUE(same_bits(found, expected)) << fmt::format(
        "{} x {} x {}: element {} is {:a}, expected {:a}", p.m, p.n, p.k, i, found, expected);
  }
}

TEST_F(AmxEmulatorTest, DotsOfBf16EqualTheirReference) {
  std::mt19937_64 random(50);
  for (const auto& [m, n, k] : kTileShapes) {
    Product p = random_product(m, n, k, random());
    // Exponents near each other, so that rounding happens at every step.
    for (std::vector<uint8_t>* bytes : {&p.a, &p.b}) {
      for (size_t i = 1; i < bytes->size(); i += 2) {
        (*bytes)[i] = static_cast<uint8_t>(0x3c + random() % 6 + (random() % 2) * 128);
      }
    }
    for (size_t i = 3; i < p.c.size(); i += 4) p.c[i] = static_cast<uint8_t>(0x3c + random() % 6);
    check_bf16(p);
  }
}

// All bits at random: infinities, NaNs, subnormal operands and results.
TEST_F(AmxEmulatorTest, DotsOfBf16TakeSpecialValues) {
  for (uint64_t seed = 60; seed < 70; ++seed) check_bf16(random_product(16, 16, 2, seed));
  Product tiny = random_product(4, 4, 4, 70);
  for (std::vector<uint8_t>* bytes : {&tiny.a, &tiny.b}) {
    for (size_t i = 1; i < bytes->size(); i += 2) (*bytes)[i] = i % 4 == 1 ? 0x00 : 0x20;
  }
  std::fill(tiny.c.begin(), tiny.c.end(), uint8_t{0});
  check_bf16(tiny);
}

// What no instruction can show, since stores keep to the configuration: the rest of a tile is zero.
TEST(AmxTilesTest, RowsAndColumnsBeyondTheConfigurationAreZero) {
  AmxTiles tiles;
  ASSERT_EQ(tiles.load_config(tile_config({{5, 20}, {5, 12}, {3, 20}})), AmxFault::none);
  const std::vector<uint8_t> ones(1024, 0xff);
  for (int t = 0; t < 3; ++t) {
    ASSERT_EQ(tiles.load(t, reinterpret_cast<uint64_t>(ones.data()), 64), AmxFault::none);
  }
  ASSERT_EQ(tiles.dot_bytes(0, 1, 2, true, true), AmxFault::none);
  for (int row = 0; row < AmxTiles::kRows; ++row) {
    for (int column = 0; column < AmxTiles::kRowBytes; ++column) {
      const bool inside = row < 5 && column < 20;
      const uint8_t expected = column % 4 == 0 ? 11 : 0;  // -1 + 12 * (-1 * -1)
      EXPECT_EQ(tiles.byte(0, row, column), inside ? expected : 0) << row << ", " << column;
    }
  }
}

}  // namespace
}  // namespace nibble::test
