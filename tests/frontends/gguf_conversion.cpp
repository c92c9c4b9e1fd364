#include "tests/frontends/gguf_conversion.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "tests/frontends/gguf_conversion_tables.h"
#include "tests/support/gguf_builder.h"

namespace nibble::test {
namespace {

using nlohmann::json;
using Shape = std::vector<int64_t>;
using Floats = std::vector<float>;

// A tensor of the file; its shape in the order of rows.
struct Item {
  Shape shape;
  Floats values;
};

// "model.layers.3.NAME" -> 3 and NAME; -1 outside the layers.
std::pair<int, std::string> layer_of(const std::string& name) {
  for (const char* layers :
       {"model.layers.", "transformer.h.", "transformer.blocks.", "gpt_neox.layers."}) {
    if (!name.starts_with(layers)) continue;
    const std::string rest = name.substr(std::string_view(layers).size());
    const size_t dot = rest.find('.');
    return {std::stoi(rest), rest.substr(dot + 1)};
  }
  return {-1, name};
}

class Converter {
 public:
  Converter(const FamilyModel& model, const GgufOptions& options)
      : model_(model),
        config_(model.config),
        type_(config_["model_type"]),
        conversion_(gguf_conversions().at(type_)),
        options_(options),
        architecture_(options.architecture.empty() ? conversion_.architecture
                                                   : options.architecture),
        heads_(number({"num_attention_heads", "n_head", "n_heads"})),
        hidden_(number({"hidden_size", "n_embd", "d_model"})),
        head_dim_(number({"head_dim"}, hidden_ / heads_)),
        kv_heads_(read_kv_heads()) {}

  std::string file() {
    for (const auto& [name, shape] : model_.tensors) add(name, shape);
    if (options_.one_matrix) join_qkv();
    write_metadata();
    for (const auto& [name, item] : items_) {
      std::vector<uint64_t> dimensions(item.shape.rbegin(), item.shape.rend());
      out_.tensor(name, 0, dimensions, GgufBuilder::floats(item.values));
    }
    return out_.file();
  }

 private:
  int64_t number(std::initializer_list<const char*> keys, int64_t fallback = 0) const {
    for (const char* key : keys) {
      if (config_.contains(key) && config_[key].is_number()) return config_[key];
    }
    return fallback;
  }

  int64_t read_kv_heads() const {
    if (type_ == "falcon" && !config_.value("new_decoder_architecture", false)) {
      return config_.value("multi_query", true) ? 1 : heads_;
    }
    if (type_ == "gpt_bigcode" && config_.value("multi_query", true)) return 1;
    return number({"num_key_value_heads", "num_kv_heads"}, heads_);
  }

  void add(const std::string& full, const Shape& shape) {
    const auto [layer, name] = layer_of(full);
    std::string stem = name.substr(0, name.rfind('.')), suffix = name.substr(name.rfind('.'));
    Item item{shape, family_values(full, shape)};
    const std::string block = layer < 0 ? "" : fmt::format("blk.{}.", layer);
    if (const size_t at = stem.find("_layernorm.norms."); at != std::string::npos) {
      const char which = stem[at - 1];  // q or k; heads come in order
      Item& all = items_[fmt::format("{}attn_{}_norm.weight", block, which)];
      all.values.insert(all.values.end(), item.values.begin(), item.values.end());
      all.shape = {std::ssize(all.values) / head_dim_, head_dim_};
      return;
    }
    std::string to = gguf_names().at(stem);
    if (conversion_.norms_behind && stem == "post_attention_layernorm") to = "post_attention_norm";
    if (conversion_.norms_plus_1 && stem.ends_with("norm") && suffix == ".weight") {
      for (float& value : item.values) value += 1;
    }
    if (type_ == "gpt2" && stem.find(".c_") != std::string::npos && shape.size() == 2) {
      transpose(item);
    }
    if (stem.ends_with("query_key_value")) item = blocks(item);
    if (type_ == "gpt_bigcode" && to == "attn_qkv") item = blocks(item);
    if (conversion_.turned && options_.turn_heads && (to == "attn_q" || to == "attn_k")) {
      item = turned(item, to == "attn_q" ? heads_ : kv_heads_);
    }
    items_[block + to + suffix] = std::move(item);
  }

  static int64_t width(const Item& item) { return item.shape.size() == 2 ? item.shape[1] : 1; }

  // These rows of an item, `head_dim` at a time.
  Item heads_in_order(const Item& item, const std::vector<int64_t>& heads) const {
    Item out{item.shape, {}};
    const int64_t size = head_dim_ * width(item);
    for (const int64_t head : heads) {
      const auto from = item.values.begin() + head * size;
      out.values.insert(out.values.end(), from, from + size);
    }
    return out;
  }

  // For each KV head its Q heads, k and v -> all Q heads, all K heads, all V heads.
  Item blocks(const Item& item) const {
    const int64_t queries = heads_ / kv_heads_, group = queries + 2;
    std::vector<int64_t> order;
    for (int64_t g = 0; g < kv_heads_; ++g) {
      for (int64_t q = 0; q < queries; ++q) order.push_back(g * group + q);
    }
    for (int64_t part : {queries, queries + 1}) {
      for (int64_t g = 0; g < kv_heads_; ++g) order.push_back(g * group + part);
    }
    return heads_in_order(item, order);
  }

