#include "runtime/placement.h"

#include <gtest/gtest.h>
#include <hwloc.h>

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "jit/error.h"

namespace nibble::runtime {
namespace {

// A machine that is not here.
class Machine {
 public:
  explicit Machine(const std::string& description) {
    hwloc_topology_init(&topology_);
    EXPECT_EQ(hwloc_topology_set_synthetic(topology_, description.c_str()), 0) << description;
    EXPECT_EQ(hwloc_topology_load(topology_), 0);
    allowed_ = hwloc_bitmap_dup(hwloc_topology_get_topology_cpuset(topology_));
  }
  ~Machine() {
    hwloc_bitmap_free(allowed_);
    hwloc_topology_destroy(topology_);
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  Machine& forbid(unsigned first, unsigned last) {
    hwloc_bitmap_clr_range(allowed_, first, static_cast<int>(last));
    return *this;
  }
  Machine& kind(unsigned first, unsigned last, int efficiency, const char* name) {
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    hwloc_bitmap_set_range(set, first, static_cast<int>(last));
    char key[] = "CoreType";
    std::string value = name;
    hwloc_info_s info{key, value.data()};
    EXPECT_EQ(hwloc_cpukinds_register(topology_, set, efficiency, 1, &info, 0), 0);
    hwloc_bitmap_free(set);
    return *this;
  }
  CpuTopology cpus() const { return describe_topology(topology_, allowed_); }

 private:
  hwloc_topology_t topology_ = nullptr;
  hwloc_bitmap_t allowed_ = nullptr;
};

// 8 cores with two processors (0 to 15), then 8 with one (16, 18, ..., 30).
CpuTopology hybrid() {
  Machine machine("numa:1 core:16 pu:2");
  machine.kind(0, 15, 1, "IntelCore").kind(16, 31, 0, "IntelAtom");
  for (unsigned pu = 17; pu < 32; pu += 2) machine.forbid(pu, pu);
  return machine.cpus();
}

std::vector<int> pus(const Placement& placement) {
  std::vector<int> out;
  for (const PlacedThread& thread : placement.threads) out.push_back(thread.pu);
  return out;
}

std::vector<int> nodes(const Placement& placement) {
  std::vector<int> out;
  for (const PlacedThread& thread : placement.threads) out.push_back(thread.node);
  return out;
}

std::vector<double> weights(const Placement& placement) {
  std::vector<double> out;
  for (const PlacedThread& thread : placement.threads) out.push_back(thread.weight);
  return out;
}

// first, first + step, ... `count` numbers.
std::vector<int> series(int count, int first, int step) {
  std::vector<int> out;
  for (int i = 0; i < count; ++i) out.push_back(first + i * step);
  return out;
}

std::vector<int> joined(std::vector<int> a, const std::vector<int>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// What holds whatever the machine: distinct processors, nodes in order, all of them used.
void expect_sound(const Placement& placement, int threads) {
  ASSERT_EQ(placement.size(), threads);
  std::set<int> bound;
  for (const PlacedThread& thread : placement.threads) {
    if (thread.pu >= 0) {
      EXPECT_TRUE(bound.insert(thread.pu).second) << thread.pu;
    }
    EXPECT_GT(thread.weight, 0);
    EXPECT_LE(thread.weight, 1);
  }
  const std::vector<int> order = nodes(placement);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(std::set<int>(order.begin(), order.end()).size(), placement.nodes.size());
  EXPECT_EQ(placement.threads.back().up_to, 1.0);
}

constexpr const char* kTwoSockets = "package:2 [numa] core:56 pu:1";
constexpr const char* kTwoSocketsSmt = "package:2 [numa] core:56 pu:2";
constexpr const char* kFourNodes = "package:1 numa:4 core:8 pu:1";

TEST(CpuTopology, ReadsSyntheticMachines) {
  const CpuTopology plain = Machine(kTwoSockets).cpus();
  EXPECT_EQ(plain.cores.size(), 112U);
  EXPECT_EQ(plain.pus(), 112U);
  EXPECT_EQ(plain.nodes, (std::vector<unsigned>{0, 1}));
  EXPECT_EQ(plain.kinds.size(), 1U);
  EXPECT_EQ(plain.cores[55].node, 0);
  EXPECT_EQ(plain.cores[56].node, 1);
  const CpuTopology smt = Machine(kTwoSocketsSmt).cpus();
  EXPECT_EQ(smt.cores.size(), 112U);
  EXPECT_EQ(smt.pus(), 224U);
  EXPECT_EQ(smt.cores[3].pus, (std::vector<unsigned>{6, 7}));
  EXPECT_EQ(Machine(kFourNodes).cpus().nodes.size(), 4U);
}

TEST(CpuTopology, ReadsKinds) {
  const CpuTopology cpus = hybrid();
  ASSERT_EQ(cpus.kinds.size(), 2U);
  EXPECT_EQ(cpus.cores.size(), 16U);
  EXPECT_EQ(cpus.pus(), 24U);
  EXPECT_EQ(cpus.kinds[static_cast<size_t>(cpus.cores[0].kind)].name, "IntelCore");
  EXPECT_EQ(cpus.kinds[static_cast<size_t>(cpus.cores[0].kind)].speed, 1.0);
  EXPECT_EQ(cpus.kinds[static_cast<size_t>(cpus.cores[15].kind)].name, "IntelAtom");
  EXPECT_EQ(cpus.kinds[static_cast<size_t>(cpus.cores[15].kind)].speed, 0.5);
}

TEST(CpuTopology, TheMaskLeavesOutCoresSiblingsAndNodes) {
  const CpuTopology cpus = Machine(kTwoSocketsSmt).forbid(0, 111).forbid(113, 113).cpus();
  EXPECT_EQ(cpus.cores.size(), 56U);
  EXPECT_EQ(cpus.nodes, (std::vector<unsigned>{1}));
  EXPECT_EQ(cpus.cores[0].pus, (std::vector<unsigned>{112}));
  EXPECT_EQ(cpus.cores[1].pus, (std::vector<unsigned>{114, 115}));
}

TEST(CpuTopology, MeasuresKindsWhereTheyDiffer) {
  CpuTopology cpus = hybrid();
  std::vector<unsigned> measured;
  measure_speeds(cpus, [&](unsigned pu) {
    measured.push_back(pu);
    return pu < 16 ? 500.0 : 300.0;
  });
  std::sort(measured.begin(), measured.end());
  EXPECT_EQ(measured, (std::vector<unsigned>{0, 16}));
  EXPECT_EQ(cpus.kinds[static_cast<size_t>(cpus.cores[0].kind)].speed, 1.0);
  EXPECT_EQ(cpus.kinds[static_cast<size_t>(cpus.cores[8].kind)].speed, 0.6);
}

TEST(CpuTopology, KeepsItsGuessWhenAMeasurementFails) {
  for (const double failure : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    CpuTopology cpus = hybrid();
    measure_speeds(cpus, [&](unsigned pu) { return pu < 16 ? 500.0 : failure; });
    EXPECT_EQ(cpus.kinds[static_cast<size_t>(cpus.cores[8].kind)].speed, 0.5);
  }
}

TEST(CpuTopology, MeasuresNothingWhereCoresAreAlike) {
  CpuTopology cpus = Machine(kTwoSockets).cpus();
  measure_speeds(cpus, [](unsigned) {
    ADD_FAILURE() << "measured";
    return 1.0;
  });
}

TEST(Placement, AllCoresOfTwoSockets) {
  const Placement placement = plan_placement(Machine(kTwoSockets).cpus(), 112);
  expect_sound(placement, 112);
  EXPECT_EQ(pus(placement), series(112, 0, 1));
  EXPECT_EQ(nodes(placement), joined(std::vector<int>(56, 0), std::vector<int>(56, 1)));
  EXPECT_FALSE(placement.crowded);
}

TEST(Placement, PhysicalCoresBeforeSiblings) {
  const CpuTopology cpus = Machine(kTwoSocketsSmt).cpus();
  EXPECT_EQ(default_threads(cpus, 0), 112);
  EXPECT_EQ(pus(plan_placement(cpus, 112)), series(112, 0, 2));

  const Placement more = plan_placement(cpus, 116);
  expect_sound(more, 116);
  for (const int node : {0, 1}) {
    const auto order = nodes(more);
    EXPECT_EQ(std::count(order.begin(), order.end(), node), 58);
    // The first two cores of a node have two threads each, which share their speed.
    const size_t first = node == 0 ? 0 : 58;
    EXPECT_EQ(more.threads[first].pu, node * 112);
    EXPECT_EQ(more.threads[first + 1].pu, node * 112 + 1);
    EXPECT_EQ(more.threads[first + 3].weight, 0.5);
    EXPECT_EQ(more.threads[first + 4].weight, 1.0);
  }
  EXPECT_FALSE(more.crowded);

  const Placement all = plan_placement(cpus, 224);
  expect_sound(all, 224);
  EXPECT_EQ(pus(all), series(224, 0, 1));
  EXPECT_FALSE(all.crowded);
}

TEST(Placement, FewThreadsStayOnOneNode) {
  const CpuTopology cpus = Machine(kTwoSockets).cpus();
  for (int threads = 1; threads <= kThreadsPerNode; ++threads) {
    const Placement placement = plan_placement(cpus, threads);
    expect_sound(placement, threads);
    EXPECT_EQ(pus(placement), series(threads, 0, 1));
    EXPECT_EQ(placement.nodes, (std::vector<unsigned>{0}));
  }
}

TEST(Placement, MoreThreadsAreSpreadEvenly) {
  const Placement placement = plan_placement(Machine(kTwoSockets).cpus(), 20);
  expect_sound(placement, 20);
  EXPECT_EQ(pus(placement), joined(series(10, 0, 1), series(10, 56, 1)));
  EXPECT_EQ(placement.nodes, (std::vector<unsigned>{0, 1}));
}

TEST(Placement, FourNodes) {
  const CpuTopology cpus = Machine(kFourNodes).cpus();
  const Placement all = plan_placement(cpus, 32);
  expect_sound(all, 32);
  EXPECT_EQ(pus(all), series(32, 0, 1));
  EXPECT_EQ(all.nodes.size(), 4U);
  const Placement half = plan_placement(cpus, 16);
  expect_sound(half, 16);
  EXPECT_EQ(pus(half), series(16, 0, 1));
  EXPECT_EQ(half.nodes.size(), 2U);
  const Placement some = plan_placement(cpus, 18);
  expect_sound(some, 18);
  EXPECT_EQ(pus(some), joined(series(6, 0, 1), joined(series(6, 8, 1), series(6, 16, 1))));
}

TEST(Placement, TheMaskDecidesWhichNodesThereAre) {
  // Two cores left on node 0, none on node 1: eight threads fit node 2.
  const CpuTopology cpus = Machine(kFourNodes).forbid(2, 15).cpus();
  const Placement eight = plan_placement(cpus, 8);
  expect_sound(eight, 8);
  EXPECT_EQ(pus(eight), series(8, 16, 1));
  EXPECT_EQ(eight.nodes, (std::vector<unsigned>{2}));
  // All cores: uneven nodes, each as full as it can be.
  const Placement all = plan_placement(cpus, 18);
  expect_sound(all, 18);
  EXPECT_EQ(pus(all), joined({0, 1}, series(16, 16, 1)));
  EXPECT_EQ(all.nodes, (std::vector<unsigned>{0, 2, 3}));
  EXPECT_FALSE(all.crowded);
}

TEST(Placement, AsManyNodesAsHoldTheThreads) {
  // Three cores a node: eight threads need three nodes, though one would do for their bandwidth.
  const Placement placement = plan_placement(Machine("numa:4 core:3 pu:1").cpus(), 8);
  expect_sound(placement, 8);
  EXPECT_EQ(nodes(placement), (std::vector<int>{0, 0, 0, 1, 1, 1, 2, 2}));
}

TEST(Placement, HybridFastCoresFirst) {
  const CpuTopology cpus = hybrid();
  EXPECT_EQ(default_threads(cpus, 0), 16);
  EXPECT_EQ(pus(plan_placement(cpus, 8)), series(8, 0, 2));
  EXPECT_EQ(weights(plan_placement(cpus, 8)), std::vector<double>(8, 1.0));

  const Placement cores = plan_placement(cpus, 16);
  expect_sound(cores, 16);
  EXPECT_EQ(pus(cores), series(16, 0, 2));
  EXPECT_EQ(cores.threads[7].weight, 1.0);
  EXPECT_EQ(cores.threads[8].weight, 0.5);
  EXPECT_NE(cores.threads[7].kind, cores.threads[8].kind);

  const Placement all = plan_placement(cpus, 24);
  expect_sound(all, 24);
  EXPECT_EQ(pus(all), joined(series(16, 0, 1), series(8, 16, 2)));
  EXPECT_EQ(weights(all), std::vector<double>(24, 0.5));
}

TEST(Placement, HybridSharesFollowTheMeasuredSpeed) {
  CpuTopology cpus = hybrid();
  measure_speeds(cpus, [](unsigned pu) { return pu < 16 ? 100.0 : 60.0; });
  const Placement placement = plan_placement(cpus, 16);
  // 8 x 1 + 8 x 0.6 = 12.8; of 1280 blocks a fast core has 100, a slow one 60.
  for (int t = 0; t < 16; ++t) {
    const Range home = placement.home_range(1280, 1, t);
    EXPECT_EQ(home.end - home.begin, t < 8 ? 100 : 60) << t;
  }
}

TEST(Placement, FastCoresComeFirstWhateverTheirNumbers) {
  Machine machine("core:4 pu:1");
  machine.kind(0, 1, 0, "IntelAtom").kind(2, 3, 1, "IntelCore");
  EXPECT_EQ(pus(plan_placement(machine.cpus(), 4)), (std::vector<int>{2, 3, 0, 1}));
  EXPECT_EQ(pus(plan_placement(machine.cpus(), 2)), (std::vector<int>{2, 3}));
}

TEST(Placement, MoreThreadsThanProcessors) {
  const Placement placement = plan_placement(Machine("numa:2 core:2 pu:1").cpus(), 10);
  expect_sound(placement, 10);
  EXPECT_TRUE(placement.crowded);
  EXPECT_EQ(nodes(placement), (std::vector<int>{0, 0, 0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(pus(placement), (std::vector<int>{0, -1, -1, 1, -1, -1, 2, -1, 3, -1}));
  EXPECT_EQ(weights(placement), std::vector<double>(10, 1.0));
}

TEST(Placement, QuotasLimitThreadsAndSpinning) {
  const CpuTopology cpus = Machine(kTwoSockets).cpus();
  EXPECT_EQ(default_threads(cpus, 3.2), 4);
  EXPECT_EQ(default_threads(cpus, 0.5), 1);
  EXPECT_EQ(default_threads(cpus, 1e300), 112);
  EXPECT_FALSE(plan_placement(cpus, 4, 3.2).crowded);
  EXPECT_TRUE(plan_placement(cpus, 5, 3.2).crowded);
  EXPECT_EQ(pus(plan_placement(cpus, 5, 3.2)), series(5, 0, 1));
}

TEST(Placement, RefusesNothing) {
  EXPECT_THROW(plan_placement(Machine(kTwoSockets).cpus(), 0), Error);
  EXPECT_THROW(plan_placement({}, 1), Error);
}

}  // namespace
}  // namespace nibble::runtime
