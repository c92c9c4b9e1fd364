// Weights that are quantized already keep their numbers through merging and packing, bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <random>

#include "graph/ops.h"
#include "jit/float16.h"
#include "quant/formats/quantize.h"
#include "tests/support/error_of.h"
#include "tests/support/quantized_tensors.h"

namespace nibble::quant {
namespace {

using graph::MatrixSource;
using graph::QuantizedMatrix;
using jit::WeightFormat;
using jit::WeightType;

struct Kind {
  int bits = 4;
  int64_t group = 32;
  bool zeros = false, halves = true;
};

MatrixSource random_source(const Kind& kind, int64_t n, int64_t k, uint32_t seed) {
  std::mt19937 random(seed);
  auto matrix = std::make_shared<QuantizedMatrix>();
  QuantizedMatrix& m = *matrix;
  m.n = n, m.k = k, m.group = kind.group, m.bits = kind.bits;
  const int64_t groups = m.groups();
  const auto numbers = [&](int64_t count) {
    std::vector<uint8_t> bytes(static_cast<size_t>(count * kind.bits / 8));
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    return test::byte_tensor(graph::DType::u8, {static_cast<int64_t>(bytes.size())}, bytes);
  };
  m.values = numbers(n * groups * kind.group);
  m.value_at = {groups * kind.group, 1};
  std::vector<float> scales(static_cast<size_t>(n * groups));
  for (float& scale : scales) {
    scale = (static_cast<float>(random() % 64) - 20) / 512.0F;  // some negative, some 0
    if (!kind.halves) scale += 0.1F;
  }
  m.scales = graph::make_f32({n, groups}, scales);
  m.scale_at = {groups, 1};
  m.default_zero = kind.bits == 4 ? 8 : 128;
  if (kind.zeros) {
    const int64_t row = (groups * kind.bits + 7) / 8 * 8 / kind.bits;
    m.zeros = numbers(n * row);
    m.zero_at = {row, 1};
  }
  m.check("test");
  return MatrixSource::whole(std::move(matrix));
}

// Packing and unpacking gives what dequantizing gives.
void expect_exact(const MatrixSource& source, const WeightFormat& expected) {
  std::string why_not;
  const auto format = source.packed_format(why_not);
  ASSERT_TRUE(format) << why_not;
  EXPECT_EQ(*format, expected);
  runtime::ThreadPool pool(2);
  const auto packed = quantize_matrix(source, *format, RtnRange::full, "w", pool);
  std::vector<float> wanted(static_cast<size_t>(source.k)), found(wanted.size());
  for (int64_t c = 0; c < source.n; ++c) {
    source.read_columns(c, 1, wanted);
    jit::unpack_column(packed.view, c, found);
    for (size_t kk = 0; kk < wanted.size(); ++kk) {
      ASSERT_EQ(found[kk], wanted[kk]) << "column " << c << ", k " << kk;
    }
  }
}

WeightFormat format_of(WeightType type, int64_t group, bool asym,
                       jit::ScaleType scale = jit::ScaleType::f16) {
  return {type, group, asym, scale};
}

TEST(QuantizedSource, PacksItsOwnNumbers) {
  for (const bool zeros : {false, true}) {
    for (const int64_t group : {16, 32, 64, 128}) {
      expect_exact(random_source({4, group, zeros}, 37, 100, 1),
                   format_of(WeightType::u4, group < 100 ? group : 0, zeros));
      expect_exact(random_source({8, group, zeros}, 37, 100, 2),
                   format_of(WeightType::u8, group < 100 ? group : 0, zeros));
    }
  }
  expect_exact(random_source({4, 32, false, false}, 5, 64, 3),
               format_of(WeightType::u4, 32, false, jit::ScaleType::f32));
}

// Files with short groups repeat the numbers of longer ones.
TEST(QuantizedSource, GroupsThatRepeatAreOne) {
  const auto repeated = [](int64_t n, int64_t k, int64_t times, bool zeros) {
    const MatrixSource source = random_source({8, 16, zeros}, n, k, 11);
    QuantizedMatrix m = *source.parts[0].quantized;
    const int64_t groups = m.groups();
    std::vector<float> scales = graph::to_f32(m.scales);
    std::vector<uint8_t> points(static_cast<size_t>(n * groups), 128);
    for (int64_t c = 0; c < n; ++c) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t first = g / times * times;
        scales[static_cast<size_t>(c * groups + g)] =
            static_cast<float>(first + 1) * (c == 0 ? 0.0F : 0.5F);
        points[static_cast<size_t>(c * groups + g)] = static_cast<uint8_t>(c + 3 * first);
      }
    }
    m.scales = graph::make_f32({n, groups}, scales);
    if (zeros) {
      m.zeros = test::byte_tensor(graph::DType::u8, {n, groups}, points);
      m.zero_at = {groups, 1};
    }
    return MatrixSource::whole(std::make_shared<const QuantizedMatrix>(std::move(m)));
  };
  for (const bool zeros : {false, true}) {
    expect_exact(repeated(3, 192, 1, zeros), format_of(WeightType::u8, 16, zeros));
    expect_exact(repeated(3, 192, 2, zeros), format_of(WeightType::u8, 32, zeros));
    expect_exact(repeated(3, 184, 4, zeros), format_of(WeightType::u8, 64, zeros));
    expect_exact(repeated(3, 192, 12, zeros), format_of(WeightType::u8, 0, zeros));
  }
  // Scales that repeat do not make groups one whose zero points differ.
  const MatrixSource source = repeated(3, 64, 4, true);
  QuantizedMatrix m = *source.parts[0].quantized;
  m.zeros = test::byte_tensor(graph::DType::u8, {3, 4}, {1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4});
  expect_exact(MatrixSource::whole(std::make_shared<const QuantizedMatrix>(std::move(m))),
               format_of(WeightType::u8, 32, true));
}