  Item turned(const Item& item, int64_t heads) const {
    Item out{item.shape, {}};
    const int64_t k = width(item), half = head_dim_ / 2;
    for (int64_t row = 0; row < heads * head_dim_; ++row) {
      const int64_t i = row % head_dim_;
      const int64_t from = row - i + (i % 2) * half + i / 2;
      const auto begin = item.values.begin() + from * k;
      out.values.insert(out.values.end(), begin, begin + k);
    }
    return out;
  }

  static void transpose(Item& item) {
    const int64_t rows = item.shape[0], columns = item.shape[1];
    Floats out;
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < rows; ++r) {
        out.push_back(item.values[static_cast<size_t>(r * columns + c)]);
      }
    }
    item = {{columns, rows}, std::move(out)};
  }

  void join_qkv() {
    std::map<std::string, Item> joined;
    for (const char* part : {"attn_q", "attn_k", "attn_v"}) {
      for (const char* suffix : {".weight", ".bias"}) {
        const std::string end = std::string(part) + suffix;
        for (auto at = items_.begin(); at != items_.end();) {
          if (!at->first.ends_with("." + end)) {
            ++at;
            continue;
          }
          const std::string to =
              at->first.substr(0, at->first.size() - end.size()) + "attn_qkv" + suffix;
          Item& whole = joined[to];
          whole.values.insert(whole.values.end(), at->second.values.begin(),
                              at->second.values.end());
          if (whole.shape.empty()) {
            whole.shape = at->second.shape;
          } else {
            whole.shape[0] += at->second.shape[0];
          }
          at = items_.erase(at);
        }
      }
    }
    items_.merge(joined);
  }

  void set(const std::string& key, json value) { keys_[key] = std::move(value); }

  void write_metadata() {
    set("block_count", number({"num_hidden_layers", "n_layer", "n_layers"}));
    set("embedding_length", hidden_);
    const int64_t down = items_.at("blk.0.ffn_down.weight").shape[1];
    set("feed_forward_length", options_.double_mlp ? 2 * down : down);
    set("context_length", number({"max_position_embeddings", "n_positions", "max_seq_len"}, 256));
    set("attention.head_count", heads_);
    if (kv_heads_ != heads_) set("attention.head_count_kv", kv_heads_);
    if (config_.contains("head_dim") && type_ != "granite") {
      set("attention.key_length", head_dim_);
      set("attention.value_length", head_dim_);
    }
    double epsilon = 1e-5;
    for (const char* key :
         {"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"}) {
      if (config_.contains(key)) epsilon = config_[key];
    }
    set(conversion_.layer_norm ? "attention.layer_norm_epsilon"
                               : "attention.layer_norm_rms_epsilon",
        epsilon);
    write_rotation();
    write_own();
    for (const auto& [key, value] : options_.more.items()) set(key, value);
    write_keys();
  }

  void write_rotation() {
    if (!config_.contains("rope_parameters")) return;
    json rope = config_["rope_parameters"];
    if (rope.contains("full_attention")) rope = rope["full_attention"];
    double theta = rope.value("rope_theta", 10000.0);
    const std::string type = rope.value("rope_type", "default");
    const double partial = rope.value("partial_rotary_factor", 1.0);
    if (partial != 1) {
      set("rope.dimension_count", static_cast<int64_t>(static_cast<double>(head_dim_) * partial));
    }
    if (type == "dynamic" && rope.contains("alpha")) {
      const auto d = static_cast<double>(head_dim_);
      theta *= std::pow(rope["alpha"].get<double>(), d / (d - 2));
      set("rope.scaling.type", "none");
    }
    set("rope.freq_base", theta);
    const auto factor = rope.value("factor", 1.0);
    if (type == "linear" || type == "yarn") {
      set("rope.scaling.type", type);
      set("rope.scaling.factor", factor);
    }
    const int64_t original =
        rope.value("original_max_position_embeddings",
                   number({"original_max_position_embeddings", "max_position_embeddings"}));
    if (type == "yarn") write_yarn(rope, factor, original);
    if (type == "llama3") add_llama3_factors(rope, theta, static_cast<double>(original));
    if (type != "longrope") return;
    set("rope.scaling.type", "longrope");
    set("rope.scaling.original_context_length", original);
    const double stretch =
        static_cast<double>(number({"max_position_embeddings"})) / static_cast<double>(original);
    set("rope.scaling.attn_factor",
        std::sqrt(1 + std::log(stretch) / std::log(static_cast<double>(original))));
    for (const char* length : {"long", "short"}) {
      const auto factors = rope[std::string(length) + "_factor"].get<Floats>();
      items_[fmt::format("rope_factors_{}.weight", length)] = {{std::ssize(factors)}, factors};
    }
  }

