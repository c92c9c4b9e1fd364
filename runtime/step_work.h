// What a step must move and compute, counted from the plan: the numerators of every share of a
// roof. Called by benchmarks, never while a model runs.
#pragma once

#include <cstdint>
#include <string>

#include "jit/kernel_spec.h"
#include "runtime/plan.h"

namespace nibble::runtime {

// Bytes: weights and the KV cache, once each; activations stay in the caches and do not count.
// Operations: two a multiply-accumulate of matmuls and attention.
struct StepWork {
  int64_t bytes = 0, operations = 0;
};

// For rows at positions [position, position + rows). Of windowed attention only the window counts.
StepWork work_of(const Step& step, int64_t position, int64_t rows, jit::KvType kv);

// Bytes of the KV cache that decoding the token at `position` reads, all layers.
int64_t kv_bytes_read(const Plan& plan, int64_t position, jit::KvType kv);

// What the step does, the same in every layer: the name of a matmul's spec, else the label.
std::string step_kind(const Step& step);

}  // namespace nibble::runtime
