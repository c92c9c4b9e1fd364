#include "quant/formats/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "graph/ops.h"
#include "jit/error.h"
#include "quant/formats/dequantize.h"
#include "quant/formats/random_weights.h"
#include "tests/quant/solver_inputs.h"

namespace nibble::quant {
namespace {

using graph::Graph;
using graph::MatrixSource;
using graph::ValueId;
using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

MatrixSource matrix(int64_t n, int64_t k, bool k_major, uint32_t seed = 1) {
  const graph::Shape shape = k_major ? graph::Shape{k, n} : graph::Shape{n, k};
  return MatrixSource::whole(graph::make_f32(shape, normal_numbers(n * k, seed, 0.02F)), k_major);
}

std::vector<WeightFormat> all_formats() {
  std::vector<WeightFormat> formats{{WeightType::f32, 0, false, ScaleType::f32}};
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const int64_t group : {0, 16, 32, 128}) {
      for (const bool asym : {false, true}) {
        for (const ScaleType scale : {ScaleType::f16, ScaleType::f32}) {
          formats.push_back({type, group, asym, scale});
        }
      }
    }
  }
  return formats;
}

size_t at(int64_t index) { return static_cast<size_t>(index); }

// The packed matrix against the group formula applied by hand, element for element.
void expect_quantized(const MatrixSource& source, const WeightFormat& format,
                      const runtime::PackedMatrix& packed) {
  const jit::PackedView& view = packed.view;
  ASSERT_EQ(view.n, source.n);
  ASSERT_EQ(view.k, source.k);
  std::vector<float> column(at(source.k)), unpacked(at(source.k));
  std::vector<uint8_t> q(at(source.k));
  for (int64_t c = 0; c < source.n; ++c) {
    source.read_columns(c, 1, column);
    jit::unpack_column(view, c, unpacked);
    if (format.type == WeightType::f32) {
      EXPECT_EQ(unpacked, column);
      continue;
    }
    const int64_t group = format.group == 0 ? source.k : format.group;
    for (int64_t begin = 0; begin < source.k; begin += group) {
      const auto length = at(std::min(group, source.k - begin));
      const GroupResult r = rtn_group({column.data() + begin, length}, format, RtnRange::full, q);
      ASSERT_EQ(jit::packed_scale(view, c, begin / group), r.scale);
      ASSERT_EQ(jit::packed_zero(view, c, begin / group), r.zero);
      for (size_t i = 0; i < length; ++i) {
        const auto kk = begin + static_cast<int64_t>(i);
        ASSERT_EQ(jit::packed_value(view, c, kk), q[i]) << c << " " << kk;
        ASSERT_EQ(unpacked[at(kk)], static_cast<float>(q[i] - r.zero) * r.scale);
      }
    }
  }
}

TEST(QuantizeMatrix, FollowsTheFormulaInEveryFormat) {
  runtime::ThreadPool pool(2);
  for (const WeightFormat& format : all_formats()) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{40, 128}, {16, 77}, {5, 7}, {1, 1}}) {
      for (const bool k_major : {false, true}) {
        const MatrixSource source = matrix(n, k, k_major);
        expect_quantized(source, format,
                         quantize_matrix(source, format, RtnRange::full, "w", pool));
      }
    }
  }
}

TEST(QuantizeMatrix, DequantizesInBothOrders) {
  runtime::ThreadPool pool(1);
  const MatrixSource source = matrix(33, 70, true);
  const WeightFormat f32{WeightType::f32, 0, false, ScaleType::f32};
  const auto packed = quantize_matrix(source, f32, RtnRange::full, "w", pool);
  const graph::TensorData k_major = dequantize(packed, true), n_major = dequantize(packed, false);
  EXPECT_EQ(k_major.shape, (graph::Shape{70, 33}));
  EXPECT_EQ(n_major.shape, (graph::Shape{33, 70}));
  EXPECT_EQ(graph::to_f32(k_major), source.to_k_major());
  std::vector<float> columns(size_t{33} * 70);
  source.read_columns(0, 33, columns);
  EXPECT_EQ(graph::to_f32(n_major), columns);
}

