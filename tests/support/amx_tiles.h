// The architectural state of AMX, palette 1, and what its instructions do to it, in plain C++ after
// the pseudo-code of Intel's Software Developer's Manual: tile configuration, loads and stores that
// can be restarted, dot products of bytes and of bfloat16. Knows no encodings and no signals: those
// are amx_emulator.cpp, which owns one state a thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace nibble::test {

// What an instruction raises instead of completing. Page faults are none of these: memory is
// accessed as it comes, row by row, and faults by itself.
enum class AmxFault : uint8_t {
  none,
  undefined,   // #UD: SIGILL on Linux
  protection,  // #GP: SIGSEGV on Linux, without an address
};

class AmxTiles {
 public:
  static constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;
  static constexpr size_t kConfigBytes = 64;
  using Config = std::array<uint8_t, kConfigBytes>;

  // LDTILECFG of 64 bytes: palette, start_row, 14 reserved, colsb[8] as u16, 16 reserved, rows[8],
  // 8 reserved. #GP leaves everything as it was.
  AmxFault load_config(const Config& config);
  // STTILECFG: all zero when tiles are not configured.
  Config config() const;
  void release();  // TILERELEASE

  AmxFault zero(int tile);                                                // TILEZERO
  AmxFault load(int tile, uint64_t address, uint64_t stride);             // TILELOADD, TILELOADDT1
  AmxFault store(int tile, uint64_t address, uint64_t stride);            // TILESTORED
  AmxFault dot_bytes(int c, int a, int b, bool a_signed, bool b_signed);  // TDPBSSD and so on
  AmxFault dot_bf16(int c, int a, int b);                                 // TDPBF16PS

  // One byte of a tile, configured or not.
  uint8_t byte(int tile, int row, int column) const { return data_[tile][row][column]; }

 private:
  bool usable(int tile) const;
  bool multipliable(int c, int a, int b) const;
  void zero_columns_from(int tile, int row, int column);
  void zero_rows_from(int tile, int row);

  uint8_t palette_ = 0, start_row_ = 0;
  uint16_t colsb_[kTiles] = {};
  uint8_t rows_[kTiles] = {};
  alignas(64) uint8_t data_[kTiles][kRows][kRowBytes] = {};
};

}  // namespace nibble::test
