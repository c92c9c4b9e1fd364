// How keys and values lie in the cache, what they are rounded to, and what becomes of those that
// are not finite.
#include "jit/kv_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "jit/float16.h"
#include "jit/kv_quantize.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/not_finite.h"

namespace nibble::test {
namespace {

using namespace jit;  // NOLINT(google-build-using-namespace)

TEST(KvQuantize, EqualsItsReference) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (const int64_t count : {1, 7, 8, 9, 16, 20, 64, 100, 128, 1024}) {
    for (const QuantizeRule& rule : {kNormRule, kInt16ValueRule, kInt8Rule}) {
      for (const float size : {0.0F, 1e-38F, 1.0F, 1e10F}) {
        const auto n = static_cast<size_t>(count);
        GuardedBuffer<float> x(n);
        for (float& value : x) value = normal(random) * size;
        GuardedBuffer<int16_t> found(n), expected(n);
        const float scale = quantize_vector(x.data(), count, rule, found.data());
        EXPECT_EQ(scale, quantize_plain(x.data(), count, rule, expected.data()));
        EXPECT_TRUE(std::ranges::equal(found.span(), expected.span()));
        double squares = 0;
        for (size_t i = 0; i < n; ++i) {
          squares += static_cast<double>(found[i]) * found[i];
          EXPECT_NEAR(static_cast<double>(found[i]) * scale, x[i], 0.51 * scale);
        }
        EXPECT_LE(rule.by_norm != 0 ? squares : 0.0, 0x1p31);
      }
    }
  }
}

TEST(KvQuantize, KnowsTheLogarithmsOfScales) {
  for (float scale = 1e-30F; scale < 1e37F; scale *= 1.0173F) {
    const double exact = std::log2(static_cast<double>(scale));
    EXPECT_NEAR(log2_of_scale(scale), exact, 0x1p-24 * std::max(1.0, std::abs(exact))) << scale;
  }
  for (int exponent = -99; exponent < 120; ++exponent) {
    EXPECT_EQ(log2_of_scale(std::ldexp(1.0F, exponent)), static_cast<float>(exponent));
  }
}

// Two pages, a position appended to the second of them, and the record that it is in.
struct AppendedOnce {
  AppendedOnce(KvType type, int64_t position, std::span<const float> key,
               std::span<const float> value)
      : dim(static_cast<int64_t>(key.size())),
        record(kv_record(type, dim)),
        page(kv_page_bytes(type, dim)),
        pages(static_cast<size_t>(2 * page + 64)),
        head{pages.data(), page + 64} {
    kv_append(type, dim, position, key.data(), value.data(), head);
    split = kv_split(record, head, position / kKvSplit);
  }
  template <typename T>
  T number(int64_t part, int64_t index) const {
    T x;
    std::memcpy(&x, split + part + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return x;
  }
  int64_t dim;
  KvRecord record;
  int64_t page;
  std::vector<std::byte> pages;
  KvHead head;
  const std::byte* split;
};
constexpr auto kWritten = [](std::byte b) { return b != std::byte{0}; };

// Position 83 is the 19th of the second split: lane 3 of its second block, odd of its pair 9, the
// last of its four 4.
constexpr int64_t kAppended = kKvPage + 83;
constexpr float kSomeKey[] = {1, -2, 3};
constexpr float kSomeValue[] = {4, 0, -6};

TEST(KvLayout, PutsInt16InPairs) {
  constexpr int64_t kWidth = 16;
  const AppendedOnce cache(KvType::int16, kAppended, kSomeKey, kSomeValue);
  EXPECT_EQ(kv_bytes(KvType::int16, 3, 32), 32 * kWidth * 2);
  EXPECT_EQ(cache.record.bytes, 2 * 64 * (kWidth * 2 + 4));
  EXPECT_EQ(cache.page, 4 * cache.record.bytes);
  EXPECT_EQ(cache.split, cache.pages.data() + cache.page + 64 + cache.record.bytes);
  for (int64_t d = 0; d < 3; ++d) {
    const int64_t key = 16 * kWidth + (d / 2 * 16 + 3) * 2 + d % 2;
    const float k = kSomeKey[d], v = kSomeValue[d];
    EXPECT_EQ(cache.number<int16_t>(0, key), std::nearbyint(k / 3 * 32767));
    const int64_t value = (9 * kWidth + d) * 2 + 1;
    EXPECT_EQ(cache.number<int16_t>(cache.record.values, value), std::nearbyint(v / 6 * 16383));
    EXPECT_NEAR(kv_key(KvType::int16, 3, cache.head, kAppended, d), k, 1e-4);
    EXPECT_NEAR(kv_value(KvType::int16, 3, cache.head, kAppended, d), v, 2e-4);
  }
  EXPECT_NEAR(cache.number<float>(cache.record.key_scales, 19), 3.0 / 32767, 1e-9);
  EXPECT_NEAR(cache.number<float>(cache.record.value_scales, 19), 6.0 / 16383, 1e-9);
  EXPECT_EQ(std::count_if(cache.split, cache.split + cache.record.key_scales, kWritten), 2 * 3);
  EXPECT_EQ(std::count_if(cache.pages.data(), cache.split, kWritten), 0);
}

TEST(KvLayout, PutsInt8InFours) {
  constexpr int64_t kWidth = 16;
  const AppendedOnce cache(KvType::int8, kAppended, kSomeKey, kSomeValue);
  EXPECT_EQ(kv_bytes(KvType::int8, 3, 32), 32 * kWidth);
  EXPECT_EQ(cache.record.bytes, 2 * 64 * kWidth + 3 * 64 * 4);
  EXPECT_EQ(cache.page, 4 * cache.record.bytes);
  EXPECT_EQ(cache.split, cache.pages.data() + cache.page + 64 + cache.record.bytes);
  for (int64_t d = 0; d < kWidth; ++d) {
    const int64_t key = 16 * kWidth + (d / 4 * 16 + 3) * 4 + d % 4;
    const float k = d < 3 ? kSomeKey[d] : 0, v = d < 3 ? kSomeValue[d] : 0;
    EXPECT_EQ(cache.number<uint8_t>(0, key), std::nearbyint(k / 3 * 127) + 128) << d;
    const int64_t value = (4 * kWidth + d) * 4 + 3;
    EXPECT_EQ(cache.number<int8_t>(cache.record.values, value), std::nearbyint(v / 6 * 127)) << d;
    EXPECT_NEAR(kv_key(KvType::int8, 3, cache.head, kAppended, d), k, 0.02);
    EXPECT_NEAR(kv_value(KvType::int8, 3, cache.head, kAppended, d), v, 0.03);
  }
  EXPECT_NEAR(cache.number<float>(cache.record.key_scales, 19), 3.0 / 127, 1e-8);
  EXPECT_NEAR(cache.number<float>(cache.record.value_logs, 19), std::log2(6.0 / 127), 1e-6);
  EXPECT_NEAR(cache.number<float>(cache.record.value_inverses, 19), 127 / 6.0, 1e-5);
  EXPECT_EQ(std::count_if(cache.split, cache.split + cache.record.key_scales, kWritten), kWidth);
  EXPECT_EQ(std::count_if(cache.pages.data(), cache.split, kWritten), 0);
}

// Weights have no way to say that a value is not finite; the score of its position has.
TEST(KvLayout, IntegersThatAreNotFiniteHaveNoScore) {
  for (const KvType type : {KvType::int16, KvType::int8}) {
    for (const float bad : {kNaN, kInfinity, -kInfinity}) {
      const float with_bad[] = {4, bad, 6};
      const AppendedOnce key(type, 5, with_bad, kSomeValue), value(type, 5, kSomeKey, with_bad);
      EXPECT_TRUE(std::isnan(key.number<float>(key.record.key_scales, 5)));
      EXPECT_TRUE(std::isnan(value.number<float>(value.record.key_scales, 5)));
    }
  }
}

// Position 83 is the 19th of the second split: lane 3 of its second block, of the values the upper
// half of line 3 of the first 32.
TEST(KvLayout, PutsBf16InPairs) {
  constexpr int64_t kDim = 35, kWidth = 64, kPosition = kKvPage + 83;
  constexpr KvType kType = KvType::bf16_pairs;
  const KvRecord record = kv_record(kType, kDim);
  EXPECT_EQ(record.values, 64 * kWidth * 2);
  EXPECT_EQ(record.bytes, 2 * record.values);
  const int64_t page = kv_page_bytes(kType, kDim);
  std::vector<std::byte> pages(static_cast<size_t>(2 * page + 64));
  const KvHead head{pages.data(), page + 64};
  std::vector<float> key(kDim), value(kDim);
  for (size_t d = 0; d < kDim; ++d) {
    key[d] = 1.0F + static_cast<float>(d);
    value[d] = -100.0F - static_cast<float>(d);
  }
  key[7] = 0x1p-57F;
  kv_append(kType, kDim, kPosition, key.data(), value.data(), head);
  key[7] = 0;
  const std::byte* split = kv_split(record, head, kPosition / kKvSplit);
  const auto number_at = [&](int64_t index) {
    uint16_t bits;
    std::memcpy(&bits, split + 2 * index, 2);
    return bf16_to_f32(bits);
  };
  int64_t zeros = 0;
  for (int64_t i = 0; i < record.bytes / 2; ++i) zeros += number_at(i) == 0 ? 1 : 0;
  EXPECT_EQ(zeros, record.bytes / 2 - 2 * kDim + 1);
  for (int64_t d = 0; d < kDim; ++d) {
    const auto at = static_cast<size_t>(d);
    EXPECT_EQ(number_at(kWidth * 16 + d / 2 * 32 + 3 * 2 + d % 2), key[at]);
    EXPECT_EQ(number_at(record.values / 2 + (3 * kWidth + d) * 2 + 1), value[at]);
    EXPECT_EQ(kv_key(kType, kDim, head, kPosition, d), key[at]);
    EXPECT_EQ(kv_value(kType, kDim, head, kPosition, d), value[at]);
  }
}

// Several positions at once leave what they leave one by one, whatever lies around them: across
// blocks and pages, with numbers that are not finite among them.
TEST(KvLayout, TakesSeveralPositionsAtOnce) {
  constexpr int64_t kStride = 150, kMostRows = 41;
  std::mt19937 random(13);
  std::normal_distribution<float> normal;
  std::vector<float> keys(kMostRows * kStride), values(keys.size());
  for (float& x : keys) x = normal(random);
  for (float& x : values) x = normal(random);
  keys[2 * kStride + 5] = std::numeric_limits<float>::infinity();
  values[6 * kStride + 3] = std::numeric_limits<float>::quiet_NaN();
  for (const KvType type :
       {KvType::f32, KvType::f16, KvType::bf16, KvType::int8, KvType::int16, KvType::bf16_pairs}) {
    for (const int64_t dim : {20, 64, 128}) {
      for (const int64_t rows : {1, 2, 3, 4, 5, 16, 41}) {
        for (const int64_t position : {0, 1, 3, 14, 240, 255}) {
          const int64_t page = kv_page_bytes(type, dim);
          std::vector<std::byte> together(static_cast<size_t>(2 * page), std::byte{0x5A});
          std::vector<std::byte> one_by_one = together;
          kv_append(type, dim, position, keys.data(), values.data(), {together.data(), page}, rows,
                    kStride);
          for (int64_t r = 0; r < rows; ++r) {
            kv_append(type, dim, position + r, &keys[static_cast<size_t>(r * kStride)],
                      &values[static_cast<size_t>(r * kStride)], {one_by_one.data(), page});
          }
          EXPECT_EQ(together, one_by_one) << "dim " << dim << ", " << rows << " from " << position;
        }
      }
    }
  }
}

// Positions share lanes and lines, which does not let one change another.
TEST(KvLayout, LeavesOtherPositionsAlone) {
  constexpr int64_t kDim = 20, kPositions = kKvSplit + 5;
  for (const KvType type :
       {KvType::f32, KvType::f16, KvType::bf16, KvType::int8, KvType::int16, KvType::bf16_pairs}) {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    const int64_t page = kv_page_bytes(type, kDim);
    std::vector<std::byte> pages(static_cast<size_t>(page));
    const KvHead head{pages.data(), page};
    const auto append = [&](int64_t t) {
      std::vector<float> key(kDim), value(kDim);
      for (float& x : key) x = normal(random);
      for (float& x : value) x = normal(random);
      kv_append(type, kDim, t, key.data(), value.data(), head);
    };
    const auto position = [&](int64_t t) {
      std::vector<float> held;
      for (int64_t d = 0; d < kDim; ++d) {
        held.push_back(kv_key(type, kDim, head, t, d));
        held.push_back(kv_value(type, kDim, head, t, d));
      }
      return held;
    };
    for (int64_t t = 0; t < kPositions; ++t) append(t);
    for (int64_t changed = 0; changed < kPositions; ++changed) {
      std::vector<std::vector<float>> before;
      for (int64_t t = 0; t < kPositions; ++t) before.push_back(position(t));
      append(changed);
      for (int64_t t = 0; t < kPositions; ++t) {
        EXPECT_EQ(position(t) == before[static_cast<size_t>(t)], t != changed)
            << static_cast<int>(type) << ": " << t << " when " << changed << " changed";
      }
    }
  }
}

// Values are multiplied by weights of 0 where they do not count, so none may be infinite or NaN;
// what was makes the score NaN instead.
TEST(KvLayout, KeepsValuesFinite) {
  constexpr int64_t kDim = 3;
  constexpr KvType kType = KvType::bf16_pairs;
  std::vector<std::byte> pages(static_cast<size_t>(kv_page_bytes(kType, kDim)));
  const KvHead head{pages.data(), 0};
  for (const float bad : {kNaN, kInfinity, -kInfinity, 3.4e38F}) {
    const float good[] = {1, 2, 3}, with_bad[] = {4, bad, 6};
    kv_append(kType, kDim, 5, good, with_bad, head);
    EXPECT_TRUE(std::isnan(kv_key(kType, kDim, head, 5, 0)));
    EXPECT_EQ(kv_value(kType, kDim, head, 5, 0), 4);
    EXPECT_EQ(kv_value(kType, kDim, head, 5, 1), 0);
    kv_append(kType, kDim, 5, with_bad, good, head);
    EXPECT_TRUE(std::isnan(kv_key(kType, kDim, head, 5, 0)));
    EXPECT_EQ(kv_value(kType, kDim, head, 5, 1), 2);
    kv_append(kType, kDim, 5, good, good, head);
    EXPECT_EQ(kv_key(kType, kDim, head, 5, 0), 1);
  }
}

TEST(KvLayout, PutsPositionsSideBySide) {
  constexpr int64_t kDim = 3;
  constexpr int64_t kRecord = 2 * 64 * kDim * 4;
  EXPECT_EQ(kv_record(KvType::f32, kDim).bytes, kRecord);
  EXPECT_EQ(kv_record(KvType::f16, kDim).bytes, kRecord / 2);
  std::vector<float> page(4 * kRecord / 4, 0.0F);
  const float key[] = {1, 2, 3};
  const float value[] = {4, 5, 6};
  kv_append(KvType::f32, kDim, 64 + 18, key, value,
            {reinterpret_cast<std::byte*>(page.data()), 4 * kRecord});
  std::vector<float> expected(page.size(), 0.0F);
  for (size_t d = 0; d < 3; ++d) {
    expected[kRecord / 4 + 16 * 3 + d * 16 + 2] = key[d];
    expected[kRecord / 4 + (64 + 18) * 3 + d] = value[d];
  }
  EXPECT_EQ(page, expected);
}

TEST(KvLayout, RoundsHalvesToEven) {
  const float rounded[] = {1.0F,     2049.0F, 2051.0F, 65504.0F, 65520.0F, 1e-8F, -0.0F,
                           5.96e-8F, 3.0e-8F, -1.5F,   1e30F,    0.1F,     0.2F};
  const uint16_t expected[] = {0x3C00, 0x6800, 0x6802, 0x7BFF, 0x7C00, 0x0000, 0x8000,
                               0x0001, 0x0001, 0xBE00, 0x7C00, 0x2E66, 0x3266};
  constexpr int64_t kDim = std::size(rounded);
  GuardedBuffer<uint16_t> record(2 * 64 * kDim);
  kv_append(KvType::f16, kDim, 15, rounded, rounded,
            {reinterpret_cast<std::byte*>(record.data()), 0});
  for (size_t d = 0; d < static_cast<size_t>(kDim); ++d) {
    EXPECT_EQ(record[d * 16 + 15], expected[d]) << rounded[d];
    EXPECT_EQ(record[(64 + 15) * static_cast<size_t>(kDim) + d], expected[d]) << rounded[d];
  }
}

}  // namespace
}  // namespace nibble::test
