// Recorded steps as a Chrome trace (chrome://tracing, Perfetto): the JSON array format, a row a
// thread, a slice a step and one more for the wait after it. Written by `nibble bench --trace`.
#pragma once

#include <span>
#include <string>

#include "runtime/machine_roofs.h"
#include "runtime/plan.h"
#include "runtime/recorder.h"

namespace nibble::report {

// A slice's args are the step's, all threads together: layer, position, rows, bytes, operations,
// gbs, gops, share_of_roof and which roof that is. Times count from the first step, in
// microseconds.
std::string chrome_trace(const runtime::Plan& plan, std::span<const runtime::StepTime> times,
                         jit::KvType kv, const runtime::Roofs& roofs);

}  // namespace nibble::report
