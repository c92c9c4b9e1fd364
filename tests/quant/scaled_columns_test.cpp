#include "quant/solvers/scaled_columns.h"

#include <gtest/gtest.h>

#include <array>

#include "jit/error.h"
#include "quant/formats/quantize.h"

namespace nibble::quant {
namespace {

using graph::ColumnSegment;
using graph::MatrixSource;
using Values = std::vector<float>;

// Columns 1,2,3 | 4,5,6 of k = 3.
MatrixSource by_columns() {
  return MatrixSource::whole(graph::make_f32({2, 3}, {1, 2, 3, 4, 5, 6}), false);
}
MatrixSource by_rows() {
  return MatrixSource::whole(graph::make_f32({3, 2}, {1, 4, 2, 5, 3, 6}), true);
}

Values columns(const MatrixSource& source, int64_t begin, int64_t count) {
  Values out(static_cast<size_t>(count * source.k), -1);
  source.read_columns(begin, count, out);
  return out;
}

TEST(ScaledColumns, ScalesRowsAndColumns) {
  const Values rows{1, 10, 100}, both{2, 3};
  for (const MatrixSource& source : {by_columns(), by_rows()}) {
    EXPECT_EQ(columns(scale_matrix(source, rows, {}), 0, 2), (Values{1, 20, 300, 4, 50, 600}));
    EXPECT_EQ(columns(scale_matrix(source, {}, both), 0, 2), (Values{2, 4, 6, 12, 15, 18}));
    const MatrixSource scaled = scale_matrix(source, rows, both);
    EXPECT_EQ(scaled.n, 2);
    EXPECT_EQ(scaled.k, 3);
    EXPECT_EQ(columns(scaled, 0, 2), (Values{2, 40, 600, 12, 150, 1800}));
    EXPECT_EQ(columns(scaled, 1, 1), (Values{12, 150, 1800}));
    EXPECT_EQ(scaled.to_k_major(), (Values{2, 12, 40, 150, 600, 1800}));
  }
}

TEST(ScaledColumns, CopiesNothingAndComposes) {
  const MatrixSource source = by_rows();
  const Values rows{2, 4, 4}, inverse{0.5F, 0.25F, 0.25F}, up{8, 8}, down{0.125F, 0.125F};
  const MatrixSource once = scale_matrix(source, rows, {});
  const MatrixSource twice = scale_matrix(once, rows, up);
  EXPECT_EQ(columns(twice, 0, 1), (Values{32, 256, 384}));
  const auto* reader = dynamic_cast<const ScaledColumns*>(twice.parts[0].reader.get());
  ASSERT_NE(reader, nullptr);  // one reader, over the tensor itself
  EXPECT_EQ(reader->source().parts[0].tensor.data, source.parts[0].tensor.data);
  EXPECT_EQ(reader->type(), "f32");
  // Back to the tensor.
  const MatrixSource back = scale_matrix(scale_matrix(twice, inverse, down), inverse, {});
  EXPECT_TRUE(back.parts[0].same_as(source.parts[0]));
  EXPECT_EQ(columns(back, 0, 2), columns(source, 0, 2));
}

TEST(ScaledColumns, MergedAndPaddedColumns) {
  const std::array sources{by_columns(), by_rows()};
  const std::array picks{ColumnSegment{.part = 0, .begin = 3, .count = 1},
                         ColumnSegment{.part = -1, .begin = 0, .count = 1},
                         ColumnSegment{.part = 0, .begin = 0, .count = 1}};
  const MatrixSource picked = graph::select_columns(graph::concatenate(sources), picks);
  const Values rows{1, 10, 100}, each{1, 5, 2};
  const MatrixSource scaled = scale_matrix(picked, rows, each);
  EXPECT_EQ(columns(scaled, 0, 3), (Values{4, 50, 600, 0, 0, 0, 2, 40, 600}));
  // Selected again, its reader is not the whole any more: factors stay with their columns.
  const std::array last{ColumnSegment{.part = 0, .begin = 2, .count = 1}};
  const MatrixSource selected = graph::select_columns(scaled, last);
  EXPECT_EQ(columns(scale_matrix(selected, rows, {}), 0, 1), (Values{2, 400, 60000}));
}

TEST(ScaledColumns, NamesTheTypeOfItsNumbers) {
  const Values rows{1, 2, 3};
  graph::TensorData halves;
  halves.dtype = graph::DType::f16;
  halves.shape = {1, 3};
  const std::array mixed{by_columns(), MatrixSource::whole(halves, false)};
  const MatrixSource both = graph::concatenate(mixed);
  const std::array second{ColumnSegment{.part = 0, .begin = 2, .count = 1}};
  EXPECT_EQ(scale_matrix(both, rows, {}).parts[0].reader->type(), "mixed");
  EXPECT_EQ(scale_matrix(graph::select_columns(both, second), rows, {}).parts[0].reader->type(),
            "f16");
  EXPECT_EQ(scale_matrix(scale_matrix(by_rows(), rows, {}), rows, {}).parts[0].reader->type(),
            "f32");
}

TEST(ScaledColumns, OtherFactorsAreAnotherMatrix) {
  const Values rows{1, 2, 3};
  const MatrixSource a = scale_matrix(by_rows(), rows, {}), b = scale_matrix(by_rows(), rows, {});
  EXPECT_TRUE(a.parts[0].same_as(a.parts[0]));
  EXPECT_FALSE(a.parts[0].same_as(b.parts[0]));
  EXPECT_FALSE(a.parts[0].same_as(by_rows().parts[0]));
  EXPECT_FALSE(a.has_quantized());
  std::string why_not;
  EXPECT_FALSE(a.packed_format(why_not).has_value());
}

TEST(ScaledColumns, RefusesWhatDoesNotFit) {
  const Values two{1, 2}, three{1, 2, 3};
  EXPECT_THROW(scale_matrix(by_rows(), two, {}), Error);
  EXPECT_THROW(scale_matrix(by_rows(), {}, three), Error);
  const MatrixSource scaled = scale_matrix(by_rows(), three, {});
  Values out(6);
  EXPECT_THROW(scaled.read_columns(1, 2, out), Error);
}

}  // namespace
}  // namespace nibble::quant
