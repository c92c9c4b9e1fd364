// Where the time of a pass goes: recorded steps summed over layers, a line a kind of step, beside
// the machine's roofs. Made by `nibble bench --per-op` from what a Recorder kept.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "runtime/machine_roofs.h"
#include "runtime/plan.h"
#include "runtime/recorder.h"
#include "runtime/step_work.h"

namespace nibble::report {

// How near work done in `seconds` came to the roof that bounds it: the one that would take longer.
struct RoofShare {
  double share = 0;     // 1: at the roof; 0 when there is nothing to count
  bool of_read = true;  // else of the int8 roof, for fp32 steps too
};
RoofShare share_of_roof(const runtime::StepWork& work, double seconds, const runtime::Roofs& roofs);

// One step of one pass, all threads together.
struct StepSpan {
  int64_t pass = 0, step = 0, position = 0, rows = 0;
  double begin = 0, end = 0;  // seconds: the first thread begins, the last thread ends
  double wait = 0;            // seconds at the barrier, the mean over the threads
};
// In order of time. `times` is what Recorder::times returns for whole passes.
std::vector<StepSpan> spans_of(std::span<const runtime::StepTime> times);

// Figures of one unit (a decoded token, or a whole prompt): means over the middle half of the units
// by duration, so that the lines and what lies between them add up to the whole.
struct OpLine {
  std::string kind;
  int64_t calls = 0;
  double seconds = 0;
  runtime::StepWork work;
};
struct OpProfile {
  int64_t units = 0;   // that the means are over
  int64_t rows = 0;    // of a unit
  double seconds = 0;  // of a unit, from its first step to its last
  double between = 0;  // seconds between steps: the barrier itself, and what surrounds passes
  double waiting = 0;  // seconds a thread waits for slower ones: the mean, part of the steps' time
  std::vector<OpLine> lines;  // the slowest kind first
};

// `together`: all passes are one unit (the chunks of one prompt), else each is one.
OpProfile profile_of(const runtime::Plan& plan, std::span<const runtime::StepTime> times,
                     jit::KvType kv, bool together);

nlohmann::ordered_json to_json(const OpProfile& profile, const runtime::Roofs& roofs);
std::string to_table(const OpProfile& profile, const runtime::Roofs& roofs);

}  // namespace nibble::report