TEST(QuantizedSource, MergesOfDifferentFormatsStayExact) {
  const MatrixSource parts[] = {random_source({4, 64, false}, 20, 192, 1),
                                random_source({8, 32, true}, 7, 192, 2),
                                random_source({4, 96, true, false}, 9, 192, 3)};
  expect_exact(concatenate(parts), format_of(WeightType::u8, 32, true, jit::ScaleType::f32));
  const MatrixSource alike[] = {random_source({4, 64, false}, 20, 192, 1),
                                random_source({4, 192, false}, 4, 192, 2)};
  expect_exact(concatenate(alike), format_of(WeightType::u4, 64, false));
}

TEST(QuantizedSource, SelectionAndPaddingStayExact) {
  const MatrixSource source = random_source({4, 32, true}, 40, 64, 4);
  const graph::ColumnSegment columns[] = {{0, 5, 9}, {-1, 0, 7}, {0, 20, 16}};
  expect_exact(select_columns(source, columns), format_of(WeightType::u4, 32, true));
}

TEST(QuantizedSource, AFactorGoesIntoTheScales) {
  MatrixSource source = random_source({4, 32, false}, 16, 64, 5);
  source.parts[0].factor = 0.5F;
  expect_exact(source, format_of(WeightType::u4, 32, false, jit::ScaleType::f32));
}

TEST(QuantizedSource, MergedWithFloatsHasNoFormatOfItsOwn) {
  const MatrixSource parts[] = {
      random_source({}, 16, 64, 6),
      MatrixSource::whole(graph::make_f32({4, 64}, std::vector<float>(256, 1.0F)), false)};
  std::string why_not;
  EXPECT_FALSE(concatenate(parts).packed_format(why_not));
  EXPECT_NE(why_not.find("not quantized"), std::string::npos);
}

// A graph of an embedding of floats and two Linears, the first quantized.
graph::Graph graph_of(MatrixSource weight) {
  graph::Graph graph;
  const int64_t k = weight.k;
  const auto floats = [&](int64_t n) {
    return MatrixSource::whole(
        graph::make_f32({n, k}, std::vector<float>(static_cast<size_t>(n * k), 0.5F)), false);
  };
  const auto ids = graph.add_value("ids"), x = graph.add_value("x"), y = graph.add_value("y"),
             logits = graph.add_value("logits");
  graph.io.input_ids = ids;
  graph.io.logits = logits;
  graph.nodes = {
      {"Embedding", "nibble", "e", {ids, graph.add_constant("table", floats(9))}, {x}, {}},
      {"Linear", "nibble", "l", {x, graph.add_constant("w", std::move(weight))}, {y}, {}},
      {"Linear", "nibble", "h", {y, graph.add_constant("head", floats(9))}, {logits}, {}}};
  return graph;
}

