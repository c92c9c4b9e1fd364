#include "quant/blocks/block_logits.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "graph/ops.h"
#include "jit/error.h"
#include "quant/blocks/block_split.h"
#include "quant/blocks/linear_node.h"
#include "quant/blocks/node_forward.h"

namespace nibble::quant {
namespace {

constexpr int64_t kLogitsBytes = int64_t{256} << 20;  // of a batch, at most

// Columns of the Linear that makes the logits, which is the last.
int64_t vocabulary(const graph::Graph& graph) {
  for (size_t at = graph.nodes.size(); at-- > 0;) {
    const graph::Node& node = graph.nodes[at];
    if (node.is("Linear", graph::kNibbleDomain)) return read_linear(graph, node).columns;
  }
  fail("{}: no Linear makes the logits.", graph.origin);
}

// Windows of equal length, in the order of the text: all but the last are.
struct Windows {
  int64_t length = 0;
  std::vector<int32_t> ids;
  std::vector<int64_t> first_scored;  // row of each window
  int64_t count() const { return static_cast<int64_t>(first_scored.size()); }
  Batch batch() const { return {count(), length, ids}; }
};

std::vector<Windows> feed_windows(std::span<const int32_t> ids, const Protocol& protocol) {
  std::vector<Windows> groups;
  for (const Window& window : plan_windows(static_cast<int64_t>(ids.size()), protocol)) {
    if (groups.empty() || groups.back().length != window.rows) {
      groups.push_back({.length = window.rows, .ids = {}, .first_scored = {}});
    }
    Windows& group = groups.back();
    const std::vector<int32_t> fed = fed_ids(ids, protocol, window);
    group.ids.insert(group.ids.end(), fed.begin(), fed.end());
    group.first_scored.push_back(window.first_scored);
  }
  return groups;
}

// Rows [begin, end) of each activation.
Activations rows_of(const Activations& values, int64_t begin, int64_t end) {
  Activations part;
  for (const auto& [id, activation] : values) {
    Activation rows{.width = activation->width, .data = {}};
    rows.data.assign(activation->data.begin() + begin * activation->width,
                     activation->data.begin() + end * activation->width);
    part.emplace(id, std::make_shared<const Activation>(std::move(rows)));
  }
  return part;
}

// The tail, as many windows at a time as their logits have room.
void add_logits(const graph::Graph& graph, const Block& tail, const Windows& windows,
                const Activations& values, const NodeForward& forward, BaseScores& scores,
                const Steps& steps) {
  const int64_t row_bytes = scores.vocabulary() * static_cast<int64_t>(sizeof(float));
  const int64_t step = std::max<int64_t>(1, kLogitsBytes / (row_bytes * windows.length));
  for (int64_t begin = 0; begin < windows.count(); begin += step) {
    const int64_t end = std::min(windows.count(), begin + step);
    const int64_t length = windows.length;
    Activations part = rows_of(values, begin * length, end * length);
    const std::span<const int32_t> ids(windows.ids);
    forward.run(tail,
                {.sequences = end - begin,
                 .length = length,
                 .ids = ids.subspan(static_cast<size_t>(begin * length),
                                    static_cast<size_t>((end - begin) * length))},
                part, {}, Keep::outputs, steps);
    const Activation& logits = *part.at(graph.io.logits);
    for (int64_t w = begin; w < end; ++w) {
      for (int64_t row = windows.first_scored[static_cast<size_t>(w)]; row < length; ++row) {
        const float* first = logits.data.data() + ((w - begin) * length + row) * logits.width;
        scores.add_row({first, static_cast<size_t>(logits.width)});
      }
    }
  }
}

}  // namespace

BaseScores block_logits(const graph::Graph& graph, std::span<const int32_t> ids,
                        const Protocol& protocol, runtime::ThreadPool& pool,
                        const std::function<void(int64_t, int64_t)>& progress) {
  const std::vector<Block> blocks = split_blocks(graph);
  const NodeForward forward(graph, pool);
  const std::vector<Windows> groups = feed_windows(ids, protocol);
  const auto total = static_cast<int64_t>(graph.nodes.size() * groups.size());
  int64_t done = 0;
  BaseScores scores(ids, protocol, vocabulary(graph));
  for (const Windows& windows : groups) {
    Activations values;
    for (size_t b = 0; b + 1 < blocks.size(); ++b) {
      const auto nodes = static_cast<int64_t>(blocks[b].end_node - blocks[b].first_node);
      Steps steps;
      if (progress) {
        steps = [&](double share) {
          progress(done + static_cast<int64_t>(share * static_cast<double>(nodes)), total);
        };
      }
      forward.run(blocks[b], windows.batch(), values, {}, Keep::outputs, steps);
      done += nodes;
    }
    Steps steps;
    if (progress) steps = [&](double) { progress(done, total); };
    add_logits(graph, blocks.back(), windows, values, forward, scores, steps);
    done += static_cast<int64_t>(blocks.back().end_node - blocks.back().first_node);
  }
  if (progress) progress(total, total);
  return scores;
}

}  // namespace nibble::quant
