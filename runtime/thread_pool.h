// A fixed team of threads that walk the plan together: one parallel region a token, barriers
// between steps. Waiters spin for a while and then park.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "runtime/placement.h"

namespace nibble::runtime {

// Threads to use when the user does not say: physical cores in the process's affinity mask (hwloc),
// at most the cgroup v1/v2 CPU quota rounded up, at least 1.
int default_threads();
// The quota alone, as CPUs; 0 when there is none. `root` is where cgroup files lie (tests pass
// their own).
double cgroup_cpu_quota(const char* root = "/");
// Where a pool of this many threads (at least 1) computes, by this process's affinity mask and
// quota. Measures the kinds of cores where they differ (a few ms).
Placement place_threads(int threads);

class ThreadPool {
 public:
  // Starts threads - 1 workers, bound as place_threads(threads) says. The caller, thread 0, keeps
  // its own affinity: its processor is left free, where the scheduler finds it. Throws Error when
  // threads < 1 or a thread cannot be started.
  explicit ThreadPool(int threads);
  // The same by a placement of one's own.
  explicit ThreadPool(Placement placement);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  const Placement& placement() const;

  // Runs task(arg, thread) on every thread, the caller being thread 0; returns when all have
  // returned. Not reentrant.
  using Task = void (*)(void* arg, int thread) noexcept;
  void run(Task task, void* arg) noexcept;

  // Within run: waits until every thread has arrived. All writes before are visible after.
  void barrier() noexcept;

  // parallel_for over [0, count) in contiguous parts; body(begin, end, thread).
  template <typename Body>
  void parallel_for(int64_t count, Body&& body) noexcept {
    struct Call {
      int64_t count;
      int threads;
      Body* body;
    } call{count, size(), &body};
    run(
        [](void* arg, int thread) noexcept {
          auto& c = *static_cast<Call*>(arg);
          int64_t begin = c.count * thread / c.threads, end = c.count * (thread + 1) / c.threads;
          if (begin < end) (*c.body)(begin, end, thread);
        },
        &call);
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::runtime
