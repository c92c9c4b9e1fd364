// An export for one length, freed, is at any length the export for that length.
#include "graph/free_length.h"

#include <gtest/gtest.h>

#include "graph/interpreted_decoder.h"
#include "graph/interpreter.h"
#include "jit/error.h"
#include "tests/graph/pass_fixture.h"

namespace nibble::test {
namespace {

using namespace graph;

constexpr int64_t kVocabulary = 11, kWidth = 8, kHeads = 2, kDim = 4, kPositions = 16;

// How an export writes what depends on its length.
struct ExportForm {
  bool position_table = false;  // rows of a table instead of an index into it
  int64_t window = 0;
  bool selects = false;       // a boolean mask that selects, instead of numbers that are added
  bool future = false;        // beside a window that hides no later positions
  bool flat = false;          // linears over [n, width]
  bool expands_mask = false;  // from [n, n] by Expand
};

class Export {
 public:
  Export(int64_t n, const ExportForm& form) : n_(n), form_(form) {
    values(maker_.graph.io.input_ids).shape = Shape{1, n};
  }

  Graph build() {
    ValueId x = maker_.embedding(kVocabulary, kWidth);
    x = maker_.node("Add", "h", {x, positions()});
    const ValueId q = heads(x, "q"), k = heads(x, "k"), v = heads(x, "v");
    const ValueId turned = maker_.node("Transpose", "kt", {k}, perm({0, 1, 3, 2}));
    const ValueId scores = masked(maker_.node("MatMul", "s", {q, turned}));
    const ValueId shares = maker_.node("Softmax", "p", {scores}, {{"axis", int64_t{-1}}});
    ValueId out = maker_.node("MatMul", "o", {shares, v});
    out = maker_.node("Transpose", "ot", {out}, perm({0, 2, 1, 3}));
    out = maker_.node("Reshape", "or", {out, maker_.ints("or_shape", {1, n_, kWidth})});
    return maker_.finish(maker_.node("MatMul", "logits", {out, maker_.matrix("w", kWidth, 5)}));
  }

  GraphMaker& maker() { return maker_; }

 private:
  Value& values(ValueId id) { return maker_.graph.values[static_cast<size_t>(id)]; }
  static std::map<std::string, Attribute> perm(std::vector<int64_t> order) {
    return {{"perm", std::move(order)}};
  }

  ValueId positions() {
    if (form_.position_table) {
      std::vector<float> rows(static_cast<size_t>(n_ * kWidth));
      for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i % 17) / 17.0F;
      return maker_.constant("rows", {1, n_, kWidth}, std::move(rows));
    }
    std::vector<int64_t> index(static_cast<size_t>(n_));
    for (int64_t i = 0; i < n_; ++i) index[static_cast<size_t>(i)] = i;
    const ValueId ids = maker_.graph.add_constant("index", make_i64({1, n_}, std::move(index)));
    return maker_.node("Gather", "at", {maker_.matrix("positions", kPositions, kWidth), ids});
  }

  ValueId heads(ValueId x, const std::string& name) {
    const ValueId weight = maker_.matrix("w" + name, kWidth, kWidth);
    if (form_.flat) {
      x = maker_.node("Reshape", name + "f", {x, maker_.ints(name + "f_shape", {n_, kWidth})});
    }
    const ValueId made = maker_.node("MatMul", name + "m", {x, weight});
    const ValueId split = maker_.node("Reshape", name + "r",
                                      {made, maker_.ints(name + "_shape", {1, n_, kHeads, kDim})});
    return maker_.node("Transpose", name, {split}, perm({0, 2, 1, 3}));
  }

