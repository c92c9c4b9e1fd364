#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "jit/float16.h"
#include "jit/packed_layout.h"
#include "runtime/packed_matrix.h"
#include "tests/graph/one_node.h"

namespace nibble::test {
namespace {

using F = std::vector<float>;
using graph::Array;
using graph::MatrixSource;
using graph::Shape;

OneNode nibble_op(const std::string& op) { return OneNode(op, "nibble"); }

F random_floats(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  F values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random() % 2001) / 1000.0F - 1.0F;
  return values;
}

// A packed matrix of random values and scales that halves hold exactly.
runtime::PackedMatrix random_packed(const jit::WeightFormat& format, int64_t n, int64_t k) {
  const jit::PackedShape shape = jit::packed_shape(format, n, k);
  runtime::PackedBuffer buffer = runtime::allocate_packed(format, n, k);
  std::mt19937 random(static_cast<uint32_t>(n * 131 + k));
  const uint32_t top = format.type == jit::WeightType::u4 ? 16 : 256;
  for (int64_t nb = 0; nb < shape.nblocks; ++nb) {
    std::vector<uint8_t> q(static_cast<size_t>(16 * shape.kpad));
    std::vector<uint8_t> zero(static_cast<size_t>(16 * shape.groups));
    F scale(zero.size());
    for (auto& value : q) value = static_cast<uint8_t>(random() % top);
    for (auto& value : zero) value = static_cast<uint8_t>(random() % top);
    for (auto& value : scale) value = static_cast<float>(random() % 64 + 1) / 512.0F;
    jit::pack_block(format, n, k, nb, q.data(), scale.data(), zero.data(), buffer.data,
                    buffer.scales, buffer.zeros);
  }
  return buffer.matrix;
}

F dequantized(const runtime::PackedMatrix& matrix, int64_t column) {
  F out(static_cast<size_t>(matrix.view.k));
  jit::unpack_column(matrix.view, column, out);
  return out;
}

TEST(Embedding, ReadsTablesInAllForms) {
  const auto table = graph::make_f32({3, 2}, {1, 2, 3, 4, 5, 6});
  const Array ids = ints({1, 2}, {2, 0});
  for (const graph::Constant& form :
       std::vector<graph::Constant>{table, MatrixSource::whole(table, false)}) {
    const Array y = nibble_op("Embedding").in(ids).constant(form).attr("scale", 2.0F).one();
    EXPECT_EQ(y.shape, (Shape{1, 2, 2}));
    EXPECT_EQ(values_f(y), (F{10, 12, 2, 4}));
  }
  const auto packed = random_packed({.type = jit::WeightType::u8, .group = 16}, 20, 24);
  EXPECT_EQ(values_f(nibble_op("Embedding").in(ints({1}, {17})).constant(packed).one()),
            dequantized(packed, 17));
  EXPECT_EQ(nibble_op("Embedding").in(ints({1}, {3})).constant(table).error(),
            "Node \"the_node\" (Embedding) of test.onnx: The id 3 is outside a table of 3 rows.");
  EXPECT_NE(nibble_op("Embedding").in(ints({1}, {-1})).constant(table).error(), "");
}

TEST(Embedding, AddsPositions) {
  const auto table = graph::make_f32({2, 1}, {1, 2});
  const auto positions = graph::make_f32({4, 1}, {10, 20, 30, 40});
  const auto embed = [&](int64_t offset) {
    OneNode node = nibble_op("Embedding");
    return node.in(ints({2, 2}, {0, 1, 1, 0}))
        .constant(table)
        .constant(positions)
        .attr("position_offset", offset);
  };
  EXPECT_EQ(values_f(embed(0).one()), (F{11, 22, 12, 21}));
  EXPECT_EQ(values_f(embed(2).one()), (F{31, 42, 32, 41}));
  EXPECT_NE(embed(3).error(), "");
  EXPECT_EQ(values_f(embed(0).in(ints({}, {1})).one()), (F{21, 32, 22, 31}));  // begins at 1
}

TEST(Norms, RmsNorm) {
  // The mean of squares of 1, 7 is 25.
  expect_near(values_f(nibble_op("RMSNorm")
                           .in(floats({1, 2}, {1, 7}))
                           .in(floats({2}, {1, 10}))
                           .attr("epsilon", 0.0F)
                           .one()),
              {0.2F, 14});
  const auto outputs = nibble_op("RMSNorm")
                           .in(floats({1, 2}, {0, 3}))
                           .in(floats({2}, {1, 1}))
                           .in(floats({1, 2}, {1, 4}))
                           .attr("epsilon", 75.0F)
                           .run(2);
  expect_near(values_f(outputs[0]), {0.1F, 0.7F});
  EXPECT_EQ(values_f(outputs[1]), (F{1, 7}));
  EXPECT_NE(nibble_op("RMSNorm")
                .in(floats({2}, {1, 7}))
                .in(floats({3}, {1, 1, 1}))
                .attr("epsilon", 0.0F)
                .error(),
            "");
  EXPECT_NE(nibble_op("RMSNorm").in(floats({2}, {1, 7})).in(floats({2}, {1, 1})).error(), "");
}

TEST(Norms, LayerNorm) {
  const auto outputs = nibble_op("LayerNorm")
                           .in(floats({1, 2}, {0, 2}))
                           .in(floats({2}, {10, 20}))
                           .in(floats({2}, {1, 2}))
                           .in(floats({1, 2}, {1, 3}))
                           .attr("epsilon", 0.0F)
                           .run(2);
  expect_near(values_f(outputs[0]), {-9, 22});
  EXPECT_EQ(values_f(outputs[1]), (F{1, 5}));
}

TEST(RowOps, ActivationGateAdd) {
  const auto activation = [](const char* name, float x) {
    return values_f(nibble_op("Activation")
                        .in(floats({1}, {x}))
                        .attr("activation", std::string(name))
                        .one())[0];
  };
  EXPECT_EQ(activation("none", -2), -2);
  EXPECT_EQ(activation("relu", -2), 0);
  EXPECT_EQ(activation("relu2", -2), 0);
  EXPECT_EQ(activation("relu2", 3), 9);
  EXPECT_FLOAT_EQ(activation("silu", 1), 0.73105858F);
  EXPECT_FLOAT_EQ(activation("gelu", 1), 0.84134475F);
  EXPECT_FLOAT_EQ(activation("gelu_tanh", 1), 0.84119199F);
  EXPECT_FLOAT_EQ(activation("quick_gelu", 1), 0.84579577F);
  EXPECT_NE(
      nibble_op("Activation").in(floats({1}, {1})).attr("activation", std::string("swish")).error(),
      "");
  EXPECT_EQ(values_f(nibble_op("Gate")
                         .in(floats({2}, {-1, 2}))
                         .in(floats({2}, {5, 7}))
                         .attr("activation", std::string("relu"))
                         .one()),
            (F{0, 14}));
  EXPECT_EQ(values_f(nibble_op("Add").in(floats({2}, {1, 2})).in(floats({2}, {10, 20})).one()),
            (F{11, 22}));
  EXPECT_NE(nibble_op("Add").in(floats({2}, {1, 2})).in(floats({1}, {1})).error(), "");
}

TEST(Linear, BiasActivationResidual) {
  const auto weight = MatrixSource::whole(graph::make_f32({3, 2}, {1, 0, 0, 1, 1, 1}), false);
  const Array x = floats({1, 1, 2}, {2, -3});
  const Array y = nibble_op("Linear")
                      .in(x)
                      .constant(weight)
                      .in(floats({3}, {1, 1, 1}))
                      .in(floats({1, 1, 3}, {10, 20, 30}))
                      .attr("activation", std::string("relu"))
                      .one();
  EXPECT_EQ(y.shape, (Shape{1, 1, 3}));
  EXPECT_EQ(values_f(y), (F{13, 20, 30}));
  EXPECT_EQ(values_f(nibble_op("Linear").in(x).constant(weight).attr("columns", int64_t{2}).one()),
            (F{2, -3}));
  EXPECT_NE(nibble_op("Linear").in(floats({1, 3}, {1, 2, 3})).constant(weight).error(), "");
  EXPECT_NE(nibble_op("Linear").in(x).constant(weight).in(floats({2}, {1, 2})).error(), "");
  EXPECT_NE(nibble_op("Linear").in(x).constant(weight).attr("columns", int64_t{4}).error(), "");
  EXPECT_NE(nibble_op("Linear").in(x).constant(weight).attr("compute", std::string("f16")).error(),
            "");
  EXPECT_NE(nibble_op("Linear").in(x).in(x).error(), "");
}

// Weight columns 0..15 gate, 16..31 up, of which 3 each are valid.
TEST(Linear, Gate) {
  F columns(32, 0.0F);
  for (size_t c = 0; c < 3; ++c) {
    columns[c] = static_cast<float>(c) - 1;       // gate: -1, 0, 1
    columns[16 + c] = static_cast<float>(c) + 5;  // up: 5, 6, 7
  }
  const auto weight = MatrixSource::whole(graph::make_f32({32, 1}, columns), false);
  F bias(32, 0.0F);
  bias[1] = 2;
  const Array y = nibble_op("Linear")
                      .in(floats({2, 1}, {1, 2}))
                      .constant(weight)
                      .in(floats({32}, bias))
                      .attr("gate", int64_t{1})
                      .attr("columns", int64_t{3})
                      .attr("activation", std::string("relu"))
                      .one();
  EXPECT_EQ(values_f(y), (F{0, 12, 7, 0, 24, 28}));
}

// x W^T over dequantized weights; for int8 over the rows as the quantizer rounds them.
F expected_linear(const runtime::PackedMatrix& w, const F& x, int64_t rows, bool int8) {
  const int64_t k = w.view.k, group = w.view.format.group == 0 ? k : w.view.format.group;
  F rounded = x;
  for (int64_t r = 0; int8 && r < rows; ++r) {
    for (int64_t begin = 0; begin < k; begin += group) {
      const std::span row(rounded.data() + r * k + begin,
                          static_cast<size_t>(std::min(group, k - begin)));
      float most = 0;
      for (const float value : row) most = std::max(most, std::fabs(value));
      for (float& value : row) value = std::nearbyint(value * (127 / most)) * (most / 127);
    }
  }
  F out;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < w.view.n; ++c) {
      const F column = dequantized(w, c);
      double sum = 0;
      for (int64_t kk = 0; kk < k; ++kk) {
        sum += static_cast<double>(rounded[static_cast<size_t>(r * k + kk)]) *
               column[static_cast<size_t>(kk)];
      }
      out.push_back(static_cast<float>(sum));
    }
  }
  return out;
}

