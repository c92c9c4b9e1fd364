#include "runtime/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <thread>
#include <vector>

#include "jit/error.h"
#include "runtime/core_speed.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble::runtime {
namespace {

TEST(ThreadPool, RunsEveryThreadOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    std::vector<int> calls(static_cast<size_t>(threads));
    for (int round = 0; round < 200; ++round) {
      pool.run(
          [](void* arg, int thread) noexcept {
            ++(*static_cast<std::vector<int>*>(arg))[static_cast<size_t>(thread)];
          },
          &calls);
    }
    for (const int count : calls) EXPECT_EQ(count, 200);
  }
}

TEST(ThreadPool, TheCallerIsThreadZero) {
  ThreadPool pool(2);
  std::thread::id ids[2];
  pool.run(
      [](void* arg, int t) noexcept {
        static_cast<std::thread::id*>(arg)[t] = std::this_thread::get_id();
      },
      ids);
  EXPECT_EQ(ids[0], std::this_thread::get_id());
  EXPECT_NE(ids[1], std::this_thread::get_id());
}

// Every thread writes its cell, passes the barrier and reads all cells: a thread that ran ahead or
// a write that was not visible makes the sum differ.
struct Relay {
  ThreadPool* pool;
  int rounds;
  std::vector<int64_t> cells;
  std::atomic<int64_t> wrong{0};

  static void task(void* arg, int thread) noexcept {
    auto& r = *static_cast<Relay*>(arg);
    const auto threads = static_cast<int64_t>(r.cells.size());
    for (int round = 0; round < r.rounds; ++round) {
      r.cells[static_cast<size_t>(thread)] = round;
      r.pool->barrier();
      if (std::accumulate(r.cells.begin(), r.cells.end(), int64_t{0}) != threads * round) ++r.wrong;
      r.pool->barrier();
    }
  }
};

TEST(ThreadPool, BarriersOrderWrites) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    Relay relay{&pool, 2000, std::vector<int64_t>(static_cast<size_t>(threads))};
    pool.run(Relay::task, &relay);
    EXPECT_EQ(relay.wrong, 0);
  }
}

TEST(ThreadPool, ManyMoreThreadsThanCores) {
  ThreadPool pool(64);
  Relay relay{&pool, 50, std::vector<int64_t>(64)};
  pool.run(Relay::task, &relay);
  EXPECT_EQ(relay.wrong, 0);
}

TEST(ThreadPool, WakesParkedThreads) {
  ThreadPool pool(3);
  std::atomic<int> calls{0};
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // long past the spinning
    pool.run([](void* arg, int) noexcept { ++*static_cast<std::atomic<int>*>(arg); }, &calls);
  }
  EXPECT_EQ(calls, 15);
}

TEST(ThreadPool, ASlowThreadIsWaitedFor) {
  ThreadPool pool(2);
  std::atomic<int> done{0};
  pool.run(
      [](void* arg, int thread) noexcept {
        if (thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        ++*static_cast<std::atomic<int>*>(arg);
      },
      &done);
  EXPECT_EQ(done, 2);
}

TEST(ThreadPool, ParallelForCoversTheRange) {
  ThreadPool pool(3);
  for (const int64_t count : {0, 1, 2, 3, 7, 1000}) {
    std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
    pool.parallel_for(count, [&](int64_t begin, int64_t end, int thread) {
      EXPECT_LT(begin, end);
      EXPECT_LT(thread, 3);
      for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
    });
    for (const auto& hit : hits) EXPECT_EQ(hit, 1);
  }
}

TEST(ThreadPool, PoolsComeAndGo) {
  for (int i = 0; i < 100; ++i) {
    ThreadPool pool(1 + i % 4);
    std::atomic<int> calls{0};
    if (i % 2 == 0) {
      pool.run([](void* arg, int) noexcept { ++*static_cast<std::atomic<int>*>(arg); }, &calls);
      EXPECT_EQ(calls, pool.size());
    }
  }
}

// The one processor that the calling thread is bound to; -1 when there are more.
int bound_to() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0 || CPU_COUNT(&set) != 1) return -1;
  int pu = 0;
  while (!CPU_ISSET(pu, &set)) ++pu;
  return pu;
}

TEST(ThreadPool, WorkersAreBoundAsPlacedAndTheCallerIsLeftAlone) {
  cpu_set_t before, after;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  // The last thread is one too many for its processors, so it is not bound.
  const CpuTopology cpus = allowed_cpus();
  const auto threads = static_cast<int>(cpus.pus()) + 1;
  ThreadPool pool(plan_placement(cpus, threads));
  ASSERT_EQ(pool.size(), threads);
  std::vector<int> found(static_cast<size_t>(threads));
  pool.run(
      [](void* arg, int t) noexcept {
        (*static_cast<std::vector<int>*>(arg))[static_cast<size_t>(t)] = bound_to();
      },
      &found);
  for (size_t t = 1; t < found.size(); ++t) {
    const int pu = pool.placement().threads[t].pu;
    // Unbound, a thread may run wherever the process may: one processor when that is all.
    if (pu >= 0 || cpus.pus() > 1) {
      EXPECT_EQ(found[t], pu) << t;
    }
  }
  ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
}

