// Weights that ONNX files hold quantized, in every form, against numbers computed one by one.
#include "graph/quantized_nodes.h"

#include <gtest/gtest.h>

#include "graph/passes.h"
#include "jit/error.h"
#include "tests/graph/one_node.h"
#include "tests/support/error_of.h"
#include "tests/support/quantized_tensors.h"

namespace nibble::test {
namespace {

using F = std::vector<float>;
using graph::Constant;
using graph::DType;
using graph::Graph;
using graph::kNoValue;
using graph::Node;
using graph::SharedMatrix;
using graph::TensorData;
using graph::ValueId;

constexpr int64_t kN = 3, kK = 20, kBlock = 16, kBlocks = 2;

// A number from 0 to 2^bits - 1 for each weight.
int number(int64_t c, int64_t kk, int bits) {
  return static_cast<int>((c * 37 + kk * 11 + 5) % (1 << bits));
}
float scale_of(int64_t c, int64_t g) {
  return (c == 1 ? -0.25F : 0.5F) * static_cast<float>(g + 1);
}
int zero_of(int64_t c, int64_t g, int bits) {
  return static_cast<int>((c * 3 + g * 5 + 1) % (1 << bits));
}

struct StoredForm {
  int bits = 4;
  enum Zeros { absent, packed, floats, fractions } zeros = absent;
  bool flat = false, halves = false;
  std::vector<int64_t> g_idx = {};
};

TensorData reals(const StoredForm& form, graph::Shape shape, const F& values) {
  if (!form.halves) return graph::make_f32(std::move(shape), values);
  std::vector<uint8_t> bytes;  // multiples of 1/8 below 16, exactly halves
  for (const float value : values) {
    int exponent = 0;
    const float mantissa = std::frexp(std::fabs(value), &exponent);
    uint16_t half = 0;
    if (value != 0) {
      const auto fraction = static_cast<uint16_t>((mantissa * 2 - 1) * 1024);
      half = static_cast<uint16_t>((value < 0 ? 0x8000 : 0) | (exponent + 14) << 10 | fraction);
    }
    bytes.push_back(static_cast<uint8_t>(half & 255));
    bytes.push_back(static_cast<uint8_t>(half >> 8));
  }
  return byte_tensor(DType::f16, std::move(shape), std::move(bytes));
}

// A graph of one MatMulNBits of N = 3, K = 20 in blocks of 16: the last block has 12 to spare.
Graph nbits_graph(const StoredForm& form) {
  Graph graph;
  graph.origin = "test.onnx";
  std::vector<int> values, zeros;
  F scales, zero_floats;
  for (int64_t c = 0; c < kN; ++c) {
    for (int64_t kk = 0; kk < kBlocks * kBlock; ++kk) {
      values.push_back(kk < kK ? number(c, kk, form.bits) : 0);
    }
    for (int64_t g = 0; g < kBlocks; ++g) {
      scales.push_back(scale_of(c, g));
      zeros.push_back(zero_of(c, g, form.bits));
      zero_floats.push_back(static_cast<float>(zeros.back()) +
                            (form.zeros == StoredForm::fractions ? 0.5F : 0.0F));
    }
  }
  // Rows of `width` numbers in whole bytes, the first in the lowest bits.
  const auto bytes = [&](const std::vector<int>& x, int64_t width) {
    std::vector<uint8_t> out;
    for (size_t i = 0; i < x.size(); ++i) {
      const int64_t bit = static_cast<int64_t>(i) % width * form.bits;
      if (bit % 8 == 0) out.push_back(0);
      out.back() |= static_cast<uint8_t>(x[i] << (bit % 8));
    }
    return out;
  };
  Node node{"MatMulNBits", "com.microsoft", "mm", {graph.add_value("x")}, {}, {}};
  const auto add = [&](const char* name, TensorData tensor) {
    node.inputs.push_back(graph.add_constant(name, Constant(std::move(tensor))));
  };
  add("w", byte_tensor(DType::u8, {kN, kBlocks, kBlock * form.bits / 8},
                       bytes(values, kBlocks * kBlock)));
  const graph::Shape shape = form.flat ? graph::Shape{kN * kBlocks} : graph::Shape{kN, kBlocks};
  add("s", reals(form, shape, scales));
  if (form.zeros == StoredForm::packed) {
    const auto packed = bytes(zeros, kBlocks);
    add("z", byte_tensor(DType::u8, {static_cast<int64_t>(packed.size())}, packed));
  } else if (form.zeros != StoredForm::absent) {
    add("z", reals(form, {kN, kBlocks}, zero_floats));
  } else {
    node.inputs.push_back(kNoValue);
  }
  if (!form.g_idx.empty()) add("g", graph::make_i64({kK}, form.g_idx));
  node.attributes = {{"N", kN}, {"K", kK}, {"bits", int64_t{form.bits}}, {"block_size", kBlock}};
  node.outputs = {graph.add_value("y")};
  graph.inputs = {node.inputs[0]};
  graph.outputs = node.outputs;
  graph.nodes = {node};
  return graph;
}

float expected_weight(const StoredForm& form, int64_t c, int64_t kk) {
  const int64_t g = form.g_idx.empty() ? kk / kBlock : form.g_idx[static_cast<size_t>(kk)];
  float zero = form.zeros == StoredForm::absent ? static_cast<float>(1 << (form.bits - 1))
                                                : static_cast<float>(zero_of(c, g, form.bits));
  if (form.zeros == StoredForm::fractions) zero += 0.5F;
  return (static_cast<float>(number(c, kk, form.bits)) - zero) * scale_of(c, g);
}

std::vector<StoredForm> all_forms() {
  std::vector<StoredForm> forms;
  for (const int bits : {2, 4, 8}) {
    for (const auto zeros :
         {StoredForm::absent, StoredForm::packed, StoredForm::floats, StoredForm::fractions}) {
      for (const bool other : {false, true}) forms.push_back({bits, zeros, other, other, {}});
    }
  }
  StoredForm grouped;
  for (int64_t kk = 0; kk < kK; ++kk) grouped.g_idx.push_back(kk % 2);
  forms.push_back(grouped);
  return forms;
}

TEST(MatMulNBits, EveryFormReadsAsItsNumbers) {
  for (const StoredForm& form : all_forms()) {
    const Graph graph = nbits_graph(form);
    const SharedMatrix matrix = graph::matmul_nbits_weight(graph, graph.nodes[0]);
    for (int64_t c = 0; c < kN; ++c) {
      F column(kK);
      matrix->read_column(c, column);
      for (int64_t kk = 0; kk < kK; ++kk) {
        ASSERT_EQ(column[static_cast<size_t>(kk)], expected_weight(form, c, kk))
            << form.bits << " bits, zeros " << form.zeros << ", column " << c << ", k " << kk;
      }
    }
  }
}

TEST(MatMulNBits, TheInterpreterMultiplies) {
  const StoredForm form{4, StoredForm::packed, false, false, {}};
  const Graph graph = nbits_graph(form);
  F x(kK);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 5) - 2;
  const graph::Interpreter interpreter(graph);
  const graph::Array y =
      interpreter.run_one({{graph.inputs[0], floats({1, 1, kK}, x)}}, graph.outputs[0]);
  EXPECT_EQ(y.shape, (graph::Shape{1, 1, kN}));
  for (int64_t c = 0; c < kN; ++c) {
    float sum = 0;
    for (int64_t kk = 0; kk < kK; ++kk) {
      sum += x[static_cast<size_t>(kk)] * expected_weight(form, c, kk);
    }
    EXPECT_FLOAT_EQ(y.floats()[static_cast<size_t>(c)], sum);
  }
}

TEST(MatMulNBits, PackedFormats) {
  std::string why_not;
  const auto format = [&](const StoredForm& form) {
    why_not.clear();
    const Graph graph = nbits_graph(form);
    return graph::matmul_nbits_weight(graph, graph.nodes[0])->packed_format(why_not);
  };
  const auto plain = format({});
  ASSERT_TRUE(plain);
  EXPECT_EQ(*plain, (jit::WeightFormat{jit::WeightType::u4, kBlock, false, jit::ScaleType::f16}));
  EXPECT_EQ(format({8, StoredForm::packed, false, false, {}}),
            (jit::WeightFormat{jit::WeightType::u8, kBlock, true, jit::ScaleType::f16}));
  EXPECT_TRUE(format({4, StoredForm::floats, false, false, {}})->asym);
  EXPECT_TRUE(format({4, StoredForm::fractions, false, false, {}})->minimum);
  EXPECT_FALSE(format({4, StoredForm::floats, false, false, {}})->minimum);
  EXPECT_FALSE(format(all_forms().back()));
  EXPECT_NE(why_not.find("g_idx"), std::string::npos) << why_not;
  StoredForm in_order;
  for (int64_t kk = 0; kk < kK; ++kk) in_order.g_idx.push_back(kk / kBlock);
  EXPECT_TRUE(format(in_order));
}

TEST(MatMulNBits, ScalesThatHalvesCannotHoldStayFloats) {
  Graph graph = nbits_graph({});
  const ValueId scales = graph.nodes[0].inputs[2];
  F values(kN * kBlocks, 0.5F);
  values[4] = 0.1F;
  graph.values[static_cast<size_t>(scales)].constant = graph::make_f32({kN, kBlocks}, values);
  std::string why_not;
  const auto matrix = graph::matmul_nbits_weight(graph, graph.nodes[0]);
  EXPECT_EQ(matrix->packed_format(why_not)->scale, jit::ScaleType::f32);
}

std::string weight_error(const Graph& graph) {
  return error_of([&] { graph::matmul_nbits_weight(graph, graph.nodes[0]); });
}

TEST(MatMulNBits, WhatCannotBeIsAnError) {
  const auto with = [](const char* key, int64_t value) {
    Graph graph = nbits_graph({});
    graph.nodes[0].attributes[key] = value;
    return weight_error(graph);
  };
  EXPECT_NE(with("bits", 3).find("3 bits"), std::string::npos);
  EXPECT_NE(with("block_size", 24).find("blocks of 24"), std::string::npos);
  EXPECT_NE(with("block_size", 8).find("blocks of 8"), std::string::npos);
  EXPECT_NE(with("weight_prepacked", 1).find("prepacking"), std::string::npos);
  EXPECT_NE(with("N", 4).find("needs"), std::string::npos);
  EXPECT_NE(with("N", 2).find("takes"), std::string::npos);
  EXPECT_NE(with("K", 0).find("K = 0"), std::string::npos);
  EXPECT_NE(with("K", INT64_MAX).find("K = 9223372036854775807"), std::string::npos);
  EXPECT_NE(with("N", INT64_MAX).find("N = 9223372036854775807"), std::string::npos);
  EXPECT_NE(with("block_size", int64_t{1} << 62).find("blocks of"), std::string::npos);
  Graph computed = nbits_graph({});
  computed.nodes[0].inputs[2] = computed.inputs[0];
  EXPECT_NE(weight_error(computed).find("constants are expected"), std::string::npos);
  Graph outside = nbits_graph(all_forms().back());
  const ValueId groups = outside.nodes[0].inputs[4];
  outside.values[static_cast<size_t>(groups)].constant =
      graph::make_i64({kK}, std::vector<int64_t>(kK, 2));
  EXPECT_NE(weight_error(outside).find("group 2 of 2"), std::string::npos);
}

// A DequantizeLinear of int4 numbers -8..7 in blocks of 16 along k, as [n][k] or as [k][n].
Graph dequantize_graph(bool k_major, bool zeros) {
  Graph graph;
  graph.origin = "test.onnx";
  const int64_t n = 3, k = 32, blocks = 2;
  const int64_t rows = k_major ? k : n, columns = k_major ? n : k;
  std::vector<int> values, zero_points;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      values.push_back(number(k_major ? c : r, k_major ? r : c, 4) - 8);
    }
  }
  F scales;
  for (int64_t r = 0; r < (k_major ? blocks : n); ++r) {
    for (int64_t c = 0; c < (k_major ? n : blocks); ++c) {
      scales.push_back(scale_of(k_major ? c : r, k_major ? r : c));
      zero_points.push_back(zero_of(k_major ? c : r, k_major ? r : c, 4) - 8);
    }
  }
  const graph::Shape scale_shape = k_major ? graph::Shape{blocks, n} : graph::Shape{n, blocks};
  Node dequantize{"DequantizeLinear", "", "dq", {}, {graph.add_value("w")}, {}};
  dequantize.inputs = {
      graph.add_constant("q", byte_tensor(DType::i4, {rows, columns}, nibbles(values))),
      graph.add_constant("s", graph::make_f32(scale_shape, scales))};
  if (zeros) {
    dequantize.inputs.push_back(
        graph.add_constant("z", byte_tensor(DType::i4, scale_shape, nibbles(zero_points))));
  }
  dequantize.attributes = {{"axis", int64_t{k_major ? 0 : 1}}, {"block_size", int64_t{16}}};
  graph.nodes = {dequantize};
  return graph;
}

