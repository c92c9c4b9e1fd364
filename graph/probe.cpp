#include "graph/probe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "jit/error.h"

namespace nibble::graph {

int64_t prefix_positions(const Graph& graph) {
  constexpr int64_t kLongestPrefix = 1024;  // a probe computes the scores of all pairs of positions
  return graph.context_length > 1 ? std::min(graph.context_length, kLongestPrefix) : kLongestPrefix;
}

int64_t furthest_position(const Graph& graph) {
  constexpr int64_t kUnknownContext = 4096;
  constexpr int64_t kFurthest = int64_t{1} << 20;
  if (is_prefix_form(graph)) return prefix_positions(graph) - 1;
  return std::min(kFurthest, graph.context_length > 1 ? graph.context_length : kUnknownContext) - 1;
}

Shape cache_shape(const Graph& graph, ValueId past_input, int64_t past) {
  const Value& value = graph.values[static_cast<size_t>(past_input)];
  Shape shape = value.shape.value_or(Shape{1, 1, -1, 1});
  // The first symbolic dimension is the batch, the last one the positions.
  int64_t last = -1;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0) last = static_cast<int64_t>(i);
  }
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0) shape[i] = static_cast<int64_t>(i) == last ? past : 1;
  }
  return shape;
}

InterpreterLimits probe_limits(const Graph& graph) {
  // A quarter of the bytes and a hundredth of the work are enough for every model of the zoo.
  constexpr int64_t kBytes = int64_t{36} << 20, kWork = int64_t{1} << 31;
  constexpr int64_t kWorkPerByte = 1 << 8;
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / kWorkPerByte / 4;
  int64_t bytes = 0;
  for (const Value& value : graph.values) {
    if (!value.constant) continue;
    if (const auto* tensor = std::get_if<TensorData>(&*value.constant)) {
      bytes += static_cast<int64_t>(tensor->bytes);
    } else if (const auto* source = std::get_if<MatrixSource>(&*value.constant)) {
      const int64_t k = std::max<int64_t>(1, source->k);
      bytes += std::min(source->n, kMost / k) * k / 2;  // at 4 bits each
    }
    bytes = std::min(bytes, kMost);
  }
  return {kBytes + 2 * bytes, kWork + kWorkPerByte * bytes};
}

namespace {

// Caches are fed alike: layers of one shape share one array.
class Zeros {
 public:
  explicit Zeros(const Graph& graph)
      : left_(probe_limits(graph).bytes / static_cast<int64_t>(sizeof(float)) / 4) {}

  const Array& of(const Shape& shape) {
    Array& array = arrays_[shape];
    if (array.f != nullptr) return array;
    const int64_t count = element_count(shape);
    if (count > left_) {
      fail("A cache of shape {} is larger than what may be used to find out what this computes.",
           to_string(shape));
    }
    left_ -= count;
    return array = Array::of(shape, std::vector<float>(static_cast<size_t>(count), 0.0F));
  }

 private:
  int64_t left_;  // elements
  std::map<Shape, Array> arrays_;
};

// What appends to a cache cannot run on a thin one; where shapes alone matter its result is thin
// too.
void feed_thin_concatenations(const Graph& graph, const ProbeCall& call, Zeros& zeros,
                              Feeds& feeds) {
  for (const Node& node : graph.nodes) {
    if (!node.is("Concat") || node.inputs.size() != 2) continue;
    const auto cache = feeds.find(node.inputs[0]);
    if (cache == feeds.end() || node.inputs[0] == graph.io.attention_mask) continue;
    Shape shape = cache->second.shape;
    const int64_t axis = node.get_int("axis", 0);
    const auto rank = static_cast<int64_t>(shape.size());
    if (axis < -rank || axis >= rank) continue;
    shape[static_cast<size_t>(axis < 0 ? axis + rank : axis)] += call.tokens;
    feeds[node.outputs[0]] = zeros.of(shape);
  }
}

}  // namespace

bool is_prefix_form(const Graph& graph) { return graph.io.layers.empty(); }

int64_t rows_of_call(const Graph& graph, const ProbeCall& call) {
  return is_prefix_form(graph) ? call.past + call.tokens : call.tokens;
}