TEST(ThreadPool, AProcessorThatIsNotThereBindsNothing) {
  CpuTopology cpus;
  cpus.nodes = {0};
  cpus.kinds = {{}};
  for (const unsigned pu : {0U, 4000U, 100'000U}) cpus.cores.push_back({.pus = {pu}});
  ThreadPool pool(plan_placement(cpus, 3));
  std::atomic<int> calls{0};
  pool.run([](void* arg, int) noexcept { ++*static_cast<std::atomic<int>*>(arg); }, &calls);
  EXPECT_EQ(calls, 3);
}

TEST(PlaceThreads, IsWhatAPoolUses) {
  const int threads = default_threads();
  const Placement placement = place_threads(threads);
  ASSERT_EQ(placement.size(), threads);
  const ThreadPool pool(threads);
  for (size_t t = 0; t < placement.threads.size(); ++t) {
    EXPECT_EQ(pool.placement().threads[t].pu, placement.threads[t].pu);
  }
  EXPECT_THROW(place_threads(0), Error);
}

TEST(AllowedCpus, OneNodeWhenAskedFor) {
  ASSERT_EQ(setenv("NIBBLE_NUMA", "0", 1), 0);
  const CpuTopology one = allowed_cpus();
  unsetenv("NIBBLE_NUMA");
  EXPECT_EQ(one.nodes.size(), 1U);
  EXPECT_EQ(one.cores.size(), allowed_cpus().cores.size());
}

TEST(CoreSpeed, MeasuresWhatIsThere) {
  EXPECT_GT(measure_core_speed(allowed_cpus().cores.back().pus.back()), 0);
  EXPECT_EQ(measure_core_speed(100'000), 0);
}

TEST(ThreadPool, RefusesSillyCounts) {
  EXPECT_THROW(ThreadPool(0), Error);
  EXPECT_THROW(ThreadPool(-3), Error);
  EXPECT_THROW(ThreadPool(1'000'000), Error);
}

TEST(DefaultThreads, RespectsTheAffinityMask) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  EXPECT_GE(default_threads(), 1);
  EXPECT_LE(default_threads(), CPU_COUNT(&before));

  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(default_threads(), 1);
  sched_setaffinity(0, sizeof(before), &before);
}

class CgroupQuota : public testing::Test {
 protected:
  double quota() const { return cgroup_cpu_quota(root_.folder().c_str()); }
  TemporaryFolder root_;
};

TEST_F(CgroupQuota, NoneWithoutCgroups) { EXPECT_EQ(quota(), 0); }

TEST_F(CgroupQuota, Version2) {
  root_.write("proc/self/cgroup", "0::/app/worker\n");
  root_.write("sys/fs/cgroup/app/worker/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota(), 1.5);
}

TEST_F(CgroupQuota, Version2WithoutLimit) {
  root_.write("proc/self/cgroup", "0::/app\n");
  root_.write("sys/fs/cgroup/app/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), 0);
}

TEST_F(CgroupQuota, AncestorsLimitToo) {
  root_.write("proc/self/cgroup", "0::/a/b/c\n");
  root_.write("sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
  root_.write("sys/fs/cgroup/a/cpu.max", "300000 100000\n");
  EXPECT_EQ(quota(), 3);
  root_.write("sys/fs/cgroup/a/b/cpu.max", "200000 100000\n");
  EXPECT_EQ(quota(), 2);
  root_.write("sys/fs/cgroup/a/b/c/cpu.max", "800000 100000\n");  // more than its parent has
  EXPECT_EQ(quota(), 2);
}

TEST_F(CgroupQuota, AContainerSeesItsOwnCgroupAsTheRoot) {
  root_.write("proc/self/cgroup", "0::/docker/0123456789\n");  // the path on the host
  root_.write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(quota(), 0.5);
  root_.write("proc/self/cgroup", "0::/../../elsewhere\n");
  EXPECT_EQ(quota(), 0.5);
}

TEST_F(CgroupQuota, Version1) {
  root_.write("proc/self/cgroup",
              "5:cpuset:/x\n4:cpu,cpuacct:/app/worker\n3:memory:/x\n1:name=systemd:/cpu\n");
  root_.write("sys/fs/cgroup/cpu,cpuacct/app/worker/cpu.cfs_quota_us", "-1\n");
  root_.write("sys/fs/cgroup/cpu,cpuacct/app/worker/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 0);
  root_.write("sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us", "400000\n");
  root_.write("sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 4);
}

TEST_F(CgroupQuota, Version1MountedAsCpu) {
  root_.write("proc/self/cgroup", "2:cpuacct:/\n1:cpu:/\n0::/\n");
  root_.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n");
  root_.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 2.5);
}

TEST_F(CgroupQuota, HybridTakesTheTighter) {
  root_.write("proc/self/cgroup", "1:cpu:/\n0::/\n");
  root_.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n");
  root_.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  root_.write("sys/fs/cgroup/unified/cpu.max", "200000 100000\n");
  EXPECT_EQ(quota(), 2);
}

TEST_F(CgroupQuota, NonsenseLimitsNothing) {
  root_.write("proc/self/cgroup", "garbage\n0::/\n");
  for (const char* text : {"", "word", "100000", "0 100000", "100000 0", "-5 100000"}) {
    root_.write("sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(quota(), 0) << text;
  }
}

}  // namespace
}  // namespace nibble::runtime