TEST(DequantizeLinear, BothOrientationsAreTheSameMatrix) {
  for (const bool zeros : {false, true}) {
    F columns[2];
    for (const bool k_major : {false, true}) {
      const Graph graph = dequantize_graph(k_major, zeros);
      const SharedMatrix matrix = graph::dequantized_weight(graph, graph.nodes[0], k_major);
      ASSERT_NE(matrix, nullptr);
      EXPECT_EQ(matrix->n, 3);
      EXPECT_EQ(matrix->k, 32);
      for (int64_t c = 0; c < 3; ++c) {
        F column(32);
        matrix->read_column(c, column);
        for (int64_t kk = 0; kk < 32; ++kk) {
          const float zero = zeros ? static_cast<float>(zero_of(c, kk / 16, 4) - 8) : 0;
          EXPECT_EQ(column[static_cast<size_t>(kk)],
                    (static_cast<float>(number(c, kk, 4) - 8) - zero) * scale_of(c, kk / 16));
        }
        columns[k_major ? 1 : 0].insert(columns[k_major ? 1 : 0].end(), column.begin(),
                                        column.end());
      }
      std::string why_not;
      EXPECT_EQ(matrix->packed_format(why_not)->asym, zeros);
      // As the interpreter has it, element by element.
      const graph::Interpreter interpreter(graph);
      const auto array = interpreter.run_one({}, graph.nodes[0].outputs[0]);
      for (int64_t c = 0; c < 3; ++c) {
        for (int64_t kk = 0; kk < 32; ++kk) {
          const int64_t at = k_major ? kk * 3 + c : c * 32 + kk;
          EXPECT_EQ(array.floats()[static_cast<size_t>(at)],
                    columns[k_major ? 1 : 0][static_cast<size_t>(c * 32 + kk)]);
        }
      }
    }
    EXPECT_EQ(columns[0], columns[1]);
  }
}