  ValueId masked(ValueId scores) {
    std::vector<float> added;
    for (int64_t row = 0; row < n_; ++row) {
      for (int64_t column = 0; column < n_; ++column) {
        const bool seen = column <= row && (form_.window == 0 || row - column < form_.window);
        added.push_back(seen ? 0.0F : -1e9F);
      }
    }
    if (form_.selects) {
      const ValueId mask = maker_.constant("mask", {1, 1, n_, n_}, std::move(added));
      const ValueId seen = maker_.node("Equal", "seen", {mask, maker_.scalar("zero", 0)});
      return maker_.node("Where", "masked", {seen, scores, maker_.scalar("low", -1e9F)});
    }
    if (form_.future) {
      std::vector<float> near;
      for (int64_t i = 0; i < n_ * n_; ++i) near.push_back(i / n_ - i % n_ < 3 ? 0.0F : -1e9F);
      scores = maker_.node("Add", "near", {scores, maker_.constant("near_mask", {n_, n_}, near)});
    }
    ValueId mask = maker_.constant("mask", {n_, n_}, std::move(added));
    if (form_.expands_mask) {
      mask = maker_.node("Expand", "wide", {mask, maker_.ints("wide_shape", {1, 1, n_, n_})});
    }
    return maker_.node("Add", "masked", {scores, mask});
  }

  int64_t n_;
  ExportForm form_;
  GraphMaker maker_;
};

std::vector<float> logits(const Graph& graph, int64_t tokens) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < tokens; ++i) ids.push_back((i * 7 + 3) % kVocabulary);
  const Interpreter interpreter(graph);
  const Array out =
      interpreter.run_one({{graph.io.input_ids, Array::of({1, tokens}, ids)}}, graph.io.logits);
  EXPECT_EQ(out.shape, (Shape{1, tokens, 5}));
  return {out.floats().begin(), out.floats().end()};
}

std::string last_reason;

int free_places(Graph& graph) {
  FusionReport report;
  const int places = free_length(graph, report);
  EXPECT_EQ(report.entries.size(), places == 0 && fixed_length(graph) > 3 ? 1U : 0U);
  for (const FusionEntry& entry : report.entries) {
    EXPECT_EQ(entry.what, "length");
    EXPECT_NE(entry.detail.find("exported for"), std::string::npos) << entry.detail;
    last_reason = entry.node + ": " + entry.detail;
  }
  return places;
}

void expect_free(const ExportForm& form, int64_t longest = kPositions) {
  // 4 and 8 are sizes of heads and hidden states too.
  for (const int64_t n : {5, 4, 8, 12}) {
    Graph graph = Export(n, form).build();
    EXPECT_EQ(fixed_length(graph), n);
    ASSERT_GT(free_places(graph), 0) << n << " " << last_reason;
    verify(graph);
    EXPECT_EQ(fixed_length(graph), 0);
    for (const int64_t tokens : {int64_t{1}, int64_t{3}, n, int64_t{6}, kPositions}) {
      if (tokens > std::min(longest, form.position_table ? n : kPositions)) continue;
      SCOPED_TRACE(testing::Message() << n << " freed for " << tokens);
      EXPECT_EQ(logits(graph, tokens), logits(Export(tokens, form).build(), tokens));
    }
  }
}

TEST(FreeLength, AnyLengthIsTheExportOfThatLength) {
  expect_free({});
  expect_free({.window = 3});
  expect_free({.selects = true});
  expect_free({.window = 2, .selects = true});
  expect_free({.future = true});
  expect_free({.flat = true});
  expect_free({.expands_mask = true});
}

TEST(FreeLength, ATableOfNPositionsServesNoMore) {
  expect_free({.position_table = true});
  Graph graph = Export(5, {.position_table = true}).build();
  ASSERT_GT(free_places(graph), 0);
  EXPECT_EQ(graph.context_length, 5);
  graph = Export(5, {}).build();
  ASSERT_GT(free_places(graph), 0);
  EXPECT_EQ(graph.context_length, 0);
}

void expect_kept(Graph graph) {
  const std::string before = to_text(graph);
  EXPECT_EQ(free_places(graph), 0);
  EXPECT_EQ(to_text(graph), before);
}

