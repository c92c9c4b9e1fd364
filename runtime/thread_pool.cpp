#include "runtime/thread_pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "jit/error.h"
#include "runtime/core_speed.h"
#include "runtime/cpu_topology.h"

namespace nibble::runtime {
namespace {

// About 50 us at 3 GHz: longer than the skew between threads that share a step evenly, far shorter
// than a scheduler's time slice.
constexpr uint64_t kSpinTicks = 150'000;
constexpr int kMostThreads = 4096;
constexpr size_t kCacheLine = 64;

// A number that threads wait on until it changes: spin, then park in the kernel.
class alignas(kCacheLine) Gate {
 public:
  uint32_t read() const noexcept { return value_.load(std::memory_order_acquire); }

  // Opens the gate for those who wait on the old value. Sequentially consistent, like the count of
  // sleepers: either this sees a sleeper, or the sleeper sees the new value before it sleeps.
  void advance() noexcept {
    value_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      futex(FUTEX_WAKE_PRIVATE, INT_MAX);
    }
  }

  void wait_past(uint32_t old, uint64_t spin_ticks) noexcept {
    const uint64_t start = __rdtsc();
    do {
      for (int i = 0; i < 16; ++i) {
        if (value_.load(std::memory_order_acquire) != old) return;
        _mm_pause();
      }
    } while (__rdtsc() - start < spin_ticks);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (value_.load(std::memory_order_seq_cst) == old) futex(FUTEX_WAIT_PRIVATE, old);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

 private:
  static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));
  void futex(int operation, uint32_t argument) noexcept {
    syscall(SYS_futex, &value_, operation, argument, nullptr, nullptr, 0);
  }

  std::atomic<uint32_t> value_{0};
  std::atomic<int> sleepers_{0};
};

}  // namespace

int default_threads() { return default_threads(allowed_cpus(), cgroup_cpu_quota()); }

Placement place_threads(int threads) {
  if (threads < 1 || threads > kMostThreads) {
    fail("The number of threads must be from 1 to {}, found {}.", kMostThreads, threads);
  }
  CpuTopology cpus = allowed_cpus();
  if (threads > 1) measure_speeds(cpus, measure_core_speed);
  return plan_placement(cpus, threads, cgroup_cpu_quota());
}

struct ThreadPool::Impl {
  Placement placement;
  int threads = 1;
  uint64_t spin_ticks = kSpinTicks;
  std::vector<std::thread> workers;

  Gate start;  // advances once a run, and once to stop
  Task task = nullptr;
  void* arg = nullptr;
  bool stop = false;

  Gate turn;  // advances once a barrier
  alignas(kCacheLine) std::atomic<int> arrived{0};

  // The last to arrive resets the count before it opens the gate, so the next barrier starts clean.
  void barrier() noexcept {
    if (threads == 1) return;
    const uint32_t old = turn.read();
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived.store(0, std::memory_order_relaxed);
      turn.advance();
    } else {
      turn.wait_past(old, spin_ticks);
    }
  }

  void work(int thread) noexcept {
    for (uint32_t seen = 0;; ++seen) {
      start.wait_past(seen, spin_ticks);
      if (stop) return;
      task(arg, thread);
      barrier();
    }
  }

  void launch() noexcept { start.advance(); }

  void shut_down() noexcept {
    stop = true;
    launch();
    for (std::thread& worker : workers) worker.join();
  }
};

namespace {

// A hint to the scheduler; where it is refused the thread runs unbound.
void bind_to(std::thread& thread, int pu) {
  if (pu < 0) return;
  const size_t bytes = CPU_ALLOC_SIZE(pu + 1);
  cpu_set_t* set = CPU_ALLOC(pu + 1);
  if (set == nullptr) return;
  CPU_ZERO_S(bytes, set);
  CPU_SET_S(static_cast<size_t>(pu), bytes, set);
  pthread_setaffinity_np(thread.native_handle(), bytes, set);
  CPU_FREE(set);
}

}  // namespace

ThreadPool::ThreadPool(int threads) : ThreadPool(place_threads(threads)) {}

ThreadPool::ThreadPool(Placement placement) : impl_(std::make_unique<Impl>()) {
  impl_->placement = std::move(placement);
  const int threads = impl_->threads = impl_->placement.size();
  if (threads < 2) return;
  impl_->workers.reserve(static_cast<size_t>(threads));
  // With fewer processors than threads, whoever spins keeps the one it waits for from running.
  if (impl_->placement.crowded) impl_->spin_ticks = 0;
  try {
    for (int i = 1; i < threads; ++i) {
      impl_->workers.emplace_back([impl = impl_.get(), i] { impl->work(i); });
      bind_to(impl_->workers.back(), impl_->placement.threads[static_cast<size_t>(i)].pu);
    }
  } catch (const std::exception& error) {
    const size_t started = impl_->workers.size();
    impl_->shut_down();
    fail("Thread {} of {} cannot be started: {}.", started + 2, threads, error.what());
  }
}

ThreadPool::~ThreadPool() { impl_->shut_down(); }

int ThreadPool::size() const { return impl_->threads; }

const Placement& ThreadPool::placement() const { return impl_->placement; }

void ThreadPool::run(Task task, void* arg) noexcept {
  if (impl_->threads == 1) return task(arg, 0);
  impl_->task = task;
  impl_->arg = arg;
  impl_->launch();
  task(arg, 0);
  impl_->barrier();
}

void ThreadPool::barrier() noexcept { impl_->barrier(); }

}  // namespace nibble::runtime