TEST(Linear, PackedWeights) {
  using jit::WeightType;
  for (const jit::WeightFormat& format :
       {jit::WeightFormat{.type = WeightType::u4, .group = 32},
        jit::WeightFormat{.type = WeightType::u4, .group = 16, .asym = true},
        jit::WeightFormat{.type = WeightType::u4, .group = 0},
        jit::WeightFormat{.type = WeightType::u8, .group = 32, .scale = jit::ScaleType::f32}}) {
    const int64_t n = 20, k = 72, rows = 3;
    const runtime::PackedMatrix w = random_packed(format, n, k);
    const F x = random_floats(rows * k, 7);
    for (const bool int8 : {false, true}) {
      const Array y = nibble_op("Linear")
                          .in(floats({1, rows, k}, x))
                          .constant(w)
                          .attr("compute", std::string(int8 ? "int8" : "f32"))
                          .one();
      EXPECT_EQ(y.shape, (Shape{1, rows, n}));
      expect_near(y.floats(), expected_linear(w, x, rows, int8), 2e-4F);
    }
    F rounded = x;
    for (float& value : rounded) value = jit::bf16_to_f32(jit::f32_to_bf16(value));
    const Array y = nibble_op("Linear")
                        .in(floats({1, rows, k}, x))
                        .constant(w)
                        .attr("compute", std::string("bf16"))
                        .one();
    expect_near(y.floats(), expected_linear(w, rounded, rows, false), 2e-4F);
  }
}

