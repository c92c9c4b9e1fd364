// The families as tiny models whose weights follow from the names of their tensors: configuration,
// shapes and transformers' logits are in safetensors_families.json. A model is written as a folder
// with config.json and model.safetensors; gguf_conversion.h writes it as a GGUF.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "frontends/safetensors/safetensors.h"
#include "graph/interpreted_decoder.h"
#include "jit/error.h"
#include "tests/frontends/safetensors_writer.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble::test {

inline const nlohmann::json& family_cases() {
  static const nlohmann::json all = [] {
    std::ifstream file(std::string(NIBBLE_SOURCE_DIR) +
                       "/tests/frontends/safetensors_families.json");
    return nlohmann::json::parse(file);
  }();
  return all;
}

inline const nlohmann::json& family_case(const std::string& name) {
  for (const nlohmann::json& one : family_cases()) {
    if (one["name"] == name) return one;
  }
  throw std::runtime_error("no case " + name);
}

// FNV-1a of the name begins a linear congruential sequence of values in [-1, 1): halves of them for
// matrices, quarters for biases, and 1 plus quarters for the factors of norms.
inline std::vector<float> family_values(const std::string& name,
                                        const std::vector<int64_t>& shape) {
  uint32_t state = 2166136261U;
  for (unsigned char c : name) state = (state ^ c) * 16777619U;
  int64_t count = 1;
  for (int64_t dimension : shape) count *= dimension;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    state = state * 1664525U + 1013904223U;
    const float unit = static_cast<float>(state >> 8) * 0x1p-23F - 1;
    const bool factor = shape.size() == 1 && !name.ends_with(".bias");
    value = shape.size() == 1 ? unit * 0.25F + (factor ? 1.0F : 0.0F) : unit * 0.5F;
  }
  return values;
}

inline std::vector<int32_t> family_ids() {
  std::vector<int32_t> list;
  for (int32_t i = 0; i < 24; ++i) list.push_back((7 * i * i + 3 * i + 5) % 30 + 2);
  return list;
}

// Of the last of the ids.
inline std::vector<float> interpreted_logits(graph::Graph graph) {
  graph::InterpretedDecoder decoder(std::make_shared<graph::Graph>(std::move(graph)), 0);
  const auto list = family_ids();
  const auto logits = decoder.forward(list);
  return {logits.begin(), logits.end()};
}

// A folder with the model of a case; tests change `config` or `tensors` before writing it.
struct FamilyModel {
  explicit FamilyModel(const std::string& name) : config(family_case(name)["config"]) {
    for (const auto& [tensor, shape] : family_case(name)["tensors"].items()) {
      tensors[tensor] = shape.get<std::vector<int64_t>>();
    }
  }

  std::string write() const {
    SafetensorsWriter writer;
    for (const auto& [name, shape] : tensors) {
      writer.add(prefix_away(name), shape, family_values(name, shape));
    }
    folder.write("config.json", config.dump());
    return folder.write("model.safetensors", writer.bytes());
  }

  std::string prefix_away(const std::string& name) const {
    return !without.empty() && name.starts_with(without) ? name.substr(without.size()) : name;
  }

  std::vector<float> last_logits() const {
    return interpreted_logits(frontends::load_safetensors(write()).graph);
  }

  std::string complaint() const {
    try {
      frontends::load_safetensors(write());
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

  nlohmann::json config;
  std::map<std::string, std::vector<int64_t>> tensors;
  std::string without;  // what is left away at the front of names
  runtime::TemporaryFolder folder;
};

inline std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const nlohmann::json& one : family_cases()) names.push_back(one["name"]);
  return names;
}

}  // namespace nibble::test
