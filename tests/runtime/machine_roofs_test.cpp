#include "runtime/machine_roofs.h"

#include <gtest/gtest.h>

#include <string>

#include "jit/isa.h"

namespace nibble::runtime {
namespace {

// No timing is judged, only that both loops ran and were counted: no machine with AVX2 reads less
// than 10 MB/s or more than 100 TB/s, and none computes without time.
TEST(MachineRoofs, AreMeasured) {
  if (!jit::cpu().avx2) GTEST_SKIP() << "this machine has no AVX2";
  ThreadPool pool(2);
  const Roofs roofs = measure_roofs(pool);
  EXPECT_GT(roofs.read_gbs, 0.01);
  EXPECT_LT(roofs.read_gbs, 1e5);
  EXPECT_GT(roofs.int8_gops, 0.1);
  EXPECT_LT(roofs.int8_gops, 1e7);
  const double dots = dot_roof(pool);
  EXPECT_GT(dots, 0.1);
  EXPECT_LT(dots, 1e7);
  RecordProperty("read_gbs", std::to_string(roofs.read_gbs));
  RecordProperty("int8_gops", std::to_string(roofs.int8_gops));
}

}  // namespace
}  // namespace nibble::runtime
