#include "graph/matrix_source.h"

#include <gtest/gtest.h>

#include <array>

#include "jit/error.h"

namespace nibble::graph {
namespace {

using Values = std::vector<float>;

// Columns 1,2,3 | 4,5,6 (k = 3, n = 2) in both storage orders.
MatrixSource by_columns() {
  return MatrixSource::whole(make_f32({2, 3}, {1, 2, 3, 4, 5, 6}), false);
}
MatrixSource by_rows() { return MatrixSource::whole(make_f32({3, 2}, {1, 4, 2, 5, 3, 6}), true); }

Values columns(const MatrixSource& source, int64_t begin, int64_t count) {
  Values out(static_cast<size_t>(count * source.k), -1);
  source.read_columns(begin, count, out);
  return out;
}

TEST(MatrixSource, ReadsColumnsInEitherOrder) {
  for (const MatrixSource& source : {by_columns(), by_rows()}) {
    EXPECT_EQ(source.n, 2);
    EXPECT_EQ(source.k, 3);
    EXPECT_EQ(columns(source, 0, 2), (Values{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(columns(source, 1, 1), (Values{4, 5, 6}));
    EXPECT_EQ(source.to_k_major(), (Values{1, 4, 2, 5, 3, 6}));
  }
}

TEST(MatrixSource, ConcatenatesWithoutCopying) {
  const std::array sources{by_columns(), by_rows()};
  const MatrixSource both = concatenate(sources);
  EXPECT_EQ(both.n, 4);
  EXPECT_EQ(both.parts[1].tensor.data, sources[1].parts[0].tensor.data);
  EXPECT_EQ(columns(both, 1, 2), (Values{4, 5, 6, 1, 2, 3}));
  EXPECT_EQ(both.to_k_major(), (Values{1, 4, 1, 4, 2, 5, 2, 5, 3, 6, 3, 6}));
}

TEST(MatrixSource, SelectsColumnsAndPads) {
  const std::array sources{by_columns(), by_rows()};
  const MatrixSource both = concatenate(sources);
  const std::array picks{ColumnSegment{.part = 0, .begin = 3, .count = 1},
                         ColumnSegment{.part = -1, .begin = 0, .count = 2},
                         ColumnSegment{.part = 0, .begin = 0, .count = 1}};
  const MatrixSource picked = select_columns(both, picks);
  EXPECT_EQ(picked.n, 4);
  EXPECT_EQ(columns(picked, 0, 4), (Values{4, 5, 6, 0, 0, 0, 0, 0, 0, 1, 2, 3}));
  EXPECT_EQ(picked.to_k_major(), (Values{4, 0, 0, 1, 5, 0, 0, 2, 6, 0, 0, 3}));
  // A selection of a selection, padding included.
  const std::array again{ColumnSegment{.part = 0, .begin = 2, .count = 2}};
  EXPECT_EQ(columns(select_columns(picked, again), 0, 2), (Values{0, 0, 0, 1, 2, 3}));
}

TEST(MatrixSource, MergesNeighbouringRuns) {
  const std::array picks{ColumnSegment{.part = 0, .begin = 0, .count = 1},
                         ColumnSegment{.part = 0, .begin = 1, .count = 1}};
  const MatrixSource picked = select_columns(by_rows(), picks);
  EXPECT_EQ(picked.segments, (std::vector<ColumnSegment>{{.part = 0, .begin = 0, .count = 2}}));
}

// More columns than one block of the transposition, and a tail.
TEST(MatrixSource, TransposesWideMatrices) {
  constexpr int64_t kN = 37, kK = 5;
  Values values;
  for (int i = 0; i < kN * kK; ++i) values.push_back(static_cast<float>(i));
  const Values k_major = MatrixSource::whole(make_f32({kN, kK}, values), false).to_k_major();
  for (int64_t c = 0; c < kN; ++c) {
    for (int64_t kk = 0; kk < kK; ++kk) {
      ASSERT_EQ(k_major[static_cast<size_t>(kk * kN + c)], static_cast<float>(c * kK + kk));
    }
  }
}

// Column c is c, c + 0.5. Counts what it was asked for.
struct Counting : ColumnReader {
  mutable std::vector<std::array<int64_t, 2>> runs;  // first column and count
  explicit Counting(int64_t n) : ColumnReader(n, 2) {}
  void read_column(int64_t c, std::span<float> out) const override {
    out[0] = static_cast<float>(c);
    out[1] = static_cast<float>(c) + 0.5F;
  }
  std::string_view type() const override { return "counting"; }
};
struct CountingRuns : Counting {
  using Counting::Counting;
  void read_columns(int64_t begin, int64_t count, std::span<float> out) const override {
    runs.push_back({begin, count});
    ColumnReader::read_columns(begin, count, out);
  }
};

TEST(MatrixSource, AsksReadersForRunsOfColumns) {
  const auto one = std::make_shared<const Counting>(4);
  const auto runs = std::make_shared<const CountingRuns>(4);
  for (const std::shared_ptr<const Counting>& reader : {one, {runs}}) {
    const std::array sources{MatrixSource::whole(std::shared_ptr<const ColumnReader>(reader)),
                             MatrixSource::whole(make_f32({1, 2}, {8, 9}), false)};
    const std::array picks{ColumnSegment{.part = 0, .begin = 1, .count = 4},
                           ColumnSegment{.part = 0, .begin = 0, .count = 1}};
    const MatrixSource picked = select_columns(concatenate(sources), picks);
    EXPECT_EQ(columns(picked, 0, 5), (Values{1, 1.5F, 2, 2.5F, 3, 3.5F, 8, 9, 0, 0.5F}));
  }
  EXPECT_EQ(runs->runs, (std::vector<std::array<int64_t, 2>>{{1, 3}, {0, 1}}));
}

TEST(MatrixSource, RefusesWhatDoesNotFit) {
  EXPECT_THROW(MatrixSource::whole(make_f32({6}, Values(6)), true), Error);
  const MatrixSource source = by_rows();
  Values out(6);
  EXPECT_THROW(source.read_columns(1, 2, out), Error);
  EXPECT_THROW(source.read_columns(0, 1, out), Error);  // room for two
  const std::array different{by_rows(), MatrixSource::whole(make_f32({2, 2}, Values(4)), true)};
  EXPECT_THROW(concatenate(different), Error);
  EXPECT_THROW(concatenate({}), Error);
  const std::array beyond{ColumnSegment{.part = 0, .begin = 1, .count = 2}};
  EXPECT_THROW(select_columns(source, beyond), Error);
  MatrixSource broken = source;
  broken.segments[0].part = 5;
  EXPECT_THROW(broken.to_k_major(), Error);
  broken.segments.clear();
  EXPECT_THROW(broken.to_k_major(), Error);
}

}  // namespace
}  // namespace nibble::graph