TEST(QuantizeMatrix, MergedAndPaddedColumns) {
  runtime::ThreadPool pool(2);
  const MatrixSource a = matrix(20, 64, true, 1), b = matrix(20, 64, false, 2);
  const std::vector<MatrixSource> both{a, b};
  const std::vector<graph::ColumnSegment> interleaved{{0, 0, 16},  {0, 20, 16}, {0, 16, 4},
                                                      {-1, 0, 12}, {0, 36, 4},  {-1, 0, 12}};
  const MatrixSource merged = graph::select_columns(graph::concatenate(both), interleaved);
  const WeightFormat format{WeightType::u4, 32, false, ScaleType::f16};
  const auto packed = quantize_matrix(merged, format, RtnRange::full, "gate_up", pool);
  expect_quantized(merged, format, packed);
  EXPECT_EQ(jit::packed_value(packed.view, 36, 5), 8);  // a padded column is zero
}

bool same_bytes(const runtime::PackedMatrix& a, const runtime::PackedMatrix& b) {
  const jit::PackedShape shape = jit::packed_shape(a.view.format, a.view.n, a.view.k);
  const auto same = [](const void* x, const void* y, int64_t bytes) {
    return bytes == 0 || std::memcmp(x, y, at(bytes)) == 0;
  };
  return same(a.view.data, b.view.data, shape.data_bytes) &&
         same(a.view.scales, b.view.scales, shape.scale_bytes) &&
         same(a.view.zeros, b.view.zeros, shape.zero_bytes);
}

TEST(QuantizeMatrix, ThreadsDoNotMatter) {
  const MatrixSource source = matrix(200, 96, true);
  const WeightFormat format{WeightType::u4, 32, true, ScaleType::f16};
  runtime::ThreadPool one(1), three(3);
  EXPECT_TRUE(same_bytes(quantize_matrix(source, format, RtnRange::full, "w", one),
                         quantize_matrix(source, format, RtnRange::full, "w", three)));
}

std::string failure(const MatrixSource& source, const WeightFormat& format) {
  runtime::ThreadPool pool(3);
  try {
    quantize_matrix(source, format, RtnRange::full, "layers.3.down", pool);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(QuantizeMatrix, ABadWeightIsNamed) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    for (const WeightFormat& format : all_formats()) {
      std::vector<float> w = normal_numbers(int64_t{100} * 64, 1, 0.02F);
      w[37 * 64 + 40] = bad;     // column 37, k 40
      w[size_t{90} * 64] = bad;  // later: the first one is named, whatever the threads do
      const std::string message =
          failure(MatrixSource::whole(graph::make_f32({100, 64}, w), false), format);
      EXPECT_NE(message.find("'layers.3.down'"), std::string::npos) << message;
      EXPECT_NE(message.find("column 37"), std::string::npos) << message;
    }
  }
}

TEST(QuantizeMatrix, ErrorsOfTheSourceComeOut) {
  MatrixSource source = matrix(32, 64, true);
  source.parts[0].tensor.bytes = 100;
  EXPECT_NE(failure(source, all_formats()[1]), "");
  MatrixSource empty;
  EXPECT_NE(failure(empty, all_formats()[1]).find("'layers.3.down'"), std::string::npos);
}

TEST(DefaultOptions, UsualChoices) {
  const QuantizeOptions int4 = default_options("int4", 64, true, ScaleType::f16);
  EXPECT_EQ(int4.linear, (WeightFormat{WeightType::u4, 64, true, ScaleType::f16}));
  EXPECT_EQ(int4.head, (WeightFormat{WeightType::u8, 64, true, ScaleType::f16}));
  EXPECT_EQ(int4.embedding.type, WeightType::u8);
  const QuantizeOptions int8 = default_options("int8", 32, false, ScaleType::f32);
  EXPECT_EQ(int8.linear, (WeightFormat{WeightType::u8, 32, false, ScaleType::f32}));
  EXPECT_EQ(default_options("f32", 32, false, ScaleType::f16).linear.type, WeightType::f32);
  EXPECT_THROW(default_options("int3", 32, false, ScaleType::f16), Error);
  EXPECT_THROW(default_options("int4", 12, false, ScaleType::f16), Error);
  EXPECT_THROW(default_options("int4", -32, false, ScaleType::f16), Error);
}

