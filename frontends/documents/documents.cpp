#include "frontends/documents/documents.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "jit/error.h"
#include "runtime/atomic_file.h"
#include "runtime/json_text.h"
#include "runtime/mapped_file.h"

namespace nibble::frontends::documents {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// In the order of trust; exporters and families spell it in these ways.
constexpr std::array<const char*, 7> kContextKeys = {
    "max_position_embeddings", "n_positions",   "n_ctx", "max_seq_len", "seq_length",
    "max_sequence_length",     "context_length"};
constexpr uintmax_t kMostBytes = uintmax_t{1} << 28;  // the largest tokenizers have some 40 MB
constexpr size_t kMostConfigurationBytes = size_t{1} << 22;
constexpr int kMostDepth = 16;  // of objects and lists in each other

std::string read_whole(const fs::path& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) fail("{}: its size cannot be read: {}.", path.string(), error.message());
  if (size > kMostBytes) {
    fail("{}: a document of {} bytes is larger than the {} that are expected at most.",
         path.string(), size, kMostBytes);
  }
  if (size == 0) return {};
  const auto file = runtime::MappedFile::open(path.string());
  const auto bytes = file->bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Reads the document in the first folder that has it; where that is, or nothing.
std::optional<fs::path> read_first(std::span<const fs::path> folders, const char* name,
                                   graph::Graph& graph) {
  for (const fs::path& folder : folders) {
    const fs::path path = folder / name;
    std::error_code error;
    if (!fs::is_regular_file(path, error)) continue;
    graph.documents[name] = read_whole(path);
    return path;
  }
  return std::nullopt;
}

// A document and where it was found.
struct Document {
  fs::path path;
  json content;  // an object
};

json parse(const fs::path& path, const std::string& text) {
  // Parsed JSON takes many times its length.
  if (text.size() > kMostConfigurationBytes) {
    fail("{}: a configuration of {} bytes is larger than the {} that are expected at most.",
         path.string(), text.size(), kMostConfigurationBytes);
  }
  json content = runtime::parse_json(text, path.string(), kMostDepth);
  if (!content.is_object()) {
    fail("{}: a JSON object is expected, but it is of type {}.", path.string(),
         content.type_name());
  }
  return content;
}

// The integer under `key`; nullptr and absent read as nothing.
const json* find(const Document& document, const char* key) {
  const auto found = document.content.find(key);
  return found == document.content.end() || found->is_null() ? nullptr : &*found;
}

int64_t to_int(const Document& document, const char* key, const json& value, int64_t least) {
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() ||
                     value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()});
  if (!fits || value.get<int64_t>() < least) {
    fail("{}: \"{}\" should be an integer of at least {}, but it is {}.", document.path.string(),
         key, least, value.dump(-1, ' ', true, json::error_handler_t::replace));
  }
  return value.get<int64_t>();
}

void read_context_length(const Document& config, graph::Graph& graph) {
  for (const char* key : kContextKeys) {
    if (const json* value = find(config, key)) {
      graph.context_length = to_int(config, key, *value, 1);
      return;
    }
  }
}

// False when the document says nothing of eos. -1 stands for "none" in some configurations.
bool read_eos(const Document& document, graph::Graph& graph) {
  const json* value = find(document, "eos_token_id");
  if (value == nullptr) return false;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& id : list) {
    const int64_t eos = to_int(document, "eos_token_id", id, -1);
    if (eos >= 0) graph.eos_ids.push_back(eos);
  }
  return true;
}

bool read_bos(const Document& document, graph::Graph& graph) {
  const json* value = find(document, "bos_token_id");
  if (value == nullptr) return false;
  graph.bos_id = to_int(document, "bos_token_id", *value, -1);
  return true;
}

using Documents = std::map<std::string, Document>;

// Sets context_length, eos_ids and bos_id from the configurations of a model.
void read_configurations(Documents& configurations, graph::Graph& graph) {
  // onnxruntime-genai keeps what it knows of the model one level down.
  const auto genai = configurations.find("genai_config.json");
  if (genai != configurations.end()) {
    const json* model = find(genai->second, "model");
    if (model == nullptr || !model->is_object()) {
      fail("{}: an object \"model\" is expected, but there is none.", genai->second.path.string());
    }
    genai->second.content = json(*model);
  }
  bool has_eos = false, has_bos = false;
  for (const char* name : {"genai_config.json", "generation_config.json", "config.json"}) {
    const auto found = configurations.find(name);
    if (found == configurations.end()) continue;
    has_eos = has_eos || read_eos(found->second, graph);
    has_bos = has_bos || read_bos(found->second, graph);
  }
  for (const char* name : {"config.json", "genai_config.json"}) {
    const auto config = configurations.find(name);
    if (config != configurations.end()) read_context_length(config->second, graph);
  }
}

}  // namespace

void read_documents(std::span<const fs::path> folders, graph::Graph& graph) {
  for (const char* name : kTokenizers) {
    if (read_first(folders, name, graph)) break;
  }
  for (const char* name : kChat) read_first(folders, name, graph);
  Documents configurations;
  for (const char* name : kConfigurations) {
    if (const auto path = read_first(folders, name, graph)) {
      configurations[name] = {*path, parse(*path, graph.documents[name])};
    }
  }
  read_configurations(configurations, graph);
}

std::string configuration_text(const graph::Graph& graph) {
  using nlohmann::ordered_json;
  graph::Graph found;  // what reading the documents would find
  Documents configurations;
  for (const char* name : kConfigurations) {
    const auto document = graph.documents.find(name);
    if (document == graph.documents.end()) continue;
    const fs::path path = fs::path(graph.origin) / name;
    configurations[name] = {path, parse(path, document->second)};
  }
  read_configurations(configurations, found);
  const auto own = graph.documents.find("config.json");
  if (own != graph.documents.end() && found.context_length == graph.context_length &&
      found.eos_ids == graph.eos_ids && found.bos_id == graph.bos_id) {
    return own->second;
  }
  ordered_json config =
      own == graph.documents.end()
          ? ordered_json::object()
          : runtime::parse_ordered_json(own->second, graph.origin + ": config.json");
  if (graph.context_length > 0) {
    const auto* key = std::find_if(kContextKeys.begin(), kContextKeys.end(),
                                   [&](const char* name) { return config.contains(name); });
    config[key == kContextKeys.end() ? kContextKeys.front() : *key] = graph.context_length;
  }
  if (!graph.eos_ids.empty()) config["eos_token_id"] = graph.eos_ids;
  if (graph.bos_id >= 0) config["bos_token_id"] = graph.bos_id;
  return config.dump(2) + "\n";
}

void write_documents(const graph::Graph& graph, const std::string& configuration,
                     const fs::path& folder) {
  const auto write = [&](const std::string& name, const std::string& text) {
    const fs::path as_path(name);
    if (as_path.filename() != as_path || name == "." || name == "..") {
      fail("{}: the document '{}' cannot be written, because this is no file's name.", graph.origin,
           name);
    }
    runtime::write_file((folder / name).string(), text);
  };
  for (const auto& [name, text] : graph.documents) {
    if (name != "config.json") write(name, text);
  }
  write("config.json", configuration);
}

}  // namespace nibble::frontends::documents
