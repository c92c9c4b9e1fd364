#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "frontends/onnx/graph_builder.h"
#include "jit/error.h"

namespace nibble::frontends::onnx {
namespace {

using graph::DType;
using graph::Graph;
using graph::LayerCache;
using graph::ValueId;

// "PREFIX.N.key" or "PREFIX.N.value".
struct CacheName {
  int64_t layer = 0;
  bool is_key = false;
};

std::optional<CacheName> parse_cache_name(std::string_view name, std::string_view prefix) {
  if (name.substr(0, prefix.size()) != prefix) return std::nullopt;
  name.remove_prefix(prefix.size());
  if (name.empty() || name.front() != '.') return std::nullopt;
  name.remove_prefix(1);
  CacheName result;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), result.layer);
  if (error != std::errc() || result.layer < 0) return std::nullopt;
  const std::string_view rest(end, static_cast<size_t>(name.data() + name.size() - end));
  if (rest != ".key" && rest != ".value") return std::nullopt;
  result.is_key = rest == ".key";
  return result;
}

std::optional<CacheName> parse_past(std::string_view name) {
  return parse_cache_name(name, "past_key_values");
}

std::optional<CacheName> parse_present(std::string_view name) {
  const auto found = parse_cache_name(name, "present");
  return found ? found : parse_cache_name(name, "present_key_values");
}

void set_once(ValueId& slot, ValueId id, const Graph& graph, std::string_view part) {
  if (slot != graph::kNoValue) {
    fail("{}: \"{}\" and \"{}\" both are {}.", graph.origin, graph.value_name(slot),
         graph.value_name(id), part);
  }
  slot = id;
}

void need_dtype(const Graph& graph, ValueId id, bool floats) {
  if (id == graph::kNoValue) return;
  const DType dtype = graph.values[static_cast<size_t>(id)].dtype;
  const bool fits = floats ? dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16
                           : dtype == DType::i64 || dtype == DType::i32;
  if (!fits) {
    fail("{}: \"{}\" is of type {}, but {} is expected.", graph.origin, graph.value_name(id),
         graph::dtype_name(dtype), floats ? "f32, f16 or bf16" : "i64 or i32");
  }
}

std::map<int64_t, LayerCache> find_layers(const Graph& graph) {
  std::map<int64_t, LayerCache> layers;
  for (const ValueId id : graph.inputs) {
    const auto name = parse_past(graph.value_name(id));
    if (!name) continue;
    LayerCache& layer = layers[name->layer];
    set_once(name->is_key ? layer.past_key : layer.past_value, id, graph, "a layer's past");
    need_dtype(graph, id, true);
  }
  for (const ValueId id : graph.outputs) {
    const auto name = parse_present(graph.value_name(id));
    if (!name) continue;
    LayerCache& layer = layers[name->layer];
    set_once(name->is_key ? layer.present_key : layer.present_value, id, graph,
             "a layer's present");
  }
  return layers;
}

void check_layers(const Graph& graph, const std::map<int64_t, LayerCache>& layers) {
  int64_t expected = 0;
  for (const auto& [number, layer] : layers) {
    if (number != expected) {
      fail("{}: the KV cache has layer {}, but layer {} is missing.", graph.origin, number,
           expected);
    }
    ++expected;
    for (const auto& [id, name] : {std::pair{layer.past_key, "input past_key_values.{}.key"},
                                   std::pair{layer.past_value, "input past_key_values.{}.value"},
                                   std::pair{layer.present_key, "output present.{}.key"},
                                   std::pair{layer.present_value, "output present.{}.value"}}) {
      if (id == graph::kNoValue) {
        fail("{}: the model has no {}.", graph.origin, fmt::format(fmt::runtime(name), number));
      }
    }
  }
}

}  // namespace

graph::DecoderIo find_decoder_io(const Graph& graph) {
  graph::DecoderIo io;
  for (const ValueId id : graph.inputs) {
    const std::string name = graph.value_name(id);
    if (name == "input_ids") {
      io.input_ids = id;
    } else if (name == "attention_mask") {
      io.attention_mask = id;
    } else if (name == "position_ids") {
      io.position_ids = id;
    } else if (!parse_past(name)) {
      fail(
          "{}: the model has an input \"{}\", but input_ids, attention_mask, position_ids and "
          "past_key_values.N.key and .value are what a decoder is fed.",
          graph.origin, name);
    }
  }
  for (const ValueId id : graph.outputs) {
    if (graph.value_name(id) == "logits") io.logits = id;
  }
  if (io.input_ids == graph::kNoValue) fail("{}: the model has no input_ids.", graph.origin);
  if (io.logits == graph::kNoValue) fail("{}: the model has no output logits.", graph.origin);
  for (const ValueId id : {io.input_ids, io.attention_mask, io.position_ids}) {
    need_dtype(graph, id, false);
  }
  need_dtype(graph, io.logits, true);

  auto layers = find_layers(graph);
  // An export without a cache, though it may give out the keys and values it computes.
  if (std::none_of(layers.begin(), layers.end(), [](const auto& entry) {
        return entry.second.past_key != graph::kNoValue ||
               entry.second.past_value != graph::kNoValue;
      })) {
    layers.clear();
  }
  check_layers(graph, layers);
  for (const auto& [number, layer] : layers) io.layers.push_back(layer);
  return io;
}

}  // namespace nibble::frontends::onnx