TEST(DequantizeLinear, ScalesOfColumnsAndOfAll) {
  Graph graph;
  Node node{"DequantizeLinear", "", "dq", {}, {graph.add_value("w")}, {{"axis", int64_t{1}}}};
  node.inputs = {graph.add_constant("q", byte_tensor(DType::i8, {2, 2}, {1, 254, 3, 4})),
                 graph.add_constant("s", graph::make_f32({2}, {0.5F, 2}))};
  graph.nodes = {node};
  const SharedMatrix matrix = graph::dequantized_weight(graph, node, true);  // [k][n]
  ASSERT_NE(matrix, nullptr);
  F column(2);
  matrix->read_column(1, column);
  EXPECT_EQ(column, (F{-4, 8}));
  EXPECT_EQ(graph::dequantized_weight(graph, node, false), nullptr);  // a scale a k is no group
  graph.values[static_cast<size_t>(node.inputs[1])].constant = graph::make_f32({}, {3});
  matrix->read_column(1, column);
  graph::dequantized_weight(graph, node, false)->read_column(1, column);
  EXPECT_EQ(column, (F{9, 12}));
}

TEST(GatherBlockQuantized, TablesOfEveryType) {
  const int64_t rows = 3, k = 32;
  for (const DType dtype : {DType::u8, DType::u4, DType::i4}) {
    for (const bool zeros : {false, true}) {
      std::vector<int> values, zero_points;
      F scales;
      const int shift = dtype == DType::i4 ? 8 : 0;
      for (int64_t c = 0; c < rows; ++c) {
        for (int64_t kk = 0; kk < k; ++kk) values.push_back(number(c, kk, 4) - shift);
        for (int64_t g = 0; g < 2; ++g) {
          scales.push_back(scale_of(c, g));
          zero_points.push_back(zero_of(c, g, 4) - shift);
        }
      }
      const bool bytes = dtype == DType::u8;
      OneNode node("GatherBlockQuantized", "com.microsoft");
      node.constant(byte_tensor(dtype, {rows, bytes ? k / 2 : k}, nibbles(values)));
      node.in(ints({1, 2}, {2, 0})).constant(graph::make_f32({rows, 2}, scales));
      if (zeros) {
        node.constant(byte_tensor(dtype, {rows, bytes ? 1 : 2}, nibbles(zero_points)));
      }
      node.attr("block_size", int64_t{16}).attr("quantize_axis", int64_t{1});
      const auto out = node.one();
      ASSERT_EQ(out.shape, (graph::Shape{1, 2, k}));
      for (int64_t t = 0; t < 2; ++t) {
        const int64_t c = t == 0 ? 2 : 0;
        for (int64_t kk = 0; kk < k; ++kk) {
          const int zero = zeros ? zero_of(c, kk / 16, 4) : bytes || shift != 0 ? 8 : 0;
          EXPECT_EQ(out.floats()[static_cast<size_t>(t * k + kk)],
                    static_cast<float>(number(c, kk, 4) - zero) * scale_of(c, kk / 16));
        }
      }
    }
  }
}