  // Its factor on cos and sin is beside the one that follows from `factor`.
  void write_yarn(const json& rope, double factor, int64_t original) {
    set("rope.scaling.original_context_length", original);
    set("rope.scaling.yarn_beta_fast", rope.value("beta_fast", 32.0));
    set("rope.scaling.yarn_beta_slow", rope.value("beta_slow", 1.0));
    set("rope.scaling.yarn_truncate", rope.value("truncate", true));
    if (!rope.contains("mscale")) return;
    const auto scale = [&](double m) { return 0.1 * m * std::log(factor) + 1; };
    set("rope.scaling.attn_factor",
        scale(rope["mscale"]) / scale(rope["mscale_all_dim"]) / scale(1));
  }

  void add_llama3_factors(const json& rope, double theta, double original) {
    const double factor = rope["factor"], low = rope["low_freq_factor"],
                 high = rope["high_freq_factor"];
    Floats factors;
    for (int64_t i = 0; i < head_dim_; i += 2) {
      const double wave = 2 * std::numbers::pi *
                          std::pow(theta, static_cast<double>(i) / static_cast<double>(head_dim_));
      const double smooth = (original / wave - low) / (high - low);
      const double between = 1 / ((1 - smooth) / factor + smooth);
      const double own = wave < original / high ? 1 : wave > original / low ? factor : between;
      factors.push_back(static_cast<float>(own));
    }
    items_["rope_freqs.weight"] = {{std::ssize(factors)}, factors};
  }

  // What an architecture has keys of its own for.
  void write_own() {
    const auto copy = [&](const char* from, const char* to) {
      if (config_.contains(from) && !config_[from].is_null()) set(to, config_[from]);
    };
    if (type_ == "cohere" || type_ == "cohere2") {
      copy("logit_scale", "logit_scale");
      set("rope.scaling.type", "none");
    }
    if (type_ == "granite") {
      copy("attention_multiplier", "attention.scale");
      copy("embedding_multiplier", "embedding_scale");
      copy("residual_multiplier", "residual_scale");
      copy("logits_scaling", "logit_scale");
    }
    copy("attn_logit_softcapping", "attn_logit_softcapping");
    copy("final_logit_softcapping", "final_logit_softcapping");
    copy("sliding_window", "attention.sliding_window");
    copy("clip_qkv", "attention.clamp_kqv");
    copy("use_parallel_residual", "use_parallel_residual");
    if (type_ == "mpt") {
      const json attention = config_.value("attn_config", json::object());
      set("attention.max_alibi_bias", attention.value("alibi_bias_max", 8.0));
      if (attention.contains("clip_qkv") && attention["clip_qkv"].is_number()) {
        set("attention.clamp_kqv", attention["clip_qkv"]);
      }
      if (attention.contains("softmax_scale") && attention["softmax_scale"].is_number()) {
        set("attention.scale", attention["softmax_scale"]);
      }
    }
    if (const int64_t scalar = number({"query_pre_attn_scalar"}, head_dim_); scalar != head_dim_) {
      set("attention.scale", 1 / std::sqrt(static_cast<double>(scalar)));
    }
    if ((type_ == "gemma3_text" || type_ == "olmo3" || type_ == "exaone4") &&
        config_.contains("layer_types")) {
      json pattern = json::array();
      for (const json& layer : config_["layer_types"]) {
        pattern.push_back(layer == "sliding_attention");
      }
      set("attention.sliding_window_pattern", pattern);
    }
  }

  void write_keys() {
    out_.string("general.architecture", architecture_);
    for (const auto& [key, value] : keys_.items()) {
      write_gguf_key(out_, architecture_ + "." + key, value);
    }
  }

  const FamilyModel& model_;
  const json& config_;
  std::string type_;
  const GgufConversion& conversion_;
  const GgufOptions& options_;
  std::string architecture_;
  int64_t heads_, hidden_, head_dim_, kv_heads_;
  std::map<std::string, Item> items_;
  json keys_ = json::object();
  GgufBuilder out_;
};

}  // namespace

void write_gguf_key(GgufBuilder& out, const std::string& key, const json& value) {
  if (value.is_array()) {
    std::vector<uint8_t> flags;
    for (const json& flag : value) flags.push_back(flag.get<bool>() ? 1 : 0);
    constexpr uint32_t kBooleans = 7;
    out.numbers<uint8_t>(key, kBooleans, flags);
  } else if (value.is_boolean()) {
    out.boolean(key, value);
  } else if (value.is_string()) {
    out.string(key, value.get<std::string>());
  } else if (value.is_number_float()) {
    out.f32(key, value);
  } else {
    out.u32(key, value);
  }
}

std::string gguf_architecture(const std::string& model_type) {
  const auto found = gguf_conversions().find(model_type);
  return found == gguf_conversions().end() ? "" : found->second.architecture;
}

bool gguf_turns_heads(const std::string& model_type) {
  return gguf_conversions().at(model_type).turned;
}

std::string convert_to_gguf(const FamilyModel& model, const GgufOptions& options) {
  return Converter(model, options).file();
}

}  // namespace nibble::test
