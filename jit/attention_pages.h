// What the references of attention (attention.h) share of its pages: which of them a row takes part
// in, and the record of its state of one. Internal to the references.
#pragma once

#include <cstdint>

#include "jit/attention.h"

namespace nibble::jit {

// Positions: of the first page, and where no other begins.
struct PageRange {
  int64_t begin = 0, end = 0;
};
PageRange pages_of(const AttentionArgs& args, int64_t row);

// The record of a row's state of the page at this position; null in a call for the whole.
float* state_of(int64_t head_dim, const AttentionArgs& args, int64_t row, int64_t position);
void load_state(int64_t head_dim, const float* state, float& max, float& sum, float* out);
void store_state(int64_t head_dim, float* state, float max, float sum, const float* out);

}  // namespace nibble::jit
