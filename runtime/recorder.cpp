#include "runtime/recorder.h"

#include <x86intrin.h>

#include "runtime/clock.h"

namespace nibble::runtime {
namespace {

constexpr double kCalibration = 5e-3;  // seconds; the clock is read to some 50 ns at both ends

}  // namespace

Recorder::Recorder(int threads, size_t steps) : lanes_(static_cast<size_t>(threads)) {
  for (Lane& lane : lanes_)
    lane.marks.resize(steps);  // written once, so that recording faults none
  start_seconds_ = seconds_now();
  start_ticks_ = __rdtsc();
}

void Recorder::mark(size_t step, const StepContext& context, const Times& times) noexcept {
  Lane& lane = lanes_[static_cast<size_t>(context.share.thread)];
  if (lane.used == lane.marks.size()) {
    ++lane.lost;
    return;
  }
  lane.marks[lane.used++] = {static_cast<int64_t>(step), context.position + context.row,
                             context.rows, times};
}

std::vector<StepTime> Recorder::times() const {
  double seconds = seconds_now();
  while (seconds - start_seconds_ < kCalibration) seconds = seconds_now();
  const double tick = (seconds - start_seconds_) / static_cast<double>(__rdtsc() - start_ticks_);
  // Signed: another core's counter may lag by a few ticks.
  const auto since_start = [&](uint64_t ticks) {
    return static_cast<double>(static_cast<int64_t>(ticks - start_ticks_)) * tick;
  };
  std::vector<StepTime> times;
  for (size_t thread = 0; thread < lanes_.size(); ++thread) {
    const Lane& lane = lanes_[thread];
    int64_t pass = 0;
    for (size_t i = 0; i < lane.used; ++i) {
      const Mark& mark = lane.marks[i];
      if (i > 0 && mark.step <= lane.marks[i - 1].step) ++pass;  // steps ascend within a pass
      times.push_back({static_cast<int>(thread), pass, mark.step, mark.position, mark.rows,
                       since_start(mark.times.begin), since_start(mark.times.end),
                       since_start(mark.times.left)});
    }
  }
  return times;
}

size_t Recorder::lost() const {
  size_t lost = 0;
  for (const Lane& lane : lanes_) lost += lane.lost;
  return lost;
}

void Recorder::clear() {
  for (Lane& lane : lanes_) lane.used = lane.lost = 0;
}

}  // namespace nibble::runtime