TEST(Linear, PackedWithEpilogue) {
  const int64_t n = 32, k = 64, columns = 13;
  const runtime::PackedMatrix w = random_packed({.type = jit::WeightType::u4, .group = 32}, n, k);
  const F x = random_floats(k, 3), bias = random_floats(n, 4), residual = random_floats(columns, 5);
  const auto run = [&](const char* compute) {
    return values_f(nibble_op("Linear")
                        .in(floats({1, k}, x))
                        .constant(w)
                        .in(floats({n}, bias))
                        .in(floats({1, columns}, residual))
                        .attr("gate", int64_t{1})
                        .attr("columns", columns)
                        .attr("activation", std::string("silu"))
                        .attr("compute", std::string(compute))
                        .one());
  };
  const F sums = expected_linear(w, x, 1, true);
  F wanted;
  for (size_t c = 0; c < static_cast<size_t>(columns); ++c) {
    const double gate = sums[c] + bias[c];
    wanted.push_back(
        static_cast<float>(gate / (1 + std::exp(-gate)) * (sums[16 + c] + bias[16 + c])) +
        residual[c]);
  }
  expect_near(run("int8"), wanted, 1e-3F);
  EXPECT_NE(run("f32"), run("int8"));  // both ways are really there
}

// ---- Attention ----