TEST(QuantizedSource, OptionsDoNotRequantize) {
  const graph::Graph graph = graph_of(random_source({4, 64, true}, 64, 64, 7));
  QuantizeOptions options = default_options("int8", 32, false, jit::ScaleType::f16);
  const auto formats = choose_formats(graph, options);
  std::map<std::string, WeightFormat> by_name;
  for (const auto& [id, format] : formats) by_name[graph.value_name(id)] = format;
  EXPECT_EQ(by_name["w"], format_of(WeightType::u4, 0, true));
  EXPECT_EQ(by_name["head"], options.head);
  EXPECT_EQ(by_name["table"].type, WeightType::f32);  // as its maker left it
  options.embedding_chosen = true;
  EXPECT_EQ(choose_formats(graph, options).at(graph.nodes[0].inputs[1]), options.embedding);
  const auto quantized = quantized_weights(graph, options);
  ASSERT_EQ(quantized.size(), 1U);
  EXPECT_EQ(quantized[0].name, "w");
  EXPECT_EQ(*quantized[0].own, by_name["w"]);
  // fp32 holds the numbers too.
  const auto f32 = default_options("f32", 32, false, jit::ScaleType::f16);
  EXPECT_EQ(choose_formats(graph, f32).at(graph.nodes[1].inputs[1]).type, WeightType::f32);
}

// Random numbers of a format, as a reader of a file has them.
class RandomNumbers : public graph::ColumnReader {
 public:
  RandomNumbers(const WeightFormat& format, int64_t n, int64_t k, float largest_scale = 1)
      : ColumnReader(n, k), format_(format), largest_scale_(largest_scale) {}
  void read_column(int64_t c, std::span<float> out) const override {
    graph::QuantizedColumn numbers;
    numbers.q.resize(out.size());
    numbers.scales.resize(out.size() / static_cast<size_t>(format_.group));
    numbers.offsets.resize(numbers.scales.size());
    numbers.super_scales.resize(out.size() / jit::kSuperBlock);
    numbers.super_offsets.resize(numbers.super_scales.size());
    read_numbers(c, numbers);
    for (size_t kk = 0; kk < out.size(); ++kk) {
      const size_t g = kk / static_cast<size_t>(format_.group);
      const auto q = static_cast<float>(numbers.q[kk]);
      const float middle = jit::middle_value(format_.type);
      out[kk] = format_.minimum ? std::fma(q, numbers.scales[g], numbers.offsets[g])
                                : (q - middle) * numbers.scales[g];
    }
  }
  std::optional<WeightFormat> packed_format() const override { return format_; }
  void read_numbers(int64_t c, graph::QuantizedColumn& out) const override {
    std::mt19937 random(static_cast<uint32_t>(c + 1));
    for (uint8_t& q : out.q) q = static_cast<uint8_t>(random() & jit::top_value(format_.type));
    if (format_.scale == jit::ScaleType::q8) return read_products(random, out);
    for (size_t g = 0; g < out.scales.size(); ++g) {
      out.scales[g] = largest_scale_ * static_cast<float>(random() % 64) / 512.0F;
      if (format_.minimum) out.offsets[g] = static_cast<float>(random() % 64) / -16.0F;
    }
  }
  std::string_view type() const override { return "random"; }

 private:
  // Bytes times numbers of fp16; -128 among them.
  void read_products(std::mt19937& random, graph::QuantizedColumn& out) const {
    const auto fill = [&](std::vector<float>& above, std::vector<float>& products) {
      const size_t groups = products.size() / above.size();
      for (float& number : above)
        number = jit::f16_to_f32(static_cast<uint16_t>(random() % 0x4000 + 1));
      for (size_t g = 0; g < products.size(); ++g) {
        products[g] =
            above[g / groups] * static_cast<float>(static_cast<int>(random() % 256) - 128);
      }
    };
    fill(out.super_scales, out.scales);
    if (format_.minimum) fill(out.super_offsets, out.offsets);
  }

  WeightFormat format_;
  float largest_scale_;
};

MatrixSource numbers_of(const WeightFormat& format, int64_t n, int64_t k, float largest_scale = 1) {
  return MatrixSource::whole(std::shared_ptr<const graph::ColumnReader>(
      std::make_shared<RandomNumbers>(format, n, k, largest_scale)));
}

constexpr WeightFormat kMinimums{
    .type = WeightType::u4, .group = 32, .asym = true, .minimum = true};
constexpr WeightFormat kSixBits{.type = WeightType::u6, .group = 16};

TEST(QuantizedSource, SuperBlocksArePackedAsTheyAre) {
  WeightFormat four = kMinimums, six = kSixBits;
  four.scale = six.scale = jit::ScaleType::q8;
  expect_exact(numbers_of(four, 37, 512), four);
  expect_exact(numbers_of(six, 5, 256), six);
  // Q, K and V: a middle times a scale is the same multiple of a middle times the number above it.
  WeightFormat merged = four;
  merged.type = WeightType::u6;
  merged.group = 16;
  const MatrixSource parts[] = {numbers_of(four, 16, 512), numbers_of(six, 5, 512)};
  expect_exact(concatenate(parts), merged);
  // With scales of their own type, fp32 holds both.
  WeightFormat wide = merged;
  wide.scale = jit::ScaleType::f32;
  const MatrixSource others[] = {numbers_of(four, 16, 512), numbers_of(kSixBits, 5, 512)};
  expect_exact(concatenate(others), wide);
}

