// Placement::home_range and plan_pages: who works on what, and where that lies.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "runtime/numa_memory.h"
#include "runtime/placement.h"

namespace nibble::runtime {
namespace {

// Cores alike, `each` a node, with nodes of these OS numbers.
CpuTopology machine(int each, const std::vector<unsigned>& nodes) {
  CpuTopology cpus;
  cpus.nodes = nodes;
  cpus.kinds = {{}};
  for (size_t node = 0; node < nodes.size(); ++node) {
    for (int i = 0; i < each; ++i) {
      const auto pu = static_cast<unsigned>(cpus.cores.size());
      cpus.cores.push_back({.pus = {pu}, .node = static_cast<int>(node), .kind = 0});
    }
  }
  return cpus;
}

// One core a thread, of these speeds, the fastest being 1 and first.
Placement with_speeds(const std::vector<double>& speeds) {
  CpuTopology cpus = machine(static_cast<int>(speeds.size()), {0});
  cpus.kinds.clear();
  for (size_t i = 0; i < speeds.size(); ++i) {
    cpus.kinds.push_back({"", speeds[i]});
    cpus.cores[i].kind = static_cast<int>(i);
  }
  return plan_placement(cpus, static_cast<int>(speeds.size()));
}

void expect_partition(const Placement& placement, int64_t count, int64_t unit) {
  int64_t reached = 0;
  const int64_t units = (count + unit - 1) / unit;
  double before = 0;
  for (int t = 0; t < placement.size(); ++t) {
    const Range home = placement.home_range(count, unit, t);
    EXPECT_EQ(home.begin, reached);
    EXPECT_LE(home.begin, home.end);
    EXPECT_TRUE(home.end % unit == 0 || home.end == count);
    // Both borders are rounded to the nearest unit, so a part is off by less than one.
    const double up_to = placement.threads[static_cast<size_t>(t)].up_to;
    const double ideal = (up_to - before) * static_cast<double>(units);
    const int64_t found = (home.end + unit - 1) / unit - (home.begin + unit - 1) / unit;
    EXPECT_LT(std::abs(static_cast<double>(found) - ideal), 1.0 + 1e-9) << t;
    before = up_to;
    reached = home.end;
  }
  EXPECT_EQ(reached, count);
}

TEST(HomeRange, PartitionsExactly) {
  const std::vector<Placement> placements = {
      plan_placement(machine(1, {0}), 1),       plan_placement(machine(2, {0}), 2),
      plan_placement(machine(56, {0, 1}), 112), plan_placement(machine(8, {0, 1, 2, 3}), 27),
      plan_placement(machine(2, {0}), 64),      with_speeds({1, 1, 0.6, 0.6, 0.59}),
      with_speeds({1, 1.0 / 3, 1e-6})};
  for (const Placement& placement : placements) {
    for (const int64_t count : {0, 1, 2, 3, 7, 31, 256, 688, 2000, 123457}) {
      for (const int64_t unit : {1, 2, 3, 8, 16, 500}) {
        SCOPED_TRACE(testing::Message()
                     << placement.size() << " threads, " << count << " by " << unit);
        expect_partition(placement, count, unit);
      }
    }
  }
}

TEST(HomeRange, HugeCountsStayExact) {
  expect_partition(with_speeds({1, 0.7, 0.3}), (int64_t{1} << 44) + 5, 8);
}

TEST(HomeRange, EqualThreadsDifferByAUnitAtMost) {
  const Placement placement = plan_placement(machine(7, {0}), 7);
  for (int t = 0; t < 7; ++t) {
    const Range home = placement.home_range(256, 1, t);
    EXPECT_GE(home.end - home.begin, 36);
    EXPECT_LE(home.end - home.begin, 37);
  }
}

TEST(HomeRange, ManyThreadsFewBlocks) {
  const Placement placement = plan_placement(machine(56, {0, 1}), 112);
  int busy = 0;
  for (int t = 0; t < 112; ++t) {
    const Range home = placement.home_range(5, 2, t);
    busy += home.end > home.begin ? 1 : 0;
  }
  EXPECT_EQ(busy, 3);
  expect_partition(placement, 5, 2);
}

TEST(HomeRange, TheUnitMovesABorderByLessThanAUnit) {
  const Placement placement = with_speeds({1, 0.9, 0.5, 0.5});
  for (int t = 0; t < 4; ++t) {
    const Range loader = placement.home_range(688, 1, t),
                executor = placement.home_range(688, 4, t);
    EXPECT_LE(std::abs(loader.end - executor.end), 4);
  }
}

constexpr size_t kPage = 4096;

void expect_covers(const std::vector<NodePages>& plan, size_t address, size_t bytes, size_t page) {
  ASSERT_FALSE(plan.empty());
  EXPECT_EQ(plan.front().begin, address / page * page);
  EXPECT_EQ(plan.back().end, (address + bytes + page - 1) / page * page);
  for (size_t i = 0; i < plan.size(); ++i) {
    EXPECT_EQ(plan[i].begin % page, 0U);
    EXPECT_LT(plan[i].begin, plan[i].end);
    if (i == 0) continue;
    EXPECT_EQ(plan[i].begin, plan[i - 1].end);
    EXPECT_LT(plan[i - 1].node, plan[i].node);
  }
}

TEST(PlanPages, CoversEveryPageOnce) {
  for (const int threads : {16, 21, 32}) {
    const Placement placement = plan_placement(machine(8, {0, 1, 2, 3}), threads);
    for (const size_t page : {kPage, size_t{2} << 20}) {
      for (const size_t block : {64UL, 4096UL, 34816UL, 100'000UL}) {
        for (const int64_t blocks : {1, 3, 32, 256, 2000}) {
          for (const size_t address : {size_t{1} << 30, (size_t{1} << 30) + 8128}) {
            SCOPED_TRACE(testing::Message()
                         << threads << " threads, page " << page << ", " << blocks << " blocks of "
                         << block << " at " << address);
            const size_t bytes = block * static_cast<size_t>(blocks);
            expect_covers(plan_pages(address, bytes, blocks, page, placement), address, bytes,
                          page);
          }
        }
      }
    }
  }
}

TEST(PlanPages, FollowsTheHomeRanges) {
  // 256 blocks of 8 pages over 4 nodes of 8 threads: 64 blocks a node.
  const Placement placement = plan_placement(machine(8, {0, 1, 2, 3}), 32);
  const size_t address = size_t{1} << 30, part = 64 * 8 * kPage;
  const std::vector<NodePages> expected = {{address, address + part, 0},
                                           {address + part, address + 2 * part, 1},
                                           {address + 2 * part, address + 3 * part, 2},
                                           {address + 3 * part, address + 4 * part, 3}};
  EXPECT_EQ(plan_pages(address, 4 * part, 256, kPage, placement), expected);
}

TEST(PlanPages, ASharedPageGoesToTheLargerPart) {
  // Three blocks of 3/4 page; the border of two nodes' threads is after the second (24 KiB / 16).
  const Placement placement = plan_placement(machine(8, {0, 1}), 16);
  const Range first = placement.home_range(3, 1, 7);
  const size_t border = static_cast<size_t>(first.end) * 3072;
  const size_t rounded = (border + kPage / 2) / kPage * kPage;
  const auto plan = plan_pages(0, 9216, 3, kPage, placement);
  ASSERT_EQ(plan.size(), 2U);
  EXPECT_EQ(plan[0].end, rounded);
}

TEST(PlanPages, OneNodeIsOneRange) {
  const Placement placement = plan_placement(machine(4, {0}), 4);
  EXPECT_EQ(plan_pages(kPage, 10 * kPage, 10, kPage, placement),
            (std::vector<NodePages>{{kPage, 11 * kPage, 0}}));
  EXPECT_TRUE(plan_pages(kPage, 0, 10, kPage, placement).empty());
}

bool placing_is_permitted() {
  const jit::WeightFormat format{.type = jit::WeightType::f32};
  const PackedBuffer probe = allocate_packed(format, 1024, 1024);
  return prefer_node(probe.data, 4096, 0);
}

TEST(PlacePages, NodeZeroIsHere) {
  if (!placing_is_permitted()) GTEST_SKIP() << "Placing memory is not permitted here.";
  // Two nodes that are both node 0: the whole way of a large machine, on this one.
  const Placement placement = plan_placement(machine(8, {0, 0}), 16);
  const jit::WeightFormat format{.type = jit::WeightType::f32};
  const PackedBuffer buffer = allocate_packed(format, 1024, 1024);
  buffer.data[12345] = 7;
  EXPECT_EQ(place_pages(buffer.data, size_t{4} << 20, 64, placement), 0U);
  EXPECT_EQ(buffer.data[12345], 7);
}

TEST(PlacePages, ANodeThatIsNotThereIsRefusedAndNothingIsLost) {
  const Placement placement = plan_placement(machine(8, {0, 1023}), 16);
  const jit::WeightFormat format{.type = jit::WeightType::f32};
  const PackedBuffer buffer = allocate_packed(format, 1024, 1024);
  buffer.data[size_t{3} << 20] = 7;
  EXPECT_GE(place_pages(buffer.data, size_t{4} << 20, 64, placement), size_t{2} << 20);
  EXPECT_EQ(buffer.data[size_t{3} << 20], 7);
}

TEST(PlacePages, OneNodeCostsNothing) {
  // Not even memory to speak of.
  const Placement placement = plan_placement(machine(8, {1023}), 8);
  EXPECT_EQ(place_pages(nullptr, size_t{1} << 40, 64, placement), 0U);
}

TEST(AllocatePacked, OnTwoNodesIsZeroedAndWritable) {
  const Placement placement = plan_placement(machine(8, {0, 0}), 16);
  for (const int64_t n : {16, 1000, 5000}) {
    const jit::WeightFormat format{.group = 32, .asym = true};
    const jit::PackedShape shape = jit::packed_shape(format, n, 1024);
    const PackedBuffer buffer = allocate_packed(format, n, 1024, &placement);
    for (int64_t i = 0; i < shape.data_bytes; ++i) ASSERT_EQ(buffer.data[i], 0);
    for (int64_t i = 0; i < shape.zero_bytes; ++i) ASSERT_EQ(buffer.zeros[i], 0);
    std::memset(buffer.data, 1, static_cast<size_t>(shape.data_bytes));
    std::memset(buffer.scales, 1, static_cast<size_t>(shape.scale_bytes));
    std::memset(buffer.zeros, 1, static_cast<size_t>(shape.zero_bytes));
  }
}

TEST(CopyToNodes, CopiesEveryByte) {
  ThreadPool pool(plan_placement(machine(2, {0, 0}), 3));
  for (const int64_t n : {1, 16, 40, 1000}) {
    const jit::WeightFormat format{.group = 64, .asym = true};
    const jit::PackedShape shape = jit::packed_shape(format, n, 500);
    const PackedBuffer source = allocate_packed(format, n, 500);
    auto* scales = static_cast<uint8_t*>(source.scales);
    for (int64_t i = 0; i < shape.data_bytes; ++i) source.data[i] = static_cast<uint8_t>(i * 7);
    for (int64_t i = 0; i < shape.scale_bytes; ++i) scales[i] = static_cast<uint8_t>(i * 5);
    for (int64_t i = 0; i < shape.zero_bytes; ++i) source.zeros[i] = static_cast<uint8_t>(i * 3);
    const PackedMatrix copy = copy_to_nodes(source.matrix, pool);
    EXPECT_EQ(copy.view.n, n);
    EXPECT_EQ(copy.view.format, format);
    EXPECT_NE(copy.view.data, source.data);
    const auto same = [](const void* a, const void* b, int64_t bytes) {
      return std::memcmp(a, b, static_cast<size_t>(bytes)) == 0;
    };
    EXPECT_TRUE(same(copy.view.data, source.data, shape.data_bytes));
    EXPECT_TRUE(same(copy.view.scales, source.scales, shape.scale_bytes));
    EXPECT_TRUE(same(copy.view.zeros, source.zeros, shape.zero_bytes));
  }
}

}  // namespace
}  // namespace nibble::runtime
