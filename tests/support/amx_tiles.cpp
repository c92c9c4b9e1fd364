#include "tests/support/amx_tiles.h"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace nibble::test {
namespace {

constexpr int kColsbAt = 16, kRowsAt = 48;

// Plain moves of the processor: no sanitizer looks at them, and a page fault names the byte.
void move_bytes(void* to, const void* from, size_t count) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

bool all_zero(const AmxTiles::Config& config, int begin, int end) {
  return std::all_of(config.begin() + begin, config.begin() + end,
                     [](uint8_t b) { return b == 0; });
}

uint32_t dword(const uint8_t* bytes) {
  uint32_t out = 0;
  std::memcpy(&out, bytes, sizeof(out));
  return out;
}

// The sum of four products, modulo 2^32.
template <bool a_signed, bool b_signed>
uint32_t dot_quad(uint32_t a, uint32_t b) {
  uint32_t sum = 0;
  for (int i = 0; i < 4; ++i) {
    const auto x = static_cast<uint8_t>(a >> (8 * i));
    const auto y = static_cast<uint8_t>(b >> (8 * i));
    const int left = a_signed ? static_cast<int8_t>(x) : x;
    const int right = b_signed ? static_cast<int8_t>(y) : y;
    sum += static_cast<uint32_t>(left * right);
  }
  return sum;
}

struct Shape {
  int m, n, k;  // rows, dwords a row, dwords of a row of the first factor
};

using Tile = uint8_t (&)[AmxTiles::kRows][AmxTiles::kRowBytes];

template <bool a_signed, bool b_signed>
void multiply_bytes(const Shape& shape, Tile c, Tile a, Tile b) {
  for (int m = 0; m < shape.m; ++m) {
    std::array<uint32_t, 16> sums{};
    std::memcpy(sums.data(), c[m], sizeof(sums));
    for (int k = 0; k < shape.k; ++k) {
      const uint32_t quad = dword(&a[m][k * 4]);
      std::array<uint32_t, 16> row{};
      std::memcpy(row.data(), b[k], sizeof(row));
      for (int n = 0; n < shape.n; ++n) sums[n] += dot_quad<a_signed, b_signed>(quad, row[n]);
    }
    std::memcpy(c[m], sums.data(), sizeof(sums));
  }
}

float bf16_to_f32(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

// Even and odd products add up apart, one FMA each in ascending k; then even + odd; then c + that.
// Runs under the caller's MXCSR.
__attribute__((noinline, target("fma"))) void multiply_bf16(const Shape& shape, Tile c, Tile a,
                                                            Tile b) {
  for (int m = 0; m < shape.m; ++m) {
    for (int n = 0; n < shape.n; ++n) {
      float even = 0;
      float odd = 0;
      for (int k = 0; k < shape.k; ++k) {
        const uint32_t x = dword(&a[m][k * 4]);
        const uint32_t y = dword(&b[k][n * 4]);
        even = __builtin_fmaf(bf16_to_f32(x & 0xffffU), bf16_to_f32(y & 0xffffU), even);
        odd = __builtin_fmaf(bf16_to_f32(x >> 16), bf16_to_f32(y >> 16), odd);
      }
      const float sum = std::bit_cast<float>(dword(&c[m][n * 4])) + (even + odd);
      std::memcpy(&c[m][n * 4], &sum, sizeof(sum));
    }
  }
}

// Subnormal operands and results are zero, rounding is to nearest even, no exception is raised.
constexpr unsigned kTileMxcsr = 0x9fc0;

}  // namespace

AmxFault AmxTiles::load_config(const Config& config) {
  if (config[0] == 0) {
    release();
    return AmxFault::none;
  }
  if (config[0] != 1) return AmxFault::protection;
  if (!all_zero(config, 2, kColsbAt) || !all_zero(config, 32, kRowsAt) ||
      !all_zero(config, 56, 64)) {
    return AmxFault::protection;
  }
  AmxTiles fresh;
  fresh.palette_ = config[0];
  fresh.start_row_ = config[1];
  for (int t = 0; t < kTiles; ++t) {
    fresh.rows_[t] = config[kRowsAt + t];
    fresh.colsb_[t] =
        static_cast<uint16_t>(config[kColsbAt + 2 * t] | (config[kColsbAt + 2 * t + 1] << 8));
    if (fresh.rows_[t] > kRows || fresh.colsb_[t] > kRowBytes) return AmxFault::protection;
    if ((fresh.rows_[t] == 0) != (fresh.colsb_[t] == 0)) return AmxFault::protection;
  }
  *this = fresh;
  return AmxFault::none;
}

AmxTiles::Config AmxTiles::config() const {
  Config out{};
  out[0] = palette_;
  out[1] = start_row_;
  for (int t = 0; t < kTiles; ++t) {
    out[kColsbAt + 2 * t] = static_cast<uint8_t>(colsb_[t] & 0xff);
    out[kColsbAt + 2 * t + 1] = static_cast<uint8_t>(colsb_[t] >> 8);
    out[kRowsAt + t] = rows_[t];
  }
  return out;
}

void AmxTiles::release() { *this = AmxTiles{}; }

bool AmxTiles::usable(int tile) const { return palette_ != 0 && tile < kTiles && rows_[tile] != 0; }

bool AmxTiles::multipliable(int c, int a, int b) const {
  if (c == a || c == b || a == b) return false;
  if (!usable(c) || !usable(a) || !usable(b)) return false;
  if (colsb_[c] % 4 != 0 || colsb_[a] % 4 != 0 || colsb_[b] % 4 != 0) return false;
  return rows_[c] == rows_[a] && colsb_[a] / 4 == rows_[b] && colsb_[c] == colsb_[b];
}

void AmxTiles::zero_columns_from(int tile, int row, int column) {
  std::fill(data_[tile][row] + column, data_[tile][row] + kRowBytes, uint8_t{0});
}

void AmxTiles::zero_rows_from(int tile, int row) {
  for (; row < kRows; ++row) zero_columns_from(tile, row, 0);
}

AmxFault AmxTiles::zero(int tile) {
  if (!usable(tile)) return AmxFault::undefined;
  zero_rows_from(tile, 0);
  start_row_ = 0;
  return AmxFault::none;
}

// start_row counts the rows that are done: a page fault in between leaves it for the restart.
AmxFault AmxTiles::load(int tile, uint64_t address, uint64_t stride) {
  if (!usable(tile) || colsb_[tile] % 4 != 0 || start_row_ >= rows_[tile]) {
    return AmxFault::undefined;
  }
  zero_rows_from(tile, start_row_);
  for (; start_row_ < rows_[tile]; ++start_row_) {
    const auto* from = reinterpret_cast<const void*>(address + start_row_ * stride);
    move_bytes(data_[tile][start_row_], from, colsb_[tile]);
    zero_columns_from(tile, start_row_, colsb_[tile]);
  }
  start_row_ = 0;
  return AmxFault::none;
}

AmxFault AmxTiles::store(int tile, uint64_t address, uint64_t stride) {
  if (!usable(tile) || colsb_[tile] % 4 != 0 || start_row_ >= rows_[tile]) {
    return AmxFault::undefined;
  }
  for (; start_row_ < rows_[tile]; ++start_row_) {
    auto* to = reinterpret_cast<void*>(address + start_row_ * stride);
    move_bytes(to, data_[tile][start_row_], colsb_[tile]);
  }
  start_row_ = 0;
  return AmxFault::none;
}

AmxFault AmxTiles::dot_bytes(int c, int a, int b, bool a_signed, bool b_signed) {
  if (!multipliable(c, a, b)) return AmxFault::undefined;
  const Shape shape{rows_[c], colsb_[c] / 4, rows_[b]};
  const auto multiply =
      a_signed ? (b_signed ? multiply_bytes<true, true> : multiply_bytes<true, false>)
               : (b_signed ? multiply_bytes<false, true> : multiply_bytes<false, false>);
  multiply(shape, data_[c], data_[a], data_[b]);
  for (int m = 0; m < shape.m; ++m) zero_columns_from(c, m, colsb_[c]);
  zero_rows_from(c, shape.m);
  start_row_ = 0;
  return AmxFault::none;
}

AmxFault AmxTiles::dot_bf16(int c, int a, int b) {
  if (!multipliable(c, a, b)) return AmxFault::undefined;
  const Shape shape{rows_[c], colsb_[c] / 4, rows_[b]};
  const unsigned before = _mm_getcsr();
  _mm_setcsr(kTileMxcsr);
  multiply_bf16(shape, data_[c], data_[a], data_[b]);
  _mm_setcsr(before);
  for (int m = 0; m < shape.m; ++m) zero_columns_from(c, m, colsb_[c]);
  zero_rows_from(c, shape.m);
  start_row_ = 0;
  return AmxFault::none;
}

}  // namespace nibble::test
