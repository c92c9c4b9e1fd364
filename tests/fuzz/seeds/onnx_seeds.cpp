// Models of the zoo without their weights: every large initializer becomes external data at the
// start of one file of zeros.
#include <fmt/format.h>
#include <onnx/onnx_pb.h>

#include <map>
#include <string>
#include <utility>

#include "tests/fuzz/seeds/seeds.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/onnx_builder.h"
#include "tests/support/shared_files.h"

namespace nibble::fuzz {
namespace {

namespace fs = std::filesystem;
using runtime::read_file;

constexpr int64_t kRows = 16;  // that are left of a vocabulary

// Bytes of a tensor, wherever they are.
size_t bytes_of(const ::onnx::TensorProto& tensor) {
  for (const auto& entry : tensor.external_data()) {
    if (entry.key() == "length") return std::stoul(entry.value());
  }
  return tensor.raw_data().size();
}

void make_external(::onnx::TensorProto& tensor, int64_t vocabulary) {
  constexpr size_t kSmall = 600;
  const size_t before = bytes_of(tensor);
  if (before < kSmall && tensor.external_data_size() == 0) return;
  int64_t elements = 1, left = 1;
  for (int i = 0; i < tensor.dims_size(); ++i) {
    elements *= tensor.dims(i);
    if (tensor.dims(i) == vocabulary) tensor.set_dims(i, kRows);
    left *= tensor.dims(i);
  }
  const size_t bytes = before / static_cast<size_t>(elements) * static_cast<size_t>(left);
  tensor.clear_raw_data();
  tensor.clear_external_data();
  tensor.set_data_location(::onnx::TensorProto::EXTERNAL);
  for (const auto& [key, value] : {std::pair<std::string, std::string>{"location", "weights.bin"},
                                   {"offset", "0"},
                                   {"length", std::to_string(bytes)}}) {
    auto* entry = tensor.add_external_data();
    entry->set_key(key);
    entry->set_value(value);
  }
}

// Short names for all but the graph's inputs and outputs, which say what they are.
class Renamer {
 public:
  explicit Renamer(const ::onnx::GraphProto& graph) {
    for (const auto& input : graph.input()) names_[input.name()] = input.name();
    for (const auto& output : graph.output()) names_[output.name()] = output.name();
  }
  std::string operator()(const std::string& name) {
    if (name.empty()) return name;
    const auto [at, is_new] = names_.emplace(name, "");
    if (is_new) at->second = fmt::format("v{}", names_.size());
    return at->second;
  }

 private:
  std::map<std::string, std::string> names_;
};

void shorten_names(::onnx::GraphProto& graph) {
  Renamer renamed(graph);
  for (auto& tensor : *graph.mutable_initializer()) tensor.set_name(renamed(tensor.name()));
  int number = 0;
  for (auto& node : *graph.mutable_node()) {
    const size_t layer = node.name().find("layers.");
    node.set_name(layer == std::string::npos
                      ? fmt::format("n{}", number)
                      : fmt::format("{}/{}", node.name().substr(layer, 8), number));
    ++number;
    for (auto& name : *node.mutable_input()) name = renamed(name);
    for (auto& name : *node.mutable_output()) name = renamed(name);
  }
}

// The model without weights, names of no use and declared shapes of no need; "" without the zoo.
std::string stripped(const std::string& family, int64_t vocabulary) {
  const fs::path path = test::shared_folder() / "models/zoo" / family / "model.onnx";
  ::onnx::ModelProto model;
  if (!model.ParseFromString(read_file(path.string())) || !model.has_graph()) return "";
  auto& graph = *model.mutable_graph();
  graph.clear_doc_string();
  graph.clear_value_info();
  model.clear_doc_string();
  model.DiscardUnknownFields();  // metadata of newer schemas
  for (auto& node : *graph.mutable_node()) node.clear_doc_string();
  for (auto& tensor : *graph.mutable_initializer()) make_external(tensor, vocabulary);
  shorten_names(graph);
  return model.SerializeAsString();
}

}  // namespace

void onnx_seeds(const Corpus& corpus) {
  corpus.add("onnx", "tiny", test::tiny_decoder().bytes());
  for (const std::string family :
       {"llama", "gemma2", "phi-3", "bloom", "gpt2", "qwen3", "mistral-window", "falcon-40b", "mpt",
        "dynamo-llama-opset23", "genai-llama-int4-g32"}) {
    // Some have other sizes that are that of the vocabulary.
    const bool trim = family != "phi-3" && family != "genai-llama-int4-g32";
    const std::string bytes = stripped(family, trim ? 512 : -1);
    if (!bytes.empty()) corpus.add("onnx", family, bytes);
  }
  test::OnnxModel external = test::tiny_decoder();
  external.initializers[0] =
      test::onnx_external("table", test::kOnnxFloat, {8, 4},
                          {{"location", "weights.bin"}, {"offset", "16"}, {"length", "128"}});
  corpus.add("onnx_external", "tiny", joined({external.bytes(), std::string(144, '\1')}));
  external.initializers[0] =
      test::onnx_external("table", test::kOnnxFloat, {8, 4}, {{"location", "./weights.bin"}});
  corpus.add("onnx_external", "rest", joined({external.bytes(), std::string(128, '\2')}));
  external.initializers[1] =
      test::onnx_external("head", test::kOnnxFloat, {4, 8},
                          {{"location", "weights.bin"}, {"offset", "64"}, {"checksum", "0"}});
  const test::WireMessage outer = test::onnx_external(
      "", test::kOnnxFloat16, {2}, {{"location", "weights.bin"}, {"length", "4"}});
  external.nodes.push_back(
      test::onnx_node("Constant", {}, {"c"}, {test::onnx_tensor_attribute("value", outer)}));
  corpus.add("onnx_external", "shared", joined({external.bytes(), std::string(192, '\3')}));
}

}  // namespace nibble::fuzz
