// Where the numbers of scales of type q8 lie: a super-block is kSuperBlock k, has an fp16 number
// for each column of a block of 16, and under it a signed byte for each group. A scale (or minimum)
// is the product of the two, exact in fp32. Super-blocks follow each other within a column block:
//
//   scales     bytes [groups][16], then f16 [16]
//   minimums   bytes [groups / 2][16][2], the two of neighbouring groups side by side as words are
//              multiplied, then f16 [16]
#pragma once

#include <cstdint>

#include "jit/float16.h"
#include "jit/packed_layout.h"

namespace nibble::jit {

class SuperBlocks {
 public:
  // `numbers` are the scales or minimums of one column block.
  SuperBlocks(int64_t group, const void* numbers, bool minimums)
      : groups_(kSuperBlock / group),
        numbers_(static_cast<const uint8_t*>(numbers)),
        minimums_(minimums) {}

  int64_t byte_offset(int64_t group, int64_t column) const {
    const int64_t within = group % groups_;
    const int64_t at = minimums_ ? within / 2 * 2 * kColumnBlock + column * 2 + within % 2
                                 : within * kColumnBlock + column;
    return group / groups_ * super_block_bytes(groups_) + at;
  }
  int64_t number_offset(int64_t group, int64_t column) const {
    return group / groups_ * super_block_bytes(groups_) + groups_ * kColumnBlock + column * 2;
  }

  int byte(int64_t group, int64_t column) const {
    return static_cast<int8_t>(numbers_[byte_offset(group, column)]);
  }
  // The number over a group's byte.
  float number(int64_t group, int64_t column) const {
    const uint8_t* half = numbers_ + number_offset(group, column);
    return f16_to_f32(static_cast<uint16_t>(half[0] | half[1] << 8));
  }
  float product(int64_t group, int64_t column) const {
    return number(group, column) * static_cast<float>(byte(group, column));
  }

 private:
  int64_t groups_;  // of a super-block
  const uint8_t* numbers_;
  bool minimums_;
};

}  // namespace nibble::jit