// ids -> Embedding -> Linear -> Linear (the head) -> logits.
struct SmallModel {
  Graph graph;
  ValueId table, linear, head;

  explicit SmallModel(bool tie, bool softcap = false) {
    const MatrixSource embedding = matrix(50, 32, false, 1);
    table = graph.add_constant("embed", embedding);
    linear = graph.add_constant("layer.0.w", matrix(32, 32, true, 2));
    MatrixSource other = matrix(50, 32, false, 3);
    head = graph.add_constant("lm_head", tie ? embedding : other);
    const ValueId ids = graph.add_value("ids", graph::DType::i64);
    graph.inputs = {ids};
    const ValueId x = add("Embedding", {ids, table}, "x");
    const ValueId h = add("Linear", {x, linear}, "h");
    ValueId logits = add("Linear", {h, head}, "logits");
    if (softcap) {
      const ValueId cap = graph.add_constant("cap", graph::make_f32({}, {30.0F}));
      logits = add("Div", {logits, cap}, "scaled", "");
      logits = add("Tanh", {logits}, "bent", "");
    }
    graph.io.input_ids = ids;
    graph.io.logits = logits;
    graph.outputs = {logits};
  }

  ValueId add(const char* op, std::vector<ValueId> inputs, const char* output,
              std::string_view domain = graph::kNibbleDomain) {
    graph::Node node;
    node.op = op;
    node.domain = domain;
    node.name = output;
    node.inputs = std::move(inputs);
    const ValueId value = graph.add_value(output);
    node.outputs = {value};
    graph.nodes.push_back(std::move(node));
    return value;
  }
};

QuantizeOptions three_formats() {
  QuantizeOptions options;
  options.linear = {WeightType::u4, 32, false, ScaleType::f16};
  options.head = {WeightType::u8, 16, false, ScaleType::f16};
  options.embedding = {WeightType::f32, 0, false, ScaleType::f32};
  return options;
}

TEST(ChooseFormats, EachPartItsOwn) {
  const QuantizeOptions options = three_formats();
  for (const bool softcap : {false, true}) {
    const SmallModel model(false, softcap);
    const auto formats = choose_formats(model.graph, options);
    EXPECT_EQ(formats.size(), 3u);
    EXPECT_EQ(formats.at(model.table), options.embedding);
    EXPECT_EQ(formats.at(model.linear), options.linear);
    EXPECT_EQ(formats.at(model.head), options.head);
  }
}

TEST(ChooseFormats, ATiedTableFollowsTheHead) {
  const QuantizeOptions options = three_formats();
  const SmallModel model(true);
  EXPECT_EQ(choose_formats(model.graph, options).at(model.table), options.head);
  SmallModel same_value(false);
  same_value.graph.nodes[0].inputs[1] = same_value.head;
  EXPECT_EQ(choose_formats(same_value.graph, options).at(same_value.head), options.head);
}

TEST(QuantizeGraph, PacksEveryWeightAndSharesTiedOnes) {
  runtime::ThreadPool pool(2);
  SmallModel model(true);
  std::vector<std::pair<int64_t, int64_t>> calls;
  quantize_graph(model.graph, three_formats(), pool,
                 [&](int64_t done, int64_t total) { calls.emplace_back(done, total); });
  ASSERT_EQ(calls.size(), 3u);
  EXPECT_EQ(calls.back().first, calls.back().second);
  const auto packed = [&](ValueId id) {
    return std::get<runtime::PackedMatrix>(*model.graph.values[at(id)].constant);
  };
  EXPECT_EQ(packed(model.table).view.data, packed(model.head).view.data);
  EXPECT_EQ(packed(model.linear).view.format, three_formats().linear);
  EXPECT_EQ(packed(model.linear).view.n, 32);
}

