// When every step of a session's passes began, ended, and was let go by the barrier, thread by
// thread. For benchmarks and traces: Session::record turns it on, and a session without one pays a
// branch a step. Marks go into memory that is reserved beforehand; what does not fit is counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/plan.h"
#include "runtime/steps.h"

namespace nibble::runtime {

// One step on one thread. Times are seconds since the recorder was made.
struct StepTime {
  int thread = 0;
  int64_t pass = 0;                // counted from 0 since the last clear
  int64_t step = 0;                // index into Plan::steps
  int64_t position = 0, rows = 0;  // of its first row; how many it worked on
  double begin = 0;
  double end = 0;   // this thread's share is done
  double left = 0;  // all threads' shares are done, as this thread sees it
};

class Recorder {
 public:
  // `steps`: how many steps there is room for, a thread.
  Recorder(int threads, size_t steps);

  // Ticks of the time stamp counter: when a step began, ended, and was let go by the barrier (at
  // once, where there is none).
  struct Times {
    uint64_t begin, end, left;
  };
  // Keeps them. Called by Session on every thread.
  void mark(size_t step, const StepContext& context, const Times& times) noexcept;

  // What was kept, by thread and then in order of time; not while a pass runs. Takes a few
  // milliseconds when called soon after construction, to know the rate of the clock.
  std::vector<StepTime> times() const;
  size_t lost() const;  // steps that found no room, all threads added up
  void clear();

 private:
  struct Mark {
    int64_t step, position, rows;
    Times times;
  };
  struct alignas(64) Lane {
    std::vector<Mark> marks;
    size_t used = 0, lost = 0;
  };
  std::vector<Lane> lanes_;
  uint64_t start_ticks_ = 0;
  double start_seconds_ = 0;
};

}  // namespace nibble::runtime
