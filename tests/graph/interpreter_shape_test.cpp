#include <gtest/gtest.h>

#include <limits>

#include "tests/graph/one_node.h"

namespace nibble::test {
namespace {

using F = std::vector<float>;
using I = std::vector<int64_t>;
using graph::Array;
using graph::Shape;

Array counting(Shape shape) {
  std::vector<int64_t> values(static_cast<size_t>(graph::element_count(shape)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int64_t>(i);
  return ints(std::move(shape), std::move(values));
}
Array list(I values) {
  const auto count = static_cast<int64_t>(values.size());
  return ints({count}, std::move(values));
}

TEST(ShapeOps, ShapeAndSize) {
  const Array x = counting({2, 3, 4});
  EXPECT_EQ(values_i(OneNode("Shape").in(x).one()), (I{2, 3, 4}));
  EXPECT_EQ(
      values_i(OneNode("Shape").in(x).attr("start", int64_t{-2}).attr("end", int64_t{-1}).one()),
      (I{3}));
  EXPECT_EQ(
      values_i(OneNode("Shape").in(x).attr("start", int64_t{2}).attr("end", int64_t{1}).one()),
      I{});
  EXPECT_EQ(values_i(OneNode("Shape").in(x).attr("end", int64_t{99}).one()), (I{2, 3, 4}));
  EXPECT_EQ(values_i(OneNode("Size").in(x).one()), (I{24}));
}

Shape reshape(const Array& x, I to, int64_t allow_zero = 0) {
  const Array result = OneNode("Reshape").in(x).in(list(to)).attr("allowzero", allow_zero).one();
  EXPECT_EQ(values_i(result), values_i(x));
  return result.shape;
}

TEST(ShapeOps, Reshape) {
  EXPECT_EQ(reshape(counting({2, 6}), {3, 4}), (Shape{3, 4}));
  EXPECT_EQ(reshape(counting({2, 6}), {0, 2, -1}), (Shape{2, 2, 3}));
  EXPECT_EQ(reshape(counting({0, 4}), {0, 4}), (Shape{0, 4}));
  EXPECT_EQ(reshape(counting({0, 4}), {2, 0}, 1), (Shape{2, 0}));
  EXPECT_EQ(reshape(counting({1}), {}), Shape{});
  const auto error = [](Shape from, I to) {
    return OneNode("Reshape").in(counting(std::move(from))).in(list(std::move(to))).error();
  };
  EXPECT_EQ(error({2, 6}, {5, -1}),
            "Node \"the_node\" (Reshape) of test.onnx: An array of shape [2,6] cannot take the "
            "shape [5,-1].");
  EXPECT_NE(error({2, 6}, {-1, -1}), "");
  EXPECT_NE(error({2, 6}, {5, 5}), "");
  EXPECT_NE(error({2, 6}, {1, 1, 0}), "");
  EXPECT_NE(error({2, 6}, {-2, 6}), "");
  EXPECT_NE(error({0}, {0, -1}), "");
  EXPECT_NE(error({2}, {std::numeric_limits<int64_t>::max(), 2, -1}), "");
}

TEST(ShapeOps, FlattenSqueezeUnsqueeze) {
  const Array x = counting({2, 1, 3});
  EXPECT_EQ(OneNode("Flatten").in(x).one().shape, (Shape{2, 3}));
  EXPECT_EQ(OneNode("Flatten").in(x).attr("axis", int64_t{0}).one().shape, (Shape{1, 6}));
  EXPECT_EQ(OneNode("Flatten").in(x).attr("axis", int64_t{-1}).one().shape, (Shape{2, 3}));
  EXPECT_EQ(OneNode("Squeeze").in(x).one().shape, (Shape{2, 3}));
  EXPECT_EQ(OneNode("Squeeze").in(x).in(list({-2})).one().shape, (Shape{2, 3}));
  EXPECT_EQ(OneNode("Squeeze").in(x).attr("axes", I{1}).one().shape, (Shape{2, 3}));
  EXPECT_NE(OneNode("Squeeze").in(x).in(list({0})).error(), "");
  EXPECT_NE(OneNode("Squeeze").in(x).in(list({3})).error(), "");
  EXPECT_EQ(OneNode("Unsqueeze").in(x).in(list({0, -1})).one().shape, (Shape{1, 2, 1, 3, 1}));
  EXPECT_EQ(OneNode("Unsqueeze").in(x).attr("axes", I{1}).one().shape, (Shape{2, 1, 1, 3}));
  EXPECT_NE(OneNode("Unsqueeze").in(x).in(list({0, 0})).error(), "");
}

TEST(ShapeOps, Transpose) {
  const Array x = counting({2, 3});
  EXPECT_EQ(values_i(OneNode("Transpose").in(x).one()), (I{0, 3, 1, 4, 2, 5}));
  const Array y = OneNode("Transpose").in(counting({2, 3, 2})).attr("perm", I{1, 0, 2}).one();
  EXPECT_EQ(y.shape, (Shape{3, 2, 2}));
  EXPECT_EQ(values_i(y), (I{0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11}));
  EXPECT_NE(OneNode("Transpose").in(x).attr("perm", I{0}).error(), "");
  EXPECT_NE(OneNode("Transpose").in(x).attr("perm", I{0, 0}).error(), "");
  EXPECT_NE(OneNode("Transpose").in(x).attr("perm", I{0, 2}).error(), "");
}

TEST(ShapeOps, Expand) {
  const Array x = ints({2, 1}, {1, 2});
  const Array y = OneNode("Expand").in(x).in(list({2, 1, 3})).one();
  EXPECT_EQ(y.shape, (Shape{2, 2, 3}));
  EXPECT_EQ(values_i(y), (I{1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2}));
  EXPECT_EQ(OneNode("Expand").in(x).in(list({1})).one().shape, (Shape{2, 1}));  // only grows
  EXPECT_NE(OneNode("Expand").in(x).in(list({3, 3})).error(), "");
  EXPECT_NE(OneNode("Expand").in(x).in(list({1LL << 40, 1})).error(), "");
  EXPECT_NE(OneNode("Expand").in(x).in(list({0, 1LL << 40, 1LL << 40})).error(), "");
}

I slice(I starts, I ends, I axes, I steps) {
  return values_i(OneNode("Slice")
                      .in(counting({2, 5}))
                      .in(list(std::move(starts)))
                      .in(list(std::move(ends)))
                      .in(list(std::move(axes)))
                      .in(list(std::move(steps)))
                      .one());
}

TEST(ShapeOps, Slice) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(slice({1}, {3}, {1}, {1}), (I{1, 2, 6, 7}));
  EXPECT_EQ(slice({-2}, {kMax}, {-1}, {1}), (I{3, 4, 8, 9}));
  EXPECT_EQ(slice({0}, {5}, {1}, {2}), (I{0, 2, 4, 5, 7, 9}));
  EXPECT_EQ(slice({-1}, {kMin}, {1}, {-2}), (I{4, 2, 0, 9, 7, 5}));
  EXPECT_EQ(slice({99}, {0}, {1}, {-1}), (I{4, 3, 2, 1, 9, 8, 7, 6}));
  EXPECT_EQ(slice({3}, {1}, {1}, {1}), I{});
  EXPECT_EQ(slice({kMin}, {kMax}, {1}, {kMax}), (I{0, 5}));
  EXPECT_EQ(slice({kMax}, {kMin}, {1}, {kMin}), (I{4, 9}));
  EXPECT_EQ(slice({1, 1}, {2, 2}, {0, 1}, {1, 1}), (I{6}));
  EXPECT_EQ(slice({1, 1}, {5, 9}, {1, 1}, {1, 1}), (I{2, 3, 4, 7, 8, 9}));  // one after the other
  // Without axes and steps: the first dimensions.
  EXPECT_EQ(values_i(OneNode("Slice").in(counting({2, 2})).in(list({1})).in(list({2})).one()),
            (I{2, 3}));
  const auto error = [](I starts, I ends, I axes, I steps) {
    return OneNode("Slice")
        .in(counting({2}))
        .in(list(starts))
        .in(list(ends))
        .in(list(axes))
        .in(list(steps))
        .error();
  };
  EXPECT_NE(error({0}, {1}, {0}, {0}), "");
  EXPECT_NE(error({0}, {1}, {1}, {1}), "");
  EXPECT_NE(error({0}, {1, 2}, {0}, {1}), "");
}

TEST(ShapeOps, Split) {
  const auto parts = [](std::vector<Array> arrays) {
    std::vector<I> all;
    for (const Array& array : arrays) all.push_back(values_i(array));
    return all;
  };
  const Array x = counting({2, 4});
  EXPECT_EQ(parts(OneNode("Split").in(x).in(list({1, 3})).attr("axis", int64_t{-1}).run(2)),
            (std::vector<I>{{0, 4}, {1, 2, 3, 5, 6, 7}}));
  EXPECT_EQ(parts(OneNode("Split").in(x).attr("axis", int64_t{1}).run(2)),
            (std::vector<I>{{0, 1, 4, 5}, {2, 3, 6, 7}}));
  EXPECT_EQ(parts(OneNode("Split").in(counting({5})).attr("num_outputs", int64_t{3}).run(3)),
            (std::vector<I>{{0, 1}, {2, 3}, {4}}));
  EXPECT_EQ(parts(OneNode("Split").in(counting({3})).attr("split", I{2, 1}).run(2)),
            (std::vector<I>{{0, 1}, {2}}));
  EXPECT_NE(OneNode("Split").in(x).in(list({1, 2})).attr("axis", int64_t{1}).error(2), "");
  EXPECT_NE(OneNode("Split").in(x).in(list({5, -1})).attr("axis", int64_t{1}).error(2), "");
  EXPECT_NE(OneNode("Split").in(x).in(list({2, 2})).attr("axis", int64_t{1}).error(3), "");
}

TEST(ShapeOps, Tile) {
  const Array y = OneNode("Tile").in(counting({2, 2})).in(list({2, 3})).one();
  EXPECT_EQ(y.shape, (Shape{4, 6}));
  EXPECT_EQ(values_i(y),
            (I{0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3}));
  EXPECT_NE(OneNode("Tile").in(counting({2})).in(list({1, 1})).error(), "");
  EXPECT_NE(OneNode("Tile").in(counting({2})).in(list({-1})).error(), "");
  EXPECT_NE(OneNode("Tile").in(counting({2})).in(list({1LL << 62})).error(), "");
}

TEST(ShapeOps, Concat) {
  const Array y = OneNode("Concat")
                      .in(counting({2, 1}))
                      .in(counting({2, 0}))
                      .in(counting({2, 2}))
                      .attr("axis", int64_t{-1})
                      .one();
  EXPECT_EQ(y.shape, (Shape{2, 3}));
  EXPECT_EQ(values_i(y), (I{0, 0, 1, 1, 2, 3}));
  EXPECT_EQ(values_f(OneNode("Concat")
                         .in(floats({1}, {1}))
                         .in(floats({2}, {2, 3}))
                         .attr("axis", int64_t{0})
                         .one()),
            (F{1, 2, 3}));
  EXPECT_EQ(
      OneNode("Concat").in(counting({2, 1})).in(counting({3, 1})).attr("axis", int64_t{1}).error(),
      "Node \"the_node\" (Concat) of test.onnx: Arrays of shapes [2,1] and [3,1] cannot be "
      "concatenated along axis 1.");
  EXPECT_NE(
      OneNode("Concat").in(counting({1})).in(floats({1}, {1})).attr("axis", int64_t{0}).error(),
      "");
  EXPECT_NE(OneNode("Concat").in(counting({1})).error(), "");  // the axis is missing
}

TEST(ShapeOps, Constants) {
  EXPECT_EQ(values_f(OneNode("Constant").attr("value", graph::make_f32({2}, {1, 2})).one()),
            (F{1, 2}));
  EXPECT_EQ(values_i(OneNode("Constant").attr("value_int", int64_t{4}).one()), (I{4}));
  EXPECT_EQ(values_f(OneNode("Constant").attr("value_float", 0.5F).one()), (F{0.5F}));
  EXPECT_EQ(values_i(OneNode("Constant").attr("value_ints", I{4, 5}).one()), (I{4, 5}));
  EXPECT_NE(OneNode("Constant").error(), "");
  EXPECT_EQ(values_f(OneNode("ConstantOfShape").in(list({2})).one()), (F{0, 0}));
  const Array y =
      OneNode("ConstantOfShape").in(list({1, 2})).attr("value", graph::make_i64({1}, {7})).one();
  EXPECT_EQ(y.shape, (Shape{1, 2}));
  EXPECT_EQ(values_i(y), (I{7, 7}));
  EXPECT_EQ(OneNode("ConstantOfShape").in(list({})).one().shape, Shape{});
  EXPECT_NE(OneNode("ConstantOfShape").in(list({-1})).error(), "");
  EXPECT_NE(OneNode("ConstantOfShape").in(list({1LL << 50})).error(), "");
}

TEST(ShapeOps, Range) {
  const auto range = [](int64_t from, int64_t to, int64_t step) {
    return values_i(
        OneNode("Range").in(ints({}, {from})).in(ints({}, {to})).in(ints({}, {step})).one());
  };
  EXPECT_EQ(range(0, 3, 1), (I{0, 1, 2}));
  EXPECT_EQ(range(5, 0, -2), (I{5, 3, 1}));
  EXPECT_EQ(range(3, 0, 1), I{});
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(range(kMax - 1, kMax, 5), (I{kMax - 1}));
  EXPECT_EQ(range(kMin, kMax, kMax), (I{kMin, -1, kMax - 1}));
  EXPECT_EQ(range(kMax, kMin, kMin), (I{kMax, -1}));
  EXPECT_THROW(range(0, kMax, 1), std::exception);
  EXPECT_EQ(
      values_f(
          OneNode("Range").in(floats({}, {1})).in(floats({}, {2})).in(floats({}, {0.5F})).one()),
      (F{1, 1.5F}));
  EXPECT_NE(OneNode("Range").in(ints({}, {0})).in(ints({}, {1})).in(ints({}, {0})).error(), "");
  EXPECT_NE(OneNode("Range").in(floats({}, {0})).in(floats({}, {1})).in(floats({}, {0})).error(),
            "");
  EXPECT_NE(OneNode("Range").in(ints({2}, {0, 0})).in(ints({}, {1})).in(ints({}, {1})).error(), "");
}

TEST(ShapeOps, Trilu) {
  const auto x = floats({3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_EQ(values_f(OneNode("Trilu").in(x).one()), (F{1, 2, 3, 0, 5, 6, 0, 0, 9}));
  EXPECT_EQ(values_f(OneNode("Trilu").in(x).in(ints({}, {1})).one()),
            (F{0, 2, 3, 0, 0, 6, 0, 0, 0}));
  EXPECT_EQ(values_f(OneNode("Trilu").in(x).in(ints({}, {-1})).attr("upper", int64_t{0}).one()),
            (F{0, 0, 0, 4, 0, 0, 7, 8, 0}));
}

TEST(GatherOps, Gather) {
  const Array x = counting({2, 3});
  const Array y = OneNode("Gather").in(x).in(ints({2, 1}, {2, -3})).attr("axis", int64_t{1}).one();
  EXPECT_EQ(y.shape, (Shape{2, 2, 1}));
  EXPECT_EQ(values_i(y), (I{2, 0, 5, 3}));
  EXPECT_EQ(values_i(OneNode("Gather").in(x).in(ints({}, {-1})).one()), (I{3, 4, 5}));
  EXPECT_EQ(OneNode("Gather").in(x).in(list({})).one().shape, (Shape{0, 3}));
  EXPECT_EQ(OneNode("Gather").in(x).in(ints({}, {2})).error(),
            "Node \"the_node\" (Gather) of test.onnx: The index 2 is outside a dimension of 2.");
  EXPECT_NE(OneNode("Gather").in(x).in(ints({}, {-3})).error(), "");
}

TEST(GatherOps, GatherElements) {
  const Array x = counting({2, 3});
  EXPECT_EQ(values_i(OneNode("GatherElements")
                         .in(x)
                         .in(ints({2, 2}, {2, 0, 1, -1}))
                         .attr("axis", int64_t{1})
                         .one()),
            (I{2, 0, 4, 5}));
  EXPECT_EQ(values_i(OneNode("GatherElements").in(x).in(ints({1, 3}, {1, 0, 1})).one()),
            (I{3, 1, 5}));
  EXPECT_NE(
      OneNode("GatherElements").in(x).in(ints({3, 1}, {0, 0, 0})).attr("axis", int64_t{1}).error(),
      "");
  EXPECT_NE(OneNode("GatherElements").in(x).in(ints({1, 1}, {2})).error(), "");
  EXPECT_NE(OneNode("GatherElements").in(x).in(list({1})).error(), "");
}

TEST(GatherOps, GatherNd) {
  const Array x = counting({2, 2, 2});
  EXPECT_EQ(values_i(OneNode("GatherND").in(x).in(ints({2, 3}, {0, 0, 1, 1, -1, 0})).one()),
            (I{1, 6}));
  const Array rows = OneNode("GatherND").in(x).in(ints({2, 1}, {1, 0})).one();
  EXPECT_EQ(rows.shape, (Shape{2, 2, 2}));
  EXPECT_EQ(values_i(rows), (I{4, 5, 6, 7, 0, 1, 2, 3}));
  const Array batched =
      OneNode("GatherND").in(x).in(ints({2, 1}, {1, 0})).attr("batch_dims", int64_t{1}).one();
  EXPECT_EQ(batched.shape, (Shape{2, 2}));
  EXPECT_EQ(values_i(batched), (I{2, 3, 4, 5}));
  EXPECT_NE(OneNode("GatherND").in(x).in(ints({1, 4}, {0, 0, 0, 0})).error(), "");
  EXPECT_NE(OneNode("GatherND").in(x).in(ints({1, 3}, {0, 0, 2})).error(), "");
  EXPECT_NE(
      OneNode("GatherND").in(x).in(ints({3, 1}, {0, 0, 0})).attr("batch_dims", int64_t{1}).error(),
      "");
}

TEST(GatherOps, ScatterNd) {
  const Array x = floats({4}, {1, 2, 3, 4});
  const auto scatter = [&](const char* reduction) {
    return values_f(OneNode("ScatterND")
                        .in(x)
                        .in(ints({3, 1}, {1, -1, 1}))
                        .in(floats({3}, {10, 20, 30}))
                        .attr("reduction", std::string(reduction))
                        .one());
  };
  EXPECT_EQ(scatter("none"), (F{1, 30, 3, 20}));
  EXPECT_EQ(scatter("add"), (F{1, 42, 3, 24}));
  EXPECT_EQ(
      values_i(
          OneNode("ScatterND").in(counting({2, 2})).in(ints({1, 1}, {0})).in(list({8, 9})).one()),
      (I{8, 9, 2, 3}));
  EXPECT_NE(OneNode("ScatterND").in(x).in(ints({1, 1}, {4})).in(floats({1}, {1})).error(), "");
  EXPECT_NE(OneNode("ScatterND").in(x).in(ints({1, 1}, {0})).in(floats({2}, {1, 2})).error(), "");
}

}  // namespace
}  // namespace nibble::test
