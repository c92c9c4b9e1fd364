#include "runtime/rope_table.h"

#include <cmath>

namespace nibble::runtime {

void rope_row(const RopeTable& table, int64_t position, float* cos, float* sin) {
  for (size_t i = 0; i < table.inv_freq.size(); ++i) {
    const float angle = static_cast<float>(position) * table.inv_freq[i];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * table.scale;
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * table.scale;
  }
}

}  // namespace nibble::runtime