int64_t first_position(const Graph& graph, const ProbeCall& call) {
  return is_prefix_form(graph) ? 0 : call.past;
}

Array ones_like(const Graph& graph, ValueId id, int64_t length) {
  const DType dtype = graph.values[static_cast<size_t>(id)].dtype;
  const auto count = static_cast<size_t>(length);
  if (dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16) {
    return Array::of({1, length}, std::vector<float>(count, 1.0F));
  }
  std::vector<int64_t> values(count, 1);
  return dtype == DType::boolean ? Array::of_bool({1, length}, std::move(values))
                                 : Array::of({1, length}, std::move(values));
}

Feeds decoder_feeds(const Graph& graph, const ProbeCall& call) {
  Feeds feeds;
  Zeros zeros(graph);
  const int64_t rows = rows_of_call(graph, call);
  const auto tokens = static_cast<size_t>(rows);
  feeds[graph.io.input_ids] = Array::of({1, rows}, std::vector<int64_t>(tokens, 0));
  if (graph.io.attention_mask != kNoValue) {
    feeds[graph.io.attention_mask] =
        ones_like(graph, graph.io.attention_mask, call.past + call.tokens);
  }
  if (graph.io.position_ids != kNoValue) {
    std::vector<int64_t> positions(tokens);
    std::iota(positions.begin(), positions.end(), first_position(graph, call));
    feeds[graph.io.position_ids] = Array::of({1, rows}, std::move(positions));
  }
  for (const LayerCache& layer : graph.io.layers) {
    for (ValueId id : {layer.past_key, layer.past_value}) {
      if (id == kNoValue) continue;
      Shape shape = cache_shape(graph, id, call.past);
      if (call.thin_cache) {
        const Shape declared = graph.values[static_cast<size_t>(id)].shape.value_or(shape);
        for (size_t i = 0; i < shape.size(); ++i) {
          if (declared[i] >= 0) shape[i] = 1;
        }
      }
      feeds[id] = zeros.of(shape);
    }
  }
  if (call.thin_cache) feed_thin_concatenations(graph, call, zeros, feeds);
  return feeds;
}

Slice backward_slice(const Graph& graph, std::span<const ValueId> wanted,
                     const std::vector<bool>& stop) {
  const std::vector<int32_t> made_by = producers(graph);
  std::vector<bool> seen(graph.values.size(), false);
  std::vector<bool> taken(graph.nodes.size(), false);
  std::vector<ValueId> queue(wanted.begin(), wanted.end());
  Slice slice;
  while (!queue.empty()) {
    const ValueId id = queue.back();
    queue.pop_back();
    if (id == kNoValue || seen[static_cast<size_t>(id)]) continue;
    seen[static_cast<size_t>(id)] = true;
    if (stop[static_cast<size_t>(id)]) {
      slice.frontier.push_back(id);
      continue;
    }
    const int32_t maker = made_by[static_cast<size_t>(id)];
    if (maker < 0) {
      if (!graph.values[static_cast<size_t>(id)].constant) slice.graph_inputs.push_back(id);
      continue;
    }
    if (taken[static_cast<size_t>(maker)]) continue;
    taken[static_cast<size_t>(maker)] = true;
    const Node& node = graph.nodes[static_cast<size_t>(maker)];
    queue.insert(queue.end(), node.inputs.begin(), node.inputs.end());
  }
  for (size_t i = 0; i < taken.size(); ++i) {
    if (taken[i]) slice.nodes.push_back(static_cast<int32_t>(i));
  }
  std::sort(slice.frontier.begin(), slice.frontier.end());
  std::sort(slice.graph_inputs.begin(), slice.graph_inputs.end());
  return slice;
}

double relative_difference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0, largest = 1e-6;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, difference);
    largest = std::max(largest, std::fabs(static_cast<double>(b[i])));
  }
  return worst / largest;
}

std::vector<float> probe_values(size_t count, uint32_t seed) {
  std::vector<float> values(count);
  uint32_t state = seed * 2654435761U + 12345U;
  for (float& value : values) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(static_cast<int32_t>(state) >> 8) / static_cast<float>(1 << 23);
  }
  return values;
}

}  // namespace nibble::graph
