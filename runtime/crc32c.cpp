// crc32c of nib_file.h: CRC-32C (Castagnoli, RFC 3720), by the instruction where there is one.

#include <nmmintrin.h>

#include <array>
#include <cstring>

#include "runtime/nib_file.h"

namespace nibble::runtime {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // bit-reversed: bit 31 is x^0

// Slicing by 8: table[j][b] is the remainder of byte b followed by j zero bytes.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    tables[0][b] = crc;
  }
  for (size_t j = 1; j < 8; ++j) {
    for (size_t b = 0; b < 256; ++b) {
      tables[j][b] = (tables[j - 1][b] >> 8) ^ tables[0][tables[j - 1][b] & 255];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

uint32_t by_table(uint32_t crc, const std::byte* p, size_t bytes) {
  for (; bytes >= 8; p += 8, bytes -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    word ^= crc;
    crc = 0;
    for (size_t j = 0; j < 8; ++j) crc ^= kTables[7 - j][(word >> (8 * j)) & 255];
  }
  for (; bytes > 0; ++p, --bytes) {
    crc = (crc >> 8) ^ kTables[0][(crc ^ std::to_integer<uint32_t>(*p)) & 255];
  }
  return crc;
}

// a * b modulo the polynomial.
constexpr uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (int bit = 31; bit >= 0; --bit) {
    if (((a >> bit) & 1) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? kPolynomial : 0);
  }
  return product;
}

// x^(8 * bytes): multiplying by it appends that many zero bytes.
constexpr uint32_t zero_bytes(uint64_t bytes) {
  uint32_t result = 0x80000000, power = 0x00800000;  // 1 and x^8
  for (; bytes > 0; bytes >>= 1) {
    if ((bytes & 1) != 0) result = multiply(result, power);
    power = multiply(power, power);
  }
  return result;
}

// The instruction has a latency of 3 cycles and starts one a cycle: three streams fill it. A stream
// is long enough that joining (about 200 cycles a block) does not show.
constexpr size_t kStream = 16 << 10;
constexpr uint32_t kOneStream = zero_bytes(kStream);
constexpr uint32_t kTwoStreams = zero_bytes(2 * kStream);

inline uint64_t word_at(const std::byte* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  return word;
}

__attribute__((target("sse4.2"))) uint32_t by_instruction(uint32_t crc, const std::byte* p,
                                                          size_t bytes) {
  for (; bytes >= 3 * kStream; p += 3 * kStream, bytes -= 3 * kStream) {
    uint64_t a = crc, b = 0, c = 0;
    for (size_t i = 0; i < kStream; i += 8) {
      a = _mm_crc32_u64(a, word_at(p + i));
      b = _mm_crc32_u64(b, word_at(p + kStream + i));
      c = _mm_crc32_u64(c, word_at(p + 2 * kStream + i));
    }
    crc = multiply(static_cast<uint32_t>(a), kTwoStreams) ^
          multiply(static_cast<uint32_t>(b), kOneStream) ^ static_cast<uint32_t>(c);
  }
  uint64_t wide = crc;
  for (; bytes >= 8; p += 8, bytes -= 8) wide = _mm_crc32_u64(wide, word_at(p));
  crc = static_cast<uint32_t>(wide);
  for (; bytes > 0; ++p, --bytes) crc = _mm_crc32_u8(crc, std::to_integer<uint8_t>(*p));
  return crc;
}

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t seed) {
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  const auto update = has_instruction ? by_instruction : by_table;
  return ~update(~seed, bytes.data(), bytes.size());
}

uint32_t crc32c_by_table(std::span<const std::byte> bytes, uint32_t seed) {
  return ~by_table(~seed, bytes.data(), bytes.size());
}

}  // namespace nibble::runtime
