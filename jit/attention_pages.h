// What the references of attention (attention.h) share of its pages: which of them a row takes part
// in, and the record of its state of one. Internal to the references.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "jit/attention.h"
#include "jit/attention_integer.h"
#include "jit/attention_scratch.h"

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

// What a row has gathered, from a split, a page or all so far.
struct RowState {
  float max = kLowScore, sum = 0;
  std::array<float, kMaxHeadDim> out{};
};
// A row's part of a call, of the types whose elements lie in pairs. `attend` gathers the page that
// begins at a position.
void attend_by_pages(const AttentionSpec& spec, const AttentionArgs& args, int64_t row,
                     const std::function<void(int64_t start, RowState& page)>& attend);

}  // namespace nibble::jit
