// The tiny models of the test of families, with one layer, as safetensors and compiled.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "frontends/safetensors/safetensors.h"
#include "graph/nib_model.h"
#include "graph/passes.h"
#include "quant/formats/quantize.h"
#include "runtime/nib_file.h"
#include "runtime/thread_pool.h"
#include "tests/frontends/safetensors_writer.h"
#include "tests/fuzz/seeds/seeds.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble::fuzz {
namespace {

using nlohmann::json;
using runtime::read_file;

struct TinyModel {
  json config;
  std::string file;
};

TinyModel tiny_model(const json& one, bool as_header) {
  TinyModel model{one["config"], {}};
  test::SafetensorsWriter writer;
  json header;
  std::string data;
  for (const auto& [name, shape] : one["tensors"].items()) {
    if (name.find(".1.") != std::string::npos) continue;
    int64_t count = 1;
    for (const int64_t dimension : shape.get<std::vector<int64_t>>()) count *= dimension;
    std::string bytes(static_cast<size_t>(2 * count), '\0');
    for (size_t i = 0; i < bytes.size(); i += 2) {  // f16: +-1.0 to 1.5
      bytes[i] = static_cast<char>(i * 37);
      bytes[i + 1] = static_cast<char>(0x3C | (i % 6 == 0 ? 0x80 : 0) | (i / 2 % 2));
    }
    header[name] = {{"dtype", "F16"},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + bytes.size()}}};
    data += bytes;
  }
  for (const char* key : {"num_hidden_layers", "n_layer", "n_layers"}) {
    if (model.config.contains(key)) model.config[key] = 1;
  }
  if (model.config.contains("layer_types")) model.config.erase("layer_types");
  model.file =
      as_header ? header.dump() + "\n" + data : test::safetensors_bytes(header.dump(), data);
  return model;
}

std::vector<json> chosen_families() {
  const json all = json::parse(
      read_file(std::string(NIBBLE_SOURCE_DIR) + "/tests/frontends/safetensors_families.json"));
  std::vector<json> chosen;
  std::vector<std::string> types;
  for (const json& one : all) {
    const std::string type = one["config"]["model_type"];
    const bool wanted =
        type == "llama" || type == "gemma2" || type == "phi3" || type == "falcon" || type == "gpt2";
    if (!wanted || std::count(types.begin(), types.end(), type) != 0) continue;
    types.push_back(type);
    chosen.push_back(one);
  }
  return chosen;
}

// Two shards: the first of the tensors, and the others.
std::string sharded(const json& one) {
  json first = one, second = one, map;
  const std::string name = one["tensors"].begin().key();
  for (const auto& [tensor, shape] : one["tensors"].items()) {
    if (tensor.find(".1.") != std::string::npos) continue;
    (tensor == name ? second : first)["tensors"].erase(tensor);
    map[tensor] = tensor == name ? "a.safetensors" : "b.safetensors";
  }
  const TinyModel a = tiny_model(first, true), b = tiny_model(second, true);
  return joined({a.config.dump(), a.file, json{{"weight_map", map}}.dump(), b.file});
}

}  // namespace

void safetensors_seeds(const Corpus& corpus) {
  bool header = false;
  for (const json& one : chosen_families()) {
    const TinyModel model = tiny_model(one, header = !header);
    corpus.add("safetensors", one["name"], joined({model.config.dump(), model.file}));
  }
  corpus.add("safetensors", "shards", sharded(chosen_families().front()));
}

void nib_seeds(const Corpus& corpus) {
  runtime::ThreadPool pool(1);
  const runtime::TemporaryFolder folder;
  for (const json& one : chosen_families()) {
    const std::string name = one["name"];
    const TinyModel model = tiny_model(one, false);
    folder.write("config.json", model.config.dump());
    graph::Graph graph =
        frontends::load_safetensors(folder.write("model.safetensors", model.file)).graph;
    graph::fuse(graph);
    const auto options = quant::default_options("int4", 16, false, jit::ScaleType::f16);
    quant::quantize_graph(graph, options, pool, {});
    const std::string path = folder.write("model.nib", "");
    graph::write_nib_model(graph, path, [&](graph::ValueId id) {
      return std::get<runtime::PackedMatrix>(*graph.values[static_cast<size_t>(id)].constant);
    });
    const auto file = runtime::NibFile::open(path, nullptr);
    std::vector<std::string> parts(1);
    for (const auto& section : file->sections()) {
      const std::string bytes(reinterpret_cast<const char*>(section.bytes.data()),
                              section.bytes.size());
      if (section.name == "graph") {
        parts[0] = bytes;
      } else {
        parts.push_back(section.name + "\n" + bytes);
      }
    }
    const bool whole = one["config"]["model_type"] == "llama";
    if (whole) corpus.add("nib", name + ".nib", read_file(path));
    corpus.add("nib", name, joined(parts));
  }
}

}  // namespace nibble::fuzz
