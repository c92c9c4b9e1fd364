#include "graph/nib_model.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "graph/nib_model_sections.h"
#include "jit/error.h"
#include "runtime/nib_file.h"

namespace nibble::graph {
namespace {

using nlohmann::json;
using runtime::PackedMatrix;

std::span<const std::byte> bytes_of(const void* data, int64_t size) {
  return {static_cast<const std::byte*>(data), static_cast<size_t>(size)};
}

class ModelWriter {
 public:
  ModelWriter(const Graph& graph, const std::string& path, const PackWeight& pack)
      : graph_(graph), path_(path), pack_(pack), file_(path), used_(graph.values.size(), false) {}

  void run() {
    for (const Node& node : graph_.nodes) {
      for (const ValueId id : node.inputs) mark_used(id);
    }
    for (const ValueId id : graph_.outputs) mark_used(id);

    json root;
    root["version"] = kGraphVersion;
    root["opset"] = graph_.opset;
    root["context_length"] = graph_.context_length;
    root["eos_ids"] = graph_.eos_ids;
    root["bos_id"] = graph_.bos_id;
    root["inputs"] = graph_.inputs;
    root["outputs"] = graph_.outputs;
    root["io"] = io_json();
    json& values = root["values"] = json::array();
    for (size_t i = 0; i < graph_.values.size(); ++i) values.push_back(write_value(i));
    json& nodes = root["nodes"] = json::array();
    for (size_t i = 0; i < graph_.nodes.size(); ++i) nodes.push_back(write_node(i));
    json& documents = root["documents"] = json::array();
    for (const auto& [name, text] : graph_.documents) {
      documents.push_back({{"name", name}, {"bytes", text.size()}});
      add(document_section(name), bytes_of(text.data(), std::ssize(text)), kDataAlignment);
    }
    const std::string text = to_utf8(root);
    add(kGraphSection, bytes_of(text.data(), std::ssize(text)), kDataAlignment);
    file_.commit();
  }

 private:
  void mark_used(ValueId id) {
    if (id != kNoValue) used_[static_cast<size_t>(id)] = true;
  }

  // Empty data needs no section: its size is known from the graph.
  void add(std::string_view name, std::span<const std::byte> bytes, uint64_t alignment) {
    if (!bytes.empty()) file_.add(name, bytes, alignment);
  }

  std::string to_utf8(const json& root) const {
    try {
      return root.dump();
    } catch (const json::exception&) {
      fail(
          "{}: the graph cannot be written: expected names and strings in UTF-8, found other "
          "bytes.",
          path_);
    }
  }

  json io_json() const {
    const DecoderIo& io = graph_.io;
    json layers = json::array();
    for (const LayerCache& layer : io.layers) {
      layers.push_back({layer.past_key, layer.past_value, layer.present_key, layer.present_value});
    }
    return {{"input_ids", io.input_ids},
            {"attention_mask", io.attention_mask},
            {"position_ids", io.position_ids},
            {"logits", io.logits},
            {"layers", std::move(layers)}};
  }

  json tensor_json(const TensorData& tensor) const {
    return {{"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}};
  }

  // A constant that nothing uses is left out: passes leave originals behind.
  json write_value(size_t i) {
    const Value& value = graph_.values[i];
    json result = {{"name", value.name}, {"dtype", dtype_name(value.dtype)}};
    if (value.shape) result["shape"] = *value.shape;
    if (!value.constant || !used_[i]) return result;
    const auto id = static_cast<ValueId>(i);
    if (const auto* tensor = std::get_if<TensorData>(&*value.constant)) {
      result["tensor"] = tensor_json(*tensor);
      check_size(*tensor, value.name);
      add(constant_section(id), {tensor->data, tensor->bytes}, kDataAlignment);
    } else {
      result["weight"] = write_weight(id, value);
    }
    return result;
  }

  void check_size(const TensorData& tensor, const std::string& name) const {
    const int64_t expected = tensor_bytes(tensor.dtype, tensor.shape);
    if (expected != static_cast<int64_t>(tensor.bytes)) {
      fail("{}: the constant \"{}\" is {} {}: expected {} bytes, found {}.", path_, name,
           dtype_name(tensor.dtype), to_string(tensor.shape), expected, tensor.bytes);
    }
  }

  json write_weight(ValueId id, const Value& value) {
    const PackedMatrix packed = pack_(id);
    const jit::PackedView& view = packed.view;
    if (const auto* source = std::get_if<MatrixSource>(&*value.constant);
        source != nullptr && (source->n != view.n || source->k != view.k)) {
      fail("{}: the weight \"{}\" is {} x {}, but it was packed as {} x {}.", path_, value.name,
           source->n, source->k, view.n, view.k);
    }
    const jit::PackedShape shape = jit::packed_shape(view.format, view.n, view.k);
    add(weight_section(id, "data"), bytes_of(view.data, shape.data_bytes), kWeightAlignment);
    add(weight_section(id, "scales"), bytes_of(view.scales, shape.scale_bytes), kWeightAlignment);
    add(weight_section(id, "zeros"), bytes_of(view.zeros, shape.zero_bytes), kWeightAlignment);
    json weight = {{"type", jit::weight_type_name(view.format.type)},
                   {"group", view.format.group},
                   {"asym", view.format.asym},
                   {"scale", jit::scale_type_name(view.format.scale)},
                   {"n", view.n},
                   {"k", view.k}};
    if (view.format.minimum) weight["minimum"] = true;
    return weight;
  }

  json write_node(size_t i) {
    const Node& node = graph_.nodes[i];
    json attributes = json::object();
    for (const auto& [key, attribute] : node.attributes) {
      attributes[key] = write_attribute(i, key, attribute);
    }
    return {{"op", node.op},         {"domain", node.domain},   {"name", node.name},
            {"inputs", node.inputs}, {"outputs", node.outputs}, {"attributes", attributes}};
  }

  json write_attribute(size_t node, const std::string& key, const Attribute& attribute) {
    json result = json::object();
    if (const auto* i = std::get_if<int64_t>(&attribute)) {
      result["int"] = *i;
    } else if (const auto* f = std::get_if<float>(&attribute)) {
      result["float"] = json_real(*f);
    } else if (const auto* s = std::get_if<std::string>(&attribute)) {
      result["string"] = *s;
    } else if (const auto* is = std::get_if<std::vector<int64_t>>(&attribute)) {
      result["ints"] = *is;
    } else if (const auto* fs = std::get_if<std::vector<float>>(&attribute)) {
      json& list = result["floats"] = json::array();
      for (const float value : *fs) list.push_back(json_real(value));
    } else {
      const auto& tensor = std::get<TensorData>(attribute);
      check_size(tensor, graph_.nodes[node].name + "." + key);
      result["tensor"] = tensor_json(tensor);
      add(attribute_section(node, key), {tensor.data, tensor.bytes}, kDataAlignment);
    }
    return result;
  }

  const Graph& graph_;
  const std::string& path_;
  const PackWeight& pack_;
  runtime::NibWriter file_;
  std::vector<bool> used_;
};

}  // namespace

void write_nib_model(const Graph& graph, const std::string& path, const PackWeight& pack) {
  verify(graph);
  ModelWriter(graph, path, pack).run();
}

}  // namespace nibble::graph
