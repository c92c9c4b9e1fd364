// Every kernel of the catalog against its reference, on every ISA that this machine has.
#include "jit/kernel_catalog.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "jit/error.h"
#include "tests/support/sanitized.h"

namespace nibble::jit {
namespace {

// What is generated is the same in every build: where code runs slowly, every third kernel.
std::vector<KernelKey> checked_kernels(Isa isa) {
  constexpr size_t kStep = test::sanitized() ? 3 : 1;
  std::vector<KernelKey> out;
  const std::vector<KernelKey> all = kernel_catalog(isa);
  for (size_t i = static_cast<size_t>(isa) % kStep; i < all.size(); i += kStep) {
    out.push_back(all[i]);
  }
  return out;
}

constexpr Isa kAll[] = {Isa::avx2, Isa::avx_vnni, Isa::avx512, Isa::avx512_vnni, Isa::amx_int8};

TEST(KernelCatalog, NamesAreUniqueAndParse) {
  for (const Isa isa : kAll) {
    std::set<std::string> names;
    for (const KernelKey& key : kernel_catalog(isa)) {
      const std::string text = name(key);
      EXPECT_TRUE(names.insert(text).second) << text;
      EXPECT_EQ(parse_kernel_name(text), key) << text;
      EXPECT_EQ(key.isa, isa);
    }
    EXPECT_EQ(names.empty(), !has_emitter(isa));
  }
}

TEST(KernelCatalog, CoversWhatKernelsCanDo) {
  std::set<RowOp> ops;
  std::set<Activation> gates;
  std::set<int64_t> groups;
  for (const KernelKey& key : kernel_catalog(Isa::avx2)) {
    if (const auto* row = std::get_if<RowSpec>(&key.spec)) ops.insert(row->op);
    const auto* gemm = std::get_if<GemmSpec>(&key.spec);
    if (gemm == nullptr) continue;
    EXPECT_TRUE(tiling_fits(*gemm, Isa::avx2, key.tiling)) << name(key);
    if (gemm->gate) gates.insert(gemm->activation);
    if (gemm->weight.type == WeightType::u4) groups.insert(gemm->weight.group);
  }
  EXPECT_EQ(ops.size(), 11U);
  EXPECT_EQ(gates.size(), 7U);
  for (const int64_t group : {16, 32, 64, 128, 256, 512, 1024, 0}) {
    EXPECT_TRUE(groups.contains(group)) << group;
  }
}

class KernelCatalogOn : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!supports(GetParam())) {
      GTEST_SKIP() << "no " << isa_name(GetParam()) << " kernels run here: the machine lacks "
                   << missing_features(cpu(), GetParam());
    }
    if (std::getenv("NIBBLE_NO_JIT") != nullptr) GTEST_SKIP() << "NIBBLE_NO_JIT is set";
    ASSERT_EQ(CodeCache::instance().fallback_reason(), "");
  }

  template <typename Spec>
  void check_all() {
    int checked = 0;
    for (const KernelKey& key : checked_kernels(GetParam())) {
      if (!std::holds_alternative<Spec>(key.spec)) continue;
      EXPECT_EQ(check_kernel(key, 1), "") << "repeat with: nibble kernels check " << name(key);
      ++checked;
    }
    EXPECT_GT(checked, 10);
  }
};

TEST_P(KernelCatalogOn, MatmulsEqualTheirReference) { check_all<GemmSpec>(); }
TEST_P(KernelCatalogOn, RowKernelsEqualTheirReference) { check_all<RowSpec>(); }
TEST_P(KernelCatalogOn, AttentionEqualsItsReference) { check_all<AttentionSpec>(); }

INSTANTIATE_TEST_SUITE_P(Isa, KernelCatalogOn, testing::ValuesIn(kAll),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

// The code of one kernel under the name of another.
std::string check_as(const KernelSpec& named, const KernelSpec& coded) {
  const auto key = [](const KernelSpec& spec) {
    KernelKey out{.spec = spec, .isa = Isa::avx2};
    const auto* gemm = std::get_if<GemmSpec>(&spec);
    if (gemm != nullptr) out.tiling = default_tiling(*gemm, Isa::avx2, 4);
    return out;
  };
  Kernel kernel = CodeCache::instance().get(key(coded));
  if (kernel.code == nullptr || !supports(Isa::avx2)) return "cannot run here";
  kernel.key = key(named);
  return compare_with_reference(kernel, 1);
}

TEST(KernelCheck, ReportsCodeThatComputesSomethingElse) {
  const GemmSpec gemm{.n = 48, .k = 64};
  GemmSpec other = gemm;
  other.residual = true;
  EXPECT_EQ(check_as(gemm, gemm), "");
  EXPECT_NE(check_as(other, gemm), "");
  other = gemm;
  other.activation = Activation::relu;
  EXPECT_NE(check_as(gemm, other), "");

  const RowSpec norm{.op = RowOp::rms_norm, .n = 50, .quantize = true, .group = 32};
  RowSpec other_norm = norm;
  other_norm.zero = 1;
  EXPECT_EQ(check_as(norm, norm), "");
  const std::string sums = check_as(norm, other_norm);
  EXPECT_NE(sums.find("q_sum[0][0] is "), std::string::npos) << sums;

  const AttentionSpec attention{.head_dim = 32, .rows = 2};
  AttentionSpec capped = attention;
  capped.softcap = true;
  EXPECT_EQ(check_as(attention, attention), "");
  EXPECT_NE(check_as(attention, capped), "");
}

TEST(KernelCheck, ReportsWritesBetweenRows) {
  const RowSpec row{.op = RowOp::add, .n = 60};
  RowSpec longer = row;
  longer.n = 62;
  const std::string between = check_as(row, longer);
  EXPECT_NE(between.find("y[0][60] is "), std::string::npos) << between;
}

TEST(KernelCatalog, EveryKernelDisassembles) {
  for (const Isa isa : {Isa::avx2, Isa::avx512_vnni, Isa::amx_int8}) {
    if (std::getenv("NIBBLE_NO_JIT") != nullptr) GTEST_SKIP() << "NIBBLE_NO_JIT is set";
    CodeCache cache;
    for (const KernelKey& key : checked_kernels(isa)) {
      const Kernel& kernel = cache.get(key);
      ASSERT_NE(kernel.code, nullptr) << cache.fallback_reason();
      const std::string text = disassemble(kernel);
      EXPECT_NE(text.find("ret"), std::string::npos) << name(key);
      EXPECT_EQ(text.find("(not "), std::string::npos) << name(key);
    }
  }
}

TEST(KernelCheck, RefusesWhatCannotRun) {
  KernelKey key{.spec = RowSpec{.op = RowOp::add, .n = 8}, .isa = Isa::amx_int8};
  if (!supports(Isa::amx_int8)) {
    EXPECT_THROW(check_kernel(key, 1), Error);
  }
  key = {.spec = RowSpec{.op = RowOp::add, .n = -8}, .isa = selected_isa()};
  EXPECT_THROW(check_kernel(key, 1), Error);
}

}  // namespace
}  // namespace nibble::jit