struct Heads {
  int64_t heads = 1, kv_heads = 1, head_dim = 2;
};

OneNode attention(const Heads& h, int64_t length, F qkv, float scale = 1) {
  const int64_t width = (h.heads + 2 * h.kv_heads) * h.head_dim;
  OneNode node = nibble_op("Attention");
  node.in(floats({1, length, width}, std::move(qkv)))
      .attr("heads", h.heads)
      .attr("kv_heads", h.kv_heads)
      .attr("head_dim", h.head_dim)
      .attr("scale", scale);
  return node;
}

TEST(Attention, AveragesWhatIsVisible) {
  // q = 0: all visible positions weigh the same. Rows are q, k, v.
  const F qkv{0, 0, 9, 9, 1, 10, 0, 0, 9, 9, 3, 30, 0, 0, 9, 9, 5, 50};
  expect_near(values_f(attention({}, 3, qkv).one()), {1, 10, 2, 20, 3, 30});
  expect_near(values_f(attention({}, 3, qkv).attr("window", int64_t{2}).one()),
              {1, 10, 2, 20, 4, 40});
  expect_near(values_f(attention({}, 3, qkv).attr("window", int64_t{1}).one()),
              {1, 10, 3, 30, 5, 50});
}

TEST(Attention, ScalesCapsAndSlopes) {
  // The second query scores its keys 2 and 4; values are 0 and 1, so the output is the weight of
  // the second key.
  const F qkv{0, 0, 2, 0, 0, 0, 1, 0, 4, 0, 1, 0};
  const auto weight = [](double difference) {
    return static_cast<float>(1 / (1 + std::exp(-difference)));
  };
  const auto second = [](const Array& y) { return y.floats()[2]; };
  EXPECT_NEAR(second(attention({}, 2, qkv).one()), weight(2), 1e-6);
  EXPECT_NEAR(second(attention({}, 2, qkv, 0.5F).one()), weight(1), 1e-6);
  EXPECT_NEAR(second(attention({}, 2, qkv).attr("softcap", 3.0F).one()),
              weight(3 * std::tanh(4.0 / 3) - 3 * std::tanh(2.0 / 3)), 1e-6);
  EXPECT_NEAR(second(attention({}, 2, qkv).absent().in(floats({1}, {0.25F})).one()), weight(2.25),
              1e-6);
}

TEST(Attention, SharesKeyValueHeads) {
  // Four query heads over two key and value heads of one dimension: heads 0, 1 use the first.
  const F qkv{1, 2, 3, 4, 0, 0, 7, 8};
  expect_near(values_f(attention({4, 2, 1}, 1, qkv).one()), {7, 7, 8, 8});
}

