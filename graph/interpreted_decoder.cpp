#include "graph/interpreted_decoder.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "graph/free_length.h"
#include "graph/ops.h"
#include "graph/probe.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

// Fused attention keeps its cache out of sight, and so do embeddings their position. Here both
// become inputs: a graph whose layers fused only in part decodes with one kind of cache.
std::shared_ptr<const Graph> with_explicit_caches(std::shared_ptr<const Graph> graph) {
  const auto hides_state = [](const Node& node) {
    return node.is("Attention", kNibbleDomain) ||
           (node.is("Embedding", kNibbleDomain) && node.input(2) != kNoValue);
  };
  if (std::none_of(graph->nodes.begin(), graph->nodes.end(), hides_state)) return graph;
  auto copy = std::make_shared<Graph>(*graph);
  const auto add_input = [&](const std::string& name, DType dtype, Shape shape) {
    const ValueId id = copy->add_value(name, dtype);
    copy->values.back().shape = std::move(shape);
    copy->inputs.push_back(id);
    return id;
  };
  ValueId position = kNoValue;
  for (Node& node : copy->nodes) {
    if (!hides_state(node)) continue;
    if (node.op == "Embedding") {
      if (position == kNoValue) position = add_input("nibble.position", DType::i64, {});
      node.inputs.resize(3, kNoValue);
      node.inputs.push_back(position);
      continue;
    }
    const Shape shape{-1, node.get_int("kv_heads"), -1, node.get_int("head_dim")};
    LayerCache cache;
    cache.past_key = add_input(node.name + ".past_key", DType::f32, shape);
    cache.past_value = add_input(node.name + ".past_value", DType::f32, shape);
    cache.present_key = copy->add_value(node.name + ".present_key");
    cache.present_value = copy->add_value(node.name + ".present_value");
    node.inputs.resize(5, kNoValue);
    node.inputs.insert(node.inputs.end(), {cache.past_key, cache.past_value});
    node.outputs.resize(1);
    node.outputs.insert(node.outputs.end(), {cache.present_key, cache.present_value});
    copy->io.layers.push_back(cache);
  }
  return copy;
}

// The cache before the first token: one sequence of no positions.
Array empty_cache(const Graph& graph, ValueId id) {
  const auto& declared = graph.values[static_cast<size_t>(id)].shape;
  Shape shape = declared.value_or(Shape{});
  int64_t unknown = 0;
  for (size_t d = 1; d < shape.size(); ++d) {
    if (shape[d] >= 0) continue;
    shape[d] = 0;
    ++unknown;
  }
  if (shape.size() < 3 || unknown != 1 || shape[0] > 1) {
    fail(
        "The cache input \"{}\" of {} is declared as {}, not as one sequence (or any number) with "
        "one unknown dimension for the positions.",
        graph.value_name(id), graph.origin, declared ? to_string(*declared) : "of unknown shape");
  }
  shape[0] = 1;
  return Array::of(std::move(shape), std::vector<float>{});
}

Array row_of(std::vector<int64_t> values) {
  const auto length = static_cast<int64_t>(values.size());
  return Array::of({1, length}, std::move(values));
}

// Values that every step computes: the logits, then the caches of the layers in order.
std::vector<ValueId> wanted_values(const Graph& graph) {
  std::vector<ValueId> wanted{graph.io.logits};
  for (const LayerCache& layer : graph.io.layers) {
    if (layer.past_key == kNoValue) continue;  // fused: its attention has a cache of its own
    wanted.push_back(layer.present_key);
    wanted.push_back(layer.present_value);
  }
  return wanted;
}

void check_operators(const Graph& graph, const std::vector<ValueId>& wanted) {
  std::vector<bool> needed(graph.values.size());
  for (const ValueId id : wanted) needed.at(static_cast<size_t>(id)) = true;
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    const Node& node = graph.nodes[i];
    if (std::none_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) {
          return id != kNoValue && needed.at(static_cast<size_t>(id));
        })) {
      continue;
    }
    if (!interpreter_knows(node)) {
      fail("Node \"{}\" of {} is a \"{}{}{}\", an operator that is not supported.", node.name,
           graph.origin, node.domain, node.domain.empty() ? "" : ".", node.op);
    }
    for (const ValueId id : node.inputs) {
      if (id != kNoValue) needed.at(static_cast<size_t>(id)) = true;
    }
  }
}

int64_t declared_vocabulary(const Graph& graph) {
  const auto& shape = graph.values[static_cast<size_t>(graph.io.logits)].shape;
  return shape && !shape->empty() ? shape->back() : -1;
}

}  // namespace