// The passes: quantized weights stay what they are, however small.
TEST(QuantizedPasses, WeightsBecomeLinearsAsTheyAre) {
  for (const bool k_major : {true, false}) {
    Graph graph = dequantize_graph(k_major, true);
    ValueId weight = graph.nodes[0].outputs[0];
    if (!k_major) {
      const ValueId turned = graph.add_value("turned");
      graph.nodes.push_back(
          {"Transpose", "", "t", {weight}, {turned}, {{"perm", std::vector<int64_t>{1, 0}}}});
      weight = turned;
    }
    const ValueId x = graph.add_value("x"), y = graph.add_value("y");
    graph.nodes.push_back({"MatMul", "", "mm", {x, weight}, {y}, {}});
    graph.inputs = {x};
    graph.outputs = {y};
    graph::fold_constants(graph);
    EXPECT_EQ(graph::form_linears(graph), 1);
    graph::eliminate_dead(graph);
    ASSERT_EQ(graph.nodes.size(), 1U);
    EXPECT_TRUE(graph.nodes[0].is("Linear", "nibble"));
    const auto& constant = graph.values[static_cast<size_t>(graph.nodes[0].inputs[1])].constant;
    EXPECT_TRUE(std::get<graph::MatrixSource>(*constant).has_quantized());
  }
}