TEST(QuantizeGraph, ABadWeightIsNamed) {
  runtime::ThreadPool pool(2);
  SmallModel model(false);
  std::vector<float> w = normal_numbers(int64_t{32} * 32, 5, 0.02F);
  w[100] = std::numeric_limits<float>::quiet_NaN();
  model.graph.values[at(model.linear)].constant =
      MatrixSource::whole(graph::make_f32({32, 32}, w), true);
  try {
    quantize_graph(model.graph, three_formats(), pool, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("'layer.0.w'"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("column 4"), std::string::npos) << error.what();
  }
}

// What the layout promises of the padding, seen through the layout's own reader.
void expect_padding(const jit::PackedView& view) {
  const jit::PackedShape shape = jit::packed_shape(view.format, view.n, view.k);
  jit::PackedView whole = view;  // the padding, read as if it were weights
  whole.n = shape.nblocks * jit::kColumnBlock;
  if (view.format.type == WeightType::f32) {
    std::vector<float> column(at(view.k));
    for (int64_t c = view.n; c < whole.n; ++c) {
      jit::unpack_column(whole, c, column);
      EXPECT_EQ(column, std::vector<float>(at(view.k), 0.0F));
    }
    return;
  }
  whole.k = shape.kpad;
  for (int64_t c = 0; c < whole.n; ++c) {
    const bool padded = c >= view.n;
    const uint8_t zero = jit::packed_zero(whole, c, shape.groups - 1);
    for (int64_t kk = padded ? 0 : view.k; kk < shape.kpad; ++kk) {
      EXPECT_EQ(jit::packed_value(whole, c, kk), zero) << c << " " << kk;
    }
    for (int64_t g = 0; padded && g < shape.groups; ++g) {
      EXPECT_EQ(jit::packed_scale(whole, c, g), 0.0F);
    }
  }
}

TEST(RandomMatrix, HonoursTheLayoutAndTheSize) {
  runtime::ThreadPool pool(2), single(1);
  for (const WeightFormat& format : all_formats()) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{48, 256}, {37, 77}, {1, 3}, {16, 8}}) {
      const auto packed = random_matrix(format, n, k, 7, pool);
      expect_padding(packed.view);
      EXPECT_TRUE(same_bytes(packed, random_matrix(format, n, k, 7, single)));
      EXPECT_FALSE(same_bytes(packed, random_matrix(format, n, k, 8, pool)));
    }
  }
}

TEST(RandomMatrix, OutputsStayNearOne) {
  runtime::ThreadPool pool(2);
  for (const WeightFormat& format : all_formats()) {
    const int64_t n = 64, k = 512;
    const auto weights = graph::to_f32(dequantize(random_matrix(format, n, k, 3, pool), false));
    double sum = 0;
    for (const float w : weights) sum += static_cast<double>(w) * w;
    // The variance of an output for inputs of variance 1 is the sum over k of w^2.
    EXPECT_GT(sum / n, 0.7);
    EXPECT_LT(sum / n, 1.4);
  }
}

TEST(RandomMatrix, ColumnsDiffer) {
  runtime::ThreadPool pool(1);
  const auto packed = random_matrix({WeightType::u4, 32, false, ScaleType::f16}, 64, 64, 1, pool);
  std::vector<std::vector<float>> columns(64, std::vector<float>(64));
  for (int64_t c = 0; c < 64; ++c) jit::unpack_column(packed.view, c, columns[at(c)]);
  std::sort(columns.begin(), columns.end());
  EXPECT_EQ(std::adjacent_find(columns.begin(), columns.end()), columns.end());
}

}  // namespace
}  // namespace nibble::quant
