// A weight matrix that its file holds quantized already, seen as n output columns of k values:
// w = (q - zero) * scale. Where each number lies is given by strides, so that every checkpoint's
// order is read in place; the numbers are never rounded again. Frontends and form_linears make it,
// MatrixSource carries it, quant packs it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "graph/tensor.h"
#include "jit/packed_layout.h"

namespace nibble::graph {

// Whether scales and zero points may be numbers of this type: f32, f16 and bf16.
bool is_float(DType dtype);

// Element (column c, place p) of a tensor, counted in elements (nibbles of a 4-bit tensor): index
// c * column + p * step, and
// - where the places come in blocks of so many, p counts within its block, and the block has a step
//   of its own; then the last place is the last in memory, and the places are whole blocks;
// - where eight columns share a word: + c / 8 * column_word. AWQ stores the eight in the order
//   0, 2, 4, 6, 1, 3, 5, 7.
struct Strides {
  int64_t column = 0, step = 0;
  int64_t column_word = 0;
  bool awq_order = false;
  int64_t block = 0, block_step = 0;  // 0: there are none
  int64_t index(int64_t c, int64_t p) const {
    int64_t at = c * column + c / 8 * column_word;
    if (block > 0) {
      at += p / block * block_step;
      p %= block;
    }
    at += p * step;
    return awq_order ? (at & ~int64_t{7}) | (at % 2 * 4 + at % 8 / 2) : at;
  }
  friend bool operator==(const Strides&, const Strides&) = default;
};

// One column's numbers as a packed format has them: values, and for every group a scale and a zero
// point (a whole number) or minimum. Of q8 scales also the number that those of every super-block
// are multiples of.
struct QuantizedColumn {
  std::vector<uint8_t> q;
  std::vector<float> scales, offsets;
  std::vector<float> super_scales, super_offsets;
};

struct QuantizedMatrix {
  int64_t n = 0, k = 0;
  int64_t group = 0;  // k per scale and zero point; the last group may be short
  int bits = 4;       // 2, 4 or 8; those of 2 are packed as nibbles
  bool is_signed = false;
  TensorData values;  // step: one k
  Strides value_at;
  TensorData scales;  // f32, f16 or bf16; step: one group
  Strides scale_at;
  std::optional<TensorData> zeros;  // bits wide, or floats; step: one group
  Strides zero_at;
  int64_t default_zero = 0;           // where there are no zero points; as stored in the file
  int zero_plus = 0;                  // added to stored zero points, modulo 2^bits (GPTQ v1: 1)
  std::optional<TensorData> k_group;  // the group of every k (GPTQ's g_idx), when not k / group

  int64_t groups() const { return (k + group - 1) / group; }
  // Stored values are q + offset(): unsigned as packed matrices have them.
  int offset() const { return is_signed ? 1 << (bits - 1) : 0; }

  // Column c: k unsigned values; groups() scales and zero points on the scale of the unsigned
  // values.
  void read_values(int64_t c, std::span<uint8_t> q) const;
  void read_scales(int64_t c, std::span<float> scales) const;
  void read_zeros(int64_t c, std::span<float> zeros) const;
  // Column c as floats, each (q - zero) * scale, rounded once.
  void read_column(int64_t c, std::span<float> out) const;

  // Throws Error naming what is too short for the strides, or what has a type it cannot have.
  void check(const std::string& who) const;
  // The packed format that holds these numbers; nullopt with the reason when there is none. Zero
  // points that are no whole numbers become minimums, -zero * scale rounded to fp32 at the most.
  // Looks at every scale and zero point.
  std::optional<jit::WeightFormat> packed_format(std::string& why_not) const;
  bool same_bytes(const QuantizedMatrix& other) const;
};

}  // namespace nibble::graph