// `change` makes other logits of those of an export for 5 ids.
template <typename Change>
Graph changed(const Change& change) {
  Export one(5, {});
  Graph graph = one.build();
  GraphMaker maker;
  maker.graph = std::move(graph);
  maker.graph.io.logits = change(maker, maker.graph.io.logits);
  maker.graph.outputs = {maker.graph.io.logits};
  verify(maker.graph);
  return maker.graph;
}

TEST(FreeLength, WhatDependsOnTheLengthInAnotherWayIsLeft) {
  // The last token by its number, which is no number of another length.
  expect_kept(changed([](GraphMaker& m, ValueId x) {
    return m.node("Gather", "last", {x, m.ints("four", {4})}, {{"axis", int64_t{1}}});
  }));
  // All tokens but the last.
  expect_kept(changed([](GraphMaker& m, ValueId x) {
    return m.node("Slice", "most", {x, m.ints("begin", {0}), m.ints("end", {4}), m.ints("a", {1})});
  }));
  // Numbers of each pair of positions that are no mask.
  expect_kept(changed([](GraphMaker& m, ValueId x) {
    std::vector<float> bias;
    for (int i = 0; i < 25; ++i) bias.push_back(static_cast<float>(i * i % 7));
    const ValueId pairs = m.constant("bias", {1, 5, 5}, std::move(bias));
    return m.node("MatMul", "mixed", {pairs, x});
  }));
  // No row of logits a token.
  expect_kept(changed([](GraphMaker& m, ValueId x) {
    const ValueId turned =
        m.node("Transpose", "turned", {x}, {{"perm", std::vector<int64_t>{0, 2, 1}}});
    return m.node("Reshape", "again", {turned, m.ints("again_shape", {1, 5, 5})});
  }));
  // The length as a number among integers.
  expect_kept(changed([](GraphMaker& m, ValueId x) {
    const ValueId ids = m.node(
        "Add", "moved", {m.graph.io.input_ids, m.graph.add_constant("n", make_i64({}, {5}))});
    const ValueId reals = m.node("Cast", "reals", {ids}, {{"to", int64_t{1}}});
    const ValueId column = m.node("Unsqueeze", "column", {reals, m.ints("two", {2})});
    return m.node("Add", "sum", {x, column});
  }));
}

TEST(FreeLength, OperandsThatDoNotFitAreLeft) {
  const auto slice = [](std::vector<int64_t> ends, int64_t axis) {
    return changed([ends, axis](GraphMaker& m, ValueId x) {
      return m.node("Slice", "part",
                    {x, m.ints("begin", {0}), m.ints("end", ends), m.ints("a", {axis})});
    });
  };
  expect_kept(slice({5, 5}, 1));
  expect_kept(slice({5}, 7));
  expect_kept(changed([](GraphMaker& m, ValueId x) {
    return m.node("Gather", "last", {x, m.ints("zero", {0})}, {{"axis", int64_t{-4}}});
  }));
}

TEST(FreeLength, DynamicExportsAndShortOnesAreLeft) {
  Graph graph = Export(2, {}).build();
  EXPECT_EQ(free_places(graph), 0);
  graph = Export(5, {}).build();
  graph.values[static_cast<size_t>(graph.io.input_ids)].shape = Shape{1, -1};
  EXPECT_EQ(fixed_length(graph), 0);
  EXPECT_EQ(free_places(graph), 0);
}

TEST(FreeLength, WhatIsNotFreedRunsAtItsLengthAlone) {
  Graph graph = Export(5, {}).build();
  graph.values[static_cast<size_t>(graph.io.logits)].shape = Shape{1, 5, 5};
  InterpretedDecoder decoder(std::make_shared<const Graph>(graph), 0);
  const std::vector<int32_t> ids = {1, 2, 3, 4, 0};
  EXPECT_EQ(decoder.forward(ids).size(), 5U);
  try {
    decoder.forward(std::vector<int32_t>{1});
    FAIL() << "a sixth id";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("exported for 5 tokens at a time"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace nibble::test
