#include <algorithm>
#include <cctype>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "frontends/onnx/graph_builder.h"
#include "jit/error.h"

namespace nibble::frontends::onnx {
namespace {

using graph::DType;
using graph::Graph;
using graph::LayerCache;
using graph::ValueId;

struct CacheName {
  int64_t layer = 0;
  bool is_key = false;
};

// A name in lower case, cut where letters and digits and other characters meet:
// "past_key_values.12.key" is past, key, values, 12, key.
std::vector<std::string> words_of(std::string_view name) {
  enum class Kind { other, letter, digit };
  const auto kind_of = [](unsigned char c) {
    if (std::isdigit(c) != 0) return Kind::digit;
    return std::isalpha(c) != 0 ? Kind::letter : Kind::other;
  };
  std::vector<std::string> words;
  Kind before = Kind::other;
  for (const char c : name) {
    const Kind kind = kind_of(static_cast<unsigned char>(c));
    if (kind != Kind::other) {
      if (kind != before) words.emplace_back();
      words.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    before = kind;
  }
  return words;
}

bool has_word(const std::vector<std::string>& words,
              std::initializer_list<std::string_view> wanted) {
  return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
    return std::find(wanted.begin(), wanted.end(), word) != wanted.end();
  });
}

// One layer's keys or values: a single number, and a word for either. "key_values" in front, as
// Optimum's names have it, is what all of them are called.
std::optional<CacheName> parse_cache_name(std::string_view name) {
  std::vector<std::string> words = words_of(name);
  const auto both =
      std::adjacent_find(words.begin(), words.end(),
                         [](const auto& a, const auto& b) { return a == "key" && b == "values"; });
  if (both != words.end()) words.erase(both, both + 2);
  const bool key = has_word(words, {"key", "keys", "k"});
  const bool value = has_word(words, {"value", "values", "v"});
  const auto is_number = [](const std::string& word) {
    return std::isdigit(static_cast<unsigned char>(word[0])) != 0;
  };
  const auto number = std::find_if(words.begin(), words.end(), is_number);
  constexpr size_t kMostDigits = 6;
  if (key == value || number == words.end() || number->size() > kMostDigits ||
      std::count_if(words.begin(), words.end(), is_number) != 1) {
    return std::nullopt;
  }
  return CacheName{std::stoll(*number), key};
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
    const auto name = parse_cache_name(graph.value_name(id));
    if (!name) continue;
    LayerCache& layer = layers[name->layer];
    set_once(name->is_key ? layer.past_key : layer.past_value, id, graph, "a layer's past");
    need_dtype(graph, id, true);
  }
  for (const ValueId id : graph.outputs) {
    const auto name = parse_cache_name(graph.value_name(id));
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

namespace {

// Which part an input is. Names that every exporter uses come first; others tell by their words.
ValueId* input_slot(graph::DecoderIo& io, const std::string& name) {
  if (name == "input_ids") return &io.input_ids;
  if (name == "attention_mask") return &io.attention_mask;
  if (name == "position_ids") return &io.position_ids;
  const std::vector<std::string> words = words_of(name);
  if (has_word(words, {"mask"})) return &io.attention_mask;
  if (has_word(words, {"position", "positions", "pos"})) return &io.position_ids;
  return has_word(words, {"ids", "tokens", "token"}) ? &io.input_ids : nullptr;
}

// "logits", an output with that word, or the only one that is no cache.
ValueId find_logits(const Graph& graph) {
  std::vector<ValueId> named, others;
  for (const ValueId id : graph.outputs) {
    const std::string& name = graph.value_name(id);
    if (name == "logits") return id;
    if (has_word(words_of(name), {"logits"})) named.push_back(id);
    if (!parse_cache_name(name)) others.push_back(id);
  }
  if (named.size() == 1) return named[0];
  return named.empty() && others.size() == 1 ? others[0] : graph::kNoValue;
}

void need_mask(const Graph& graph, ValueId id) {
  if (id == graph::kNoValue) return;
  const graph::Value& value = graph.values[static_cast<size_t>(id)];
  if (value.dtype != DType::boolean && value.dtype != DType::f32) need_dtype(graph, id, false);
  if (!value.shape || value.shape->size() == 2) return;
  fail("{}: \"{}\" has shape {}, but a mask of the tokens, [batch, tokens], is expected.",
       graph.origin, graph.value_name(id), graph::to_string(*value.shape));
}

}  // namespace

graph::DecoderIo find_decoder_io(const Graph& graph) {
  graph::DecoderIo io;
  for (const ValueId id : graph.inputs) {
    const std::string name = graph.value_name(id);
    if (parse_cache_name(name)) continue;
    ValueId* slot = input_slot(io, name);
    if (slot == nullptr) {
      fail(
          "{}: the model has an input \"{}\", but input_ids, attention_mask, position_ids and "
          "past_key_values.N.key and .value are what a decoder is fed.",
          graph.origin, name);
    }
    set_once(*slot, id, graph, "the same input of a decoder");
  }
  io.logits = find_logits(graph);
  if (io.input_ids == graph::kNoValue) fail("{}: the model has no input_ids.", graph.origin);
  if (io.logits == graph::kNoValue) fail("{}: the model has no output logits.", graph.origin);
  for (const ValueId id : {io.input_ids, io.position_ids}) need_dtype(graph, id, false);
  need_mask(graph, io.attention_mask);
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
