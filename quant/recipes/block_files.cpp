#include "quant/recipes/block_files.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "graph/nib_model.h"
#include "jit/error.h"
#include "quant/recipes/recipe.h"
#include "runtime/json_text.h"

namespace nibble::quant {
namespace {

// A block's file is a model without nodes: a constant a weight and a fold, named by its number.
constexpr std::string_view kWeight = "weight ", kFold = "fold ";
constexpr const char* kOutcomes = "outcomes.json";

graph::Graph to_graph(const BlockOutcome& outcome) {
  graph::Graph graph;
  // Outputs, for a model keeps what is of use alone.
  for (const auto& [id, packed] : outcome.weights) {
    graph.outputs.push_back(graph.add_constant(fmt::format("{}{}", kWeight, id), packed));
  }
  for (const auto& [fold, factors] : outcome.factors) {
    auto tensor = graph::make_f32({static_cast<int64_t>(factors.size())}, factors);
    graph.outputs.push_back(
        graph.add_constant(fmt::format("{}{}", kFold, fold), std::move(tensor)));
  }
  nlohmann::json outcomes = nlohmann::json::array();
  for (const WeightOutcome& weight : outcome.outcomes) {
    outcomes.push_back({{"name", weight.name},
                        {"layer", weight.layer},
                        {"error", weight.error},
                        {"nearest_error", weight.nearest_error},
                        {"seconds", weight.seconds}});
  }
  graph.documents[kOutcomes] = outcomes.dump();
  return graph;
}

// The number behind `prefix`; nullopt when the name is another one.
std::optional<int64_t> number_after(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  int64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return number;
}

BlockOutcome from_graph(const graph::Graph& graph) {
  BlockOutcome outcome;
  for (const graph::Value& value : graph.values) {
    if (const auto id = number_after(value.name, kWeight)) {
      outcome.weights.emplace(static_cast<graph::ValueId>(*id),
                              std::get<runtime::PackedMatrix>(value.constant.value()));
    } else if (const auto fold = number_after(value.name, kFold)) {
      outcome.factors.emplace(static_cast<size_t>(*fold),
                              graph::to_f32(std::get<graph::TensorData>(value.constant.value())));
    }
  }
  for (const nlohmann::json& weight :
       runtime::parse_json(graph.documents.at(kOutcomes), kOutcomes)) {
    outcome.outcomes.push_back({.name = weight.at("name").get<std::string>(),
                                .layer = weight.at("layer").get<int64_t>(),
                                .error = weight.at("error").get<double>(),
                                .nearest_error = weight.at("nearest_error").get<double>(),
                                .seconds = weight.at("seconds").get<double>()});
  }
  return outcome;
}

}  // namespace

BlockFiles::BlockFiles(std::string folder, runtime::ThreadPool& pool)
    : folder_(std::move(folder)), pool_(pool) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) fail("{}: the folder cannot be made: {}.", folder_, error.message());
}

std::string BlockFiles::path(size_t block) const {
  return fmt::format("{}/block-{}.nib", folder_, block);
}

std::optional<BlockOutcome> BlockFiles::load(size_t block) {
  if (!std::filesystem::exists(path(block))) return std::nullopt;
  try {
    return from_graph(graph::read_nib_model(path(block), &pool_));
  } catch (const std::exception&) {  // of any kind: then the block is made again
    return std::nullopt;
  }
}

void BlockFiles::save(size_t block, const BlockOutcome& outcome) {
  const graph::Graph graph = to_graph(outcome);
  graph::write_nib_model(graph, path(block), [&](graph::ValueId id) {
    return std::get<runtime::PackedMatrix>(*graph.values[static_cast<size_t>(id)].constant);
  });
}

}  // namespace nibble::quant