InterpretedDecoder::InterpretedDecoder(std::shared_ptr<const Graph> graph, int64_t context)
    : graph_(with_explicit_caches(std::move(graph))), interpreter_(*graph_) {
  const DecoderIo& io = graph_->io;
  if (io.input_ids == kNoValue || io.logits == kNoValue) {
    fail("The graph of {} has no {}, so it is no decoder.", graph_->origin,
         io.input_ids == kNoValue ? "input_ids" : "logits");
  }
  const std::vector<ValueId> wanted = wanted_values(*graph_);
  prefix_form_ = wanted.size() == 1;
  for (const LayerCache& layer : io.layers) {
    if (layer.past_key == kNoValue) continue;
    if (layer.past_value == kNoValue || layer.present_key == kNoValue ||
        layer.present_value == kNoValue) {
      fail("The layer of \"{}\" in {} lacks one of its cache tensors.",
           graph_->value_name(layer.past_key), graph_->origin);
    }
  }
  check_operators(*graph_, wanted);
  context_length_ = context > 0 ? context : graph_->context_length;
  // Without a known limit only the positions' type bounds the context.
  if (context_length_ <= 0) context_length_ = std::numeric_limits<int32_t>::max();
  reset();
  vocab_size_ = declared_vocabulary(*graph_);
  if (vocab_size_ < 0) {
    const int32_t any = 0;
    vocab_size_ = step(std::span(&any, 1)).shape.back();
    reset();
  }
}

void InterpretedDecoder::reset() {
  position_ = 0;
  history_.clear();
  cache_.clear();
  for (const LayerCache& layer : graph_->io.layers) {
    if (layer.past_key == kNoValue) continue;
    cache_[layer.past_key] = empty_cache(*graph_, layer.past_key);
    cache_[layer.past_value] = empty_cache(*graph_, layer.past_value);
  }
}

// Appends the ids and returns the logits of every token that was computed, those of the ids last;
// an Error leaves the cache as it was.
Array InterpretedDecoder::step(std::span<const int32_t> ids) {
  const DecoderIo& io = graph_->io;
  const auto added = static_cast<int64_t>(ids.size());
  Feeds feeds = cache_;
  std::vector<int32_t> all = history_;  // empty where there is a cache
  all.insert(all.end(), ids.begin(), ids.end());
  const auto count = static_cast<int64_t>(all.size());
  if (const int64_t only = fixed_length(*graph_); only > 0 && count != only) {
    fail(
        "{} was exported for {} tokens at a time, no more and no less, in a way that could not be "
        "made to fit any other number, but there are {}. Export it with a dynamic sequence length.",
        graph_->origin, only, count);
  }
  const int64_t first = position_ + added - count;
  feeds[io.input_ids] = row_of({all.begin(), all.end()});
  if (io.attention_mask != kNoValue) {
    feeds[io.attention_mask] = ones_like(*graph_, io.attention_mask, position_ + added);
  }
  if (io.position_ids != kNoValue) {
    std::vector<int64_t> positions(all.size());
    for (size_t i = 0; i < all.size(); ++i) positions[i] = first + static_cast<int64_t>(i);
    feeds[io.position_ids] = row_of(std::move(positions));
  }
  for (const ValueId id : graph_->inputs) {
    if (graph_->value_name(id) == "nibble.position") {
      feeds[id] = Array::of({}, std::vector<int64_t>{position_});
    }
  }
  std::vector<Array> results = interpreter_.run(feeds, wanted_values(*graph_));
  Array logits = std::move(results.front());
  if (logits.shape.size() != 3 || logits.shape[0] != 1 || logits.shape[1] != count ||
      (vocab_size_ > 0 && logits.shape[2] != vocab_size_)) {
    fail("The logits \"{}\" of {} have shape {} instead of [1,{},{}].",
         graph_->value_name(io.logits), graph_->origin, to_string(logits.shape), count,
         vocab_size_ > 0 ? fmt::format("{}", vocab_size_) : "vocabulary");
  }
  size_t next = 1;
  for (const LayerCache& layer : io.layers) {
    if (layer.past_key == kNoValue) continue;
    cache_[layer.past_key] = std::move(results[next++]);
    cache_[layer.past_value] = std::move(results[next++]);
  }
  position_ += added;
  if (prefix_form_) history_ = std::move(all);
  return logits;
}

std::span<const float> InterpretedDecoder::forward(std::span<const int32_t> ids) {
  check_ids(ids);
  const Array logits = step(ids);
  const auto last = logits.floats().last(static_cast<size_t>(vocab_size_));
  last_logits_.assign(last.begin(), last.end());
  return last_logits_;
}

void InterpretedDecoder::forward_all(std::span<const int32_t> ids, std::span<float> out) {
  check_ids(ids);
  if (static_cast<int64_t>(out.size()) != static_cast<int64_t>(ids.size()) * vocab_size_) {
    fail("The logits of {} ids need {} floats, but there is room for {}.", ids.size(),
         static_cast<int64_t>(ids.size()) * vocab_size_, out.size());
  }
  const Array logits = step(ids);
  const auto values = logits.floats().last(out.size());
  std::copy(values.begin(), values.end(), out.begin());
}

}  // namespace nibble::graph
