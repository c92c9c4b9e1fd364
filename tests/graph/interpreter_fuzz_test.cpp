// Every operator of the interpreter on operands that no sane model would give it: each call must
// end in well-formed arrays or in an Error. The sanitizers see the rest.
#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <string>

#include "graph/interpreter_ops.h"
#include "jit/error.h"
#include "tests/graph/one_node.h"

namespace nibble::test {
namespace {

using graph::Array;
using graph::Shape;

class Fuzzer {
 public:
  explicit Fuzzer(uint32_t seed) : random_(seed) {}

  int64_t pick(std::initializer_list<int64_t> choices) {
    return *(choices.begin() + below(static_cast<int64_t>(choices.size())));
  }
  int64_t below(int64_t limit) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(limit));
  }

  // Mostly small numbers, as axes and dimensions are, and the extremes.
  int64_t integer() {
    if (below(12) != 0) return below(7) - 2;
    return pick({std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min(),
                 int64_t{1} << 40, -(int64_t{1} << 40), 99, -99});
  }

  // Arrays of a call are of one kind and one shape more often than not, else few would fit.
  Array array() {
    if (below(3) == 0) shape_ = random_shape();
    if (below(4) == 0) kind_ = below(5);
    const bool list = below(4) == 0;  // axes, starts, repeats: few integers in a row
    const Shape shape = list ? Shape{below(3)} : shape_;
    const auto count = static_cast<size_t>(graph::element_count(shape));
    if (kind_ < 3 && !list) {
      std::vector<float> values(count);
      for (float& value : values) value = number();
      return floats(shape, values);
    }
    std::vector<int64_t> values(count);
    for (int64_t& value : values) value = integer();
    return kind_ == 4 && !list ? bools(shape, values) : ints(shape, values);
  }

  void attributes(OneNode& node) {
    for (const char* key :
         {"axis",        "keepdims",  "to",          "start",          "end",
          "batch_dims",  "allowzero", "num_outputs", "exclusive",      "reverse",
          "upper",       "fmod",      "transA",      "transB",         "noop_with_empty_axes",
          "heads",       "kv_heads",  "head_dim",    "rotary",         "window",
          "interleaved", "gate",      "columns",     "position_offset"}) {
      if (below(3) == 0) node.attr(key, integer());
    }
    for (const char* key : {"axes", "perm", "split", "value_ints"}) {
      if (below(3) == 0) node.attr(key, std::vector<int64_t>{integer(), integer()});
    }
    for (const char* key : {"epsilon", "alpha", "scale", "softcap", "norm_epsilon", "limit"}) {
      if (below(2) == 0) node.attr(key, number());
    }
    if (below(3) == 0) node.attr("activation", text({"Relu", "Tanh", "relu", "silu", "Elu"}));
    if (below(2) == 0) {
      node.attr("equation", text({"ij,jk->ik", "i,i->", "ij->ji", "ii", "i,j", "bij,bjk", ",->"}));
    }
    if (below(4) == 0) node.attr("value", graph::make_i64({1}, {integer()}));
    if (below(9) == 0) node.attr("axis", 1.0F);  // of the wrong type
  }

 private:
  std::string text(std::initializer_list<const char*> choices) {
    return *(choices.begin() + below(static_cast<int64_t>(choices.size())));
  }

  float number() {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    if (below(8) != 0) return static_cast<float>(below(9)) / 2 - 2;
    return below(2) != 0 ? kInf : std::numeric_limits<float>::quiet_NaN();
  }

  Shape random_shape() {
    Shape shape;
    for (int64_t rank = below(4); rank > 0; --rank) shape.push_back(pick({0, 1, 1, 2, 2, 3, 4}));
    return shape;
  }

  std::mt19937_64 random_;
  Shape shape_;
  int64_t kind_ = 0;  // 0 to 2: floats, 3: integers, 4: booleans
};

void check(const Array& x, const std::string& op) {
  const auto count = static_cast<size_t>(graph::element_count(x.shape));
  if (x.kind == Array::Kind::f32) {
    ASSERT_NE(x.f, nullptr) << op;
    ASSERT_EQ(x.f->size(), count) << op;
  } else {
    ASSERT_NE(x.i, nullptr) << op;
    ASSERT_EQ(x.i->size(), count) << op;
  }
}

TEST(InterpreterFuzz, EveryOperatorAnswersOrRefuses) {
  constexpr int kRounds = 1000;
  for (const auto& topic :
       {graph::elementwise_ops(), graph::shape_ops(), graph::gather_ops(), graph::reduce_ops(),
        graph::matmul_ops(), graph::einsum_ops(), graph::nibble_ops()}) {
    for (const graph::OpEntry& entry : topic) {
      const std::string op(entry.name);
      Fuzzer fuzzer(17);
      int answers = 0;
      for (int round = 0; round < kRounds; ++round) {
        OneNode node(op, std::string(entry.domain));
        for (int64_t i = fuzzer.below(6); i > 0; --i) {
          if (fuzzer.below(10) == 0) {
            node.absent();
          } else {
            node.in(fuzzer.array());
          }
        }
        fuzzer.attributes(node);
        try {
          for (const Array& result : node.run(static_cast<size_t>(fuzzer.below(5) == 0 ? 2 : 1))) {
            check(result, op);
          }
          ++answers;
        } catch (const Error& error) {
          EXPECT_NE(std::string(error.what()).find("the_node"), std::string::npos) << error.what();
        }
      }
      // It would be no test if nearly everything were refused at the door. Weight matrices, which
      // Linear needs, are not among the operands; heads that fit Attention and HeadNorm are too
      // rare.
      if (op != "Linear" && op != "Attention" && op != "HeadNorm") {
        EXPECT_GT(answers, 0) << op;
      }
    }
  }
}

}  // namespace
}  // namespace nibble::test