TEST(QuantizedSource, NumbersOfReadersArePackedAsTheyAre) {
  expect_exact(numbers_of(kMinimums, 37, 96), kMinimums);
  expect_exact(numbers_of(kSixBits, 5, 64), kSixBits);
  // What Q, K and V of K-quants are; a symmetric part has minimums then, of a middle times a scale.
  WeightFormat merged = kMinimums;
  merged.type = WeightType::u6;
  merged.group = 16;
  const MatrixSource parts[] = {numbers_of(kMinimums, 16, 64), numbers_of(kSixBits, 5, 64)};
  expect_exact(concatenate(parts), merged);
  // Whole zero points times a scale need not fit fp16.
  const MatrixSource zeros[] = {numbers_of(kMinimums, 16, 64),
                                random_source({4, 16, true}, 16, 64, 9)};
  WeightFormat wide = merged;
  wide.type = WeightType::u4;
  wide.scale = jit::ScaleType::f32;
  expect_exact(concatenate(zeros), wide);
}

TEST(QuantizedSource, ScalesOfFp32ReplaceNarrowerOnes) {
  const graph::Graph graph = graph_of(numbers_of(kMinimums, 64, 64));
  QuantizeOptions options = default_options("int4", 64, false, jit::ScaleType::f16);
  const graph::ValueId weight = graph.nodes[1].inputs[1];
  EXPECT_EQ(choose_formats(graph, options).at(weight), kMinimums);
  options = default_options("int4", 64, false, jit::ScaleType::f32);
  WeightFormat wide = kMinimums;
  wide.scale = jit::ScaleType::f32;
  EXPECT_EQ(choose_formats(graph, options).at(weight), wide);
  runtime::ThreadPool pool(2);
  const MatrixSource& source = *graph.matrix(weight);
  const auto packed = quantize_matrix(source, wide, RtnRange::full, "w", pool);
  std::vector<float> wanted(64), found(64);
  for (int64_t c = 0; c < 64; ++c) {
    source.read_columns(c, 1, wanted);
    jit::unpack_column(packed.view, c, found);
    ASSERT_EQ(found, wanted);
  }
}

TEST(QuantizedSource, ScalesBeyondFp16AreRefused) {
  const MatrixSource source = numbers_of(kSixBits, 16, 64, 1e7F);
  runtime::ThreadPool pool(2);
  const std::string message =
      test::error_of([&] { quantize_matrix(source, kSixBits, RtnRange::full, "w", pool); });
  EXPECT_NE(message.find("'w' has the scale inf in column"), std::string::npos) << message;
  WeightFormat wide = kSixBits;
  wide.scale = jit::ScaleType::f32;
  EXPECT_NO_THROW(quantize_matrix(source, wide, RtnRange::full, "w", pool));
}

TEST(QuantizedSource, FractionalZeroPointsBecomeMinimums) {
  const MatrixSource whole = random_source({4, 16, false}, 20, 64, 8);
  QuantizedMatrix m = *whole.parts[0].quantized;
  const int64_t groups = m.groups();
  std::vector<float> zeros(static_cast<size_t>(m.n * groups));
  for (size_t i = 0; i < zeros.size(); ++i) zeros[i] = static_cast<float>(i % 13) + 0.25F;
  m.zeros = graph::make_f32({m.n, groups}, zeros);
  m.zero_at = {groups, 1};
  WeightFormat format = kMinimums;
  format.group = 16;
  expect_exact(MatrixSource::whole(std::make_shared<const QuantizedMatrix>(m)), format);
  // Products of more than 11 bits.
  zeros[3] = 7.0078125F;
  m.zeros = graph::make_f32({m.n, groups}, zeros);
  format.scale = jit::ScaleType::f32;
  expect_exact(MatrixSource::whole(std::make_shared<const QuantizedMatrix>(m)), format);
  zeros[3] = std::numeric_limits<float>::infinity();
  m.zeros = graph::make_f32({m.n, groups}, zeros);
  std::string why_not;
  EXPECT_FALSE(m.packed_format(why_not));
  EXPECT_NE(why_not.find("not finite"), std::string::npos) << why_not;
}

}  // namespace
}  // namespace nibble::quant