// A quarter turn a position: the score of query 1 and key 0 is that of the turned query.
TEST(Attention, Rotates) {
  const float quarter = 1.57079633F;
  const auto score = [&](const F& q1, const F& k0, int64_t rotary, bool interleaved) {
    const auto dim = static_cast<int64_t>(q1.size());
    F qkv(static_cast<size_t>(6 * dim), 0.0F);
    std::copy(k0.begin(), k0.end(), qkv.begin() + dim);
    std::copy(q1.begin(), q1.end(), qkv.begin() + 3 * dim);
    qkv[static_cast<size_t>(2 * dim)] = 1;  // the first value: the output is its weight
    const Array y = attention({1, 1, dim}, 2, qkv)
                        .in(floats({rotary / 2}, F(static_cast<size_t>(rotary / 2), quarter)))
                        .attr("rotary", rotary)
                        .attr("interleaved", int64_t{interleaved})
                        .one();
    const double weight = y.floats()[static_cast<size_t>(dim)];
    return static_cast<float>(std::log(weight / (1 - weight)));  // the second key scores 0
  };
  EXPECT_NEAR(score({1, 0}, {0, 1}, 2, false), 1, 1e-5);  // (1, 0) -> (0, 1)
  EXPECT_NEAR(score({1, 0}, {1, 0}, 2, false), 0, 1e-5);
  EXPECT_NEAR(score({0, 1}, {1, 0}, 2, false), -1, 1e-5);  // (0, 1) -> (-1, 0)
  EXPECT_NEAR(score({1, 0, 0, 0}, {0, 0, 1, 0}, 4, false), 1, 1e-5);
  EXPECT_NEAR(score({1, 0, 0, 0}, {0, 1, 0, 0}, 4, true), 1, 1e-5);
  EXPECT_NEAR(score({0, 0, 0, 1}, {0, 0, 0, 1}, 2, false), 1, 1e-5);  // not rotated
}

TEST(Attention, NormalisesHeads) {
  // q = (3, 4) / rms = 5 / sqrt(2); the key of position 0 likewise.
  const F qkv{0, 0, 3, 4, 1, 0, 3, 4, 0, 0, 0, 0};
  const Array y = attention({}, 2, qkv)
                      .absent()
                      .absent()
                      .in(floats({2}, {1, 1}))
                      .in(floats({2}, {0.5F, 0.5F}))
                      .attr("norm_epsilon", 0.0F)
                      .one();
  // The second key is zero with epsilon 0: NaN, as the formula says; so look with an epsilon.
  EXPECT_TRUE(std::isnan(y.floats()[2]));
  const Array z = attention({}, 2, qkv)
                      .absent()
                      .absent()
                      .in(floats({2}, {1, 1}))
                      .in(floats({2}, {0.5F, 0.5F}))
                      .attr("norm_epsilon", 1e-12F)
                      .one();
  EXPECT_NEAR(z.floats()[2], 1 / (1 + std::exp(-1.0)), 1e-5);
}

TEST(Attention, NormalisesHeadsBehindTheRotation) {
  // At position 1 by a right angle the second query (3, 4) becomes (-4, 3): weights of (1, 0) then
  // leave -4, and of (1, 0) before the rotation 3, turned to the second dimension.
  const auto second = [](int64_t last) {
    const float right_angle = 1.57079632679F;
    const F qkv{0, 0, 1, 0, 1, 0, 3, 4, 1, 0, 0, 0};
    return attention({}, 2, qkv)
        .in(floats({1}, {right_angle}))
        .absent()
        .in(floats({2}, {1, 0}))
        .in(floats({2}, {1, 0}))
        .attr("rotary", int64_t{2})
        .attr("norm_epsilon", 1e-12F)
        .attr("norm_last", last)
        .one()
        .floats()[2];
  };
  // Keys (1, 0) at positions 0 and 1: by sqrt(2) each, the second one turned to (0, 1).
  const float q = 5 / std::sqrt(2.0F), k = std::sqrt(2.0F);
  const float last = std::exp(-4 / q * k);   // of the first key; the second's score is 0
  const float before = std::exp(3 / q * k);  // of the second key; the first's score is 0
  EXPECT_NEAR(second(1), last / (last + 1), 1e-5);
  EXPECT_NEAR(second(0), 1 / (1 + before), 1e-5);
}

