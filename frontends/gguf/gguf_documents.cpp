#include "frontends/gguf/gguf_documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "jit/error.h"

namespace nibble::frontends::gguf {
namespace {

using nlohmann::json;

constexpr const char* kTemplate = "tokenizer.chat_template";

// Tokens that end a model's turn in the formats of chats, whether or not the file says so.
constexpr std::array<std::string_view, 10> kTurnEnds = {
    "<|eot_id|>",      "<|im_end|>", "<|end|>", "<end_of_turn>",   "<|endoftext|>",
    "<|end_of_text|>", "<|eom_id|>", "<EOT>",   "<|end_of_turn|>", "<|return|>"};

int flag(const File& file, const char* key) {
  return file.has(key) ? static_cast<int>(file.boolean(key, false)) : -1;
}

// -1 when the file does not say it.
int64_t token_id(const File& file, const std::string& name, size_t count) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  const int64_t id = file.integer(key, -1);
  if (id < -1 || (count > 0 && id >= static_cast<int64_t>(count))) {
    fail("{}: metadata '{}' is {}, but the ids are 0..{}.", file.path(), key, id, count - 1);
  }
  return id;
}

// One template, or the list that tokenizer_config.json has for several.
json templates(const File& file) {
  if (!file.has("tokenizer.chat_templates")) {
    return file.has(kTemplate) ? json(file.text(kTemplate)) : json();
  }
  json list = json::array();
  if (file.has(kTemplate)) {
    list.push_back({{"name", "default"}, {"template", file.text(kTemplate)}});
  }
  for (const std::string_view name : file.texts("tokenizer.chat_templates")) {
    const std::string key = fmt::format("{}.{}", kTemplate, name);
    if (name == "default" && !file.has(key)) continue;
    list.push_back({{"name", name}, {"template", file.text(key)}});
  }
  return list;
}

std::string tokenizer_config(const File& file, const GgufVocabulary& vocabulary) {
  json config = json::object();
  for (const auto& [ours, theirs] :
       {std::pair("bos_token", "bos"), std::pair("eos_token", "eos"),
        std::pair("unk_token", "unknown"), std::pair("pad_token", "padding")}) {
    const int64_t id = token_id(file, theirs, vocabulary.tokens.size());
    if (id >= 0) config[ours] = vocabulary.tokens[static_cast<size_t>(id)];
  }
  if (json all = templates(file); !all.is_null()) config["chat_template"] = std::move(all);
  if (vocabulary.add_bos >= 0) config["add_bos_token"] = vocabulary.add_bos != 0;
  try {
    return config.dump();
  } catch (const json::exception& error) {
    fail("{}: the chat template should be text in UTF-8, but: {}.", file.path(), error.what());
  }
}

void read_ends(const File& file, const GgufVocabulary& vocabulary, graph::Graph& graph) {
  const auto add = [&](int64_t id) {
    if (id < 0 || std::ranges::find(graph.eos_ids, id) != graph.eos_ids.end()) return;
    graph.eos_ids.push_back(id);
  };
  for (const char* name : {"eos", "eot", "eom"}) {
    add(token_id(file, name, vocabulary.tokens.size()));
  }
  for (size_t i = 0; i < vocabulary.token_types.size() && i < vocabulary.tokens.size(); ++i) {
    constexpr int32_t kControl = 3;
    if (vocabulary.token_types[i] != kControl) continue;
    const bool ends = std::ranges::find(kTurnEnds, vocabulary.tokens[i]) != kTurnEnds.end();
    if (ends) add(static_cast<int64_t>(i));
  }
}

std::map<std::string, std::string> documents_of(const File& file, const GgufVocabulary& v) {
  return {{kGgufVocabularyDocument, to_json(v, file.path())},
          {"tokenizer_config.json", tokenizer_config(file, v)}};
}

}  // namespace

std::optional<GgufVocabulary> read_vocabulary(const File& file) {
  constexpr const char* kModel = "tokenizer.ggml.model";
  if (!file.has(kModel) || file.text(kModel) == "none") return std::nullopt;
  GgufVocabulary v;
  v.model = file.text(kModel);
  v.pre = file.text("tokenizer.ggml.pre", "");
  const auto tokens = file.texts("tokenizer.ggml.tokens");
  constexpr size_t kMostTokens = size_t{1} << 21;
  for (const char* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    if (!file.has(key) || file.texts(key).size() <= kMostTokens) continue;
    fail("{}: metadata '{}' has {} texts, expected at most {}.", file.path(), key,
         file.texts(key).size(), kMostTokens);
  }
  v.tokens.assign(tokens.begin(), tokens.end());
  if (file.has("tokenizer.ggml.scores")) v.scores = file.reals("tokenizer.ggml.scores");
  if (file.has("tokenizer.ggml.token_type")) {
    for (const int64_t type : file.integers("tokenizer.ggml.token_type")) {
      v.token_types.push_back(static_cast<int32_t>(std::clamp<int64_t>(type, -1, 100)));
    }
  }
  if (file.has("tokenizer.ggml.merges")) {
    const auto merges = file.texts("tokenizer.ggml.merges");
    v.merges.assign(merges.begin(), merges.end());
  }
  v.bos_id = token_id(file, "bos", v.tokens.size());
  v.eos_id = token_id(file, "eos", v.tokens.size());
  v.add_bos = flag(file, "tokenizer.ggml.add_bos_token");
  v.add_eos = flag(file, "tokenizer.ggml.add_eos_token");
  v.add_space_prefix = flag(file, "tokenizer.ggml.add_space_prefix");
  v.remove_extra_whitespaces = flag(file, "tokenizer.ggml.remove_extra_whitespaces");
  if (file.has("tokenizer.ggml.precompiled_charsmap")) {
    for (const int64_t byte : file.integers("tokenizer.ggml.precompiled_charsmap")) {
      v.precompiled_charsmap += static_cast<char>(byte);
    }
  }
  return v;
}

std::map<std::string, std::string> read_documents(const File& file) {
  const auto vocabulary = read_vocabulary(file);
  return vocabulary ? documents_of(file, *vocabulary) : std::map<std::string, std::string>();
}

void read_documents(const File& file, graph::Graph& graph) {
  const std::string context = std::string(file.text("general.architecture")) + ".context_length";
  graph.context_length = file.integer(context, 0);
  if (graph.context_length < 0 || (graph.context_length == 0 && file.has(context))) {
    fail("{}: metadata '{}' is {}, but at least 1 is expected.", file.path(), context,
         graph.context_length);
  }
  const auto vocabulary = read_vocabulary(file);
  if (!vocabulary) return;
  graph.documents = documents_of(file, *vocabulary);
  graph.bos_id = vocabulary->bos_id;
  read_ends(file, *vocabulary, graph);
}

}  // namespace nibble::frontends::gguf