TEST(DynamicQuantization, RoundsAsItsDefinition) {
  // The range -1..1.55 in 255 steps of 0.01, zero at 100.
  const auto outputs =
      OneNode("DynamicQuantizeLinear").in(floats({4}, {-1, 1.55F, 0, 0.124F})).run(3);
  EXPECT_EQ(values_i(outputs[0]), (std::vector<int64_t>{0, 255, 100, 112}));
  EXPECT_FLOAT_EQ(outputs[1].floats()[0], 0.01F);
  EXPECT_EQ(values_i(outputs[2]), (std::vector<int64_t>{100}));
  OneNode product("MatMulInteger");
  product.in(ints({1, 2}, {3, 5})).in(ints({2, 2}, {1, 2, 3, 4})).in(ints({}, {1}));
  EXPECT_EQ(values_i(product.in(ints({2}, {0, 1})).one()), (std::vector<int64_t>{14, 14}));
}

// x by weights of 8 bits as onnxruntime's dynamic quantization writes it, and its table of rows.
TEST(QuantizedPasses, IntegerProductsBecomeLinears) {
  Graph graph;
  graph.origin = "test.onnx";
  const ValueId ids = graph.add_value("ids", DType::i64);
  graph.io.input_ids = ids;
  graph.inputs = {ids};
  const auto node = [&](const char* op, std::vector<ValueId> inputs, size_t outputs = 1) {
    Node made{op, "", op, std::move(inputs), {}, {}};
    for (size_t i = 0; i < outputs; ++i) made.outputs.push_back(graph.add_value(op));
    graph.nodes.push_back(made);
    return made.outputs;
  };
  const auto scalar = [&](float value) {
    return graph.add_constant("scale", graph::make_f32({}, {value}));
  };
  const ValueId table =
      graph.add_constant("table", byte_tensor(DType::u8, {3, 2}, {130, 128, 126, 127, 128, 133}));
  const ValueId middle = graph.add_constant("zero", byte_tensor(DType::u8, {}, {128}));
  const ValueId rows = node("Gather", {table, ids})[0];
  const ValueId x = node("DequantizeLinear", {rows, scalar(0.5F), middle})[0];
  const auto q = node("DynamicQuantizeLinear", {x}, 3);
  const ValueId weight = graph.add_constant("w", byte_tensor(DType::i8, {2, 2}, {1, 254, 3, 4}));
  const ValueId zeros = graph.add_constant("wz", byte_tensor(DType::i8, {2}, {0, 0}));
  const ValueId product = node("MatMulInteger", {q[0], weight, q[2], zeros})[0];
  const ValueId real = node("Cast", {product})[0];
  graph.nodes.back().attributes["to"] = int64_t{1};
  const ValueId scales = graph.add_constant("ws", graph::make_f32({2}, {2, 10}));
  const ValueId y = node("Mul", {real, node("Mul", {q[1], scales})[0]})[0];
  graph.io.logits = y;
  graph.outputs = {y};
  graph::fold_constants(graph);
  EXPECT_EQ(graph::form_linears(graph), 1);
  EXPECT_EQ(graph::form_embeddings(graph), 1);
  graph::eliminate_dead(graph);
  ASSERT_EQ(graph.nodes.size(), 2U) << graph::to_text(graph);
  EXPECT_TRUE(graph.nodes[0].is("Embedding", "nibble"));
  EXPECT_TRUE(graph.nodes[1].is("Linear", "nibble"));
  // Row 2 is (0, 2.5).
  const auto out = graph::Interpreter(graph).run_one({{ids, ints({1, 1}, {2})}}, y);
  EXPECT_EQ(values_f(out), (F{15, 100}));
}

TEST(QuantizedPasses, MatMulNBitsBecomesALinear) {
  Graph graph = nbits_graph({});
  EXPECT_EQ(graph::form_linears(graph), 1);
  EXPECT_TRUE(graph.nodes[0].is("Linear", "nibble"));
}

}  // namespace
}  // namespace nibble::test
