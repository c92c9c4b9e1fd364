// The cosines and sines of a rotary embedding.
#pragma once

#include <cstdint>
#include <vector>

namespace nibble::runtime {

// cos and sin of position * inv_freq[i], times scale; shared by layers.
struct RopeTable {
  std::vector<float> inv_freq;
  float scale = 1;
  friend bool operator==(const RopeTable&, const RopeTable&) = default;
};

// Those of one position, inv_freq.size() of each. The angle is rounded to fp32 as exported models
// compute it; cos and sin of it are correctly rounded.
void rope_row(const RopeTable& table, int64_t position, float* cos, float* sin);

}  // namespace nibble::runtime