TEST(HeadNorm, NormalisesHeadsOrWholes) {
  // 2 query heads and 1 KV head of 2: Q = (3, 4, 0, 2), K = (1, -1), V = (7, 8).
  const auto norm = [](int64_t whole, int64_t centre, bool bias) {
    OneNode node("HeadNorm", "nibble");
    node.in(floats({1, 1, 8}, {3, 4, 0, 2, 1, -1, 7, 8}));
    node.in(floats({6}, {1, 2, 3, 4, 5, 6}));
    if (bias) node.in(floats({6}, {10, 20, 30, 40, 50, 60}));
    return values_f(node.attr("heads", int64_t{2})
                        .attr("kv_heads", int64_t{1})
                        .attr("head_dim", int64_t{2})
                        .attr("whole", whole)
                        .attr("centre", centre)
                        .attr("epsilon", 0.0F)
                        .one());
  };
  const auto expect = [](const F& found, const F& wanted) {
    ASSERT_EQ(found.size(), wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 1e-5) << i;
  };
  const float first = std::sqrt(12.5F), second = std::sqrt(2.0F), all = std::sqrt(29.0F / 4);
  expect(norm(0, 0, false), {3 / first, 8 / first, 0, 8 / second, 5, -6, 7, 8});
  expect(norm(1, 0, false), {3 / all, 8 / all, 0, 8 / all, 5, -6, 7, 8});
  expect(norm(0, 1, true), {10 - 1, 20 + 2, 30 - 3, 40 + 4, 50 + 5, 60 - 6, 7, 8});
}

TEST(Clip, KeepsWhatIsInsideAndNaN) {
  const float nan = std::nanf("");
  const F y = values_f(OneNode("Clip", "nibble")
                           .in(floats({1, 1, 4}, {-3, 0.5F, 2, nan}))
                           .attr("limit", 1.5F)
                           .one());
  EXPECT_EQ(F(y.begin(), y.begin() + 3), (F{-1.5F, 0.5F, 1.5F}));
  EXPECT_TRUE(std::isnan(y[3]));
}

// A call with a cache continues where the cached call ended.
TEST(Attention, ContinuesFromACache) {
  const Heads h{4, 2, 6};
  const int64_t width = 8 * 6, length = 5, cut = 3;
  const F qkv = random_floats(length * width, 11);
  const auto configure = [&](OneNode node) {
    node.in(floats({2}, {1, 0.3F})).in(floats({4}, {0.1F, 0.2F, 0.3F, 0.4F}));
    node.in(floats({6}, F(6, 1.5F))).in(floats({6}, F(6, 0.5F)));
    return node.attr("rotary", int64_t{4})
        .attr("window", int64_t{3})
        .attr("rope_scale", 1.25F)
        .attr("norm_epsilon", 1e-5F);
  };
  const F whole = values_f(configure(attention(h, length, qkv)).one());
  const auto first = configure(attention(h, cut, F(qkv.begin(), qkv.begin() + cut * width))).run(3);
  const auto second = configure(attention(h, length - cut, F(qkv.begin() + cut * width, qkv.end())))
                          .in(first[1])
                          .in(first[2])
                          .run(3);
  F parts = values_f(first[0]);
  parts.insert(parts.end(), second[0].f->begin(), second[0].f->end());
  EXPECT_EQ(parts, whole);
  EXPECT_EQ(second[1].shape, (Shape{1, 2, 5, 6}));
}

TEST(Attention, RefusesWhatDoesNotFit) {
  EXPECT_NE(attention({2, 1, 2}, 1, F(8)).attr("heads", int64_t{3}).error(), "");
  EXPECT_NE(attention({3, 2, 1}, 1, F(7)).error(), "");
  EXPECT_NE(attention({}, 1, F(6)).attr("rotary", int64_t{2}).error(), "");  // no frequencies
  EXPECT_NE(attention({}, 1, F(6)).in(floats({1}, {1})).attr("rotary", int64_t{4}).error(), "");
  EXPECT_NE(attention({}, 1, F(6)).absent().in(floats({2}, {1, 1})).error(), "");
  EXPECT_NE(attention({}, 1, F(6))
                .absent()
                .absent()
                .absent()
                .absent()
                .in(floats({1, 1, 0, 2}, {}))
                .error(),
            "");
}

}  // namespace
}  // namespace nibble::test
