#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "graph/nib_model.h"
#include "graph/nib_model_sections.h"
#include "jit/error.h"
#include "runtime/json_text.h"
#include "runtime/nib_file.h"
#include "runtime/numa_memory.h"

namespace nibble::graph {
namespace {

using nlohmann::json;
using runtime::NibFile;

constexpr int64_t kMostValues = std::numeric_limits<ValueId>::max();
constexpr int64_t kMostInt = std::numeric_limits<int64_t>::max();

class Reader {
 public:
  Reader(std::shared_ptr<const NibFile> file, runtime::ThreadPool* pool)
      : file_(std::move(file)), path_(file_->path()), pool_(pool) {}

  Graph run() {
    const json document = parse();
    const JsonCursor root(document, path_, "");
    const int64_t version = root.at("version").integer(1, kMostInt);
    if (version > kGraphVersion) {
      fail(
          "{}: its graph has version {}, but this program reads up to {}: a newer Nibble wrote it.",
          path_, version, kGraphVersion);
    }
    graph_.origin = path_;
    graph_.opset = root.at("opset").integer(0, kMostInt);
    graph_.context_length = root.at("context_length").integer(0, kMostInt);
    graph_.eos_ids = root.at("eos_ids").integers(0, kMostInt);
    graph_.bos_id = root.at("bos_id").integer(-1, kMostInt);

    const JsonCursor values = root.at("values");
    const size_t count = values.size();
    if (count > static_cast<size_t>(kMostValues)) values.wrong("fewer values");
    last_id_ = static_cast<int64_t>(count) - 1;
    graph_.values.reserve(count);
    for (size_t i = 0; i < count; ++i) read_value(values[i], static_cast<ValueId>(i));
    const JsonCursor nodes = root.at("nodes");
    graph_.nodes.reserve(nodes.size());
    for (size_t i = 0; i < nodes.size(); ++i) read_node(nodes[i], i);
    graph_.inputs = ids(root.at("inputs"), 0);
    graph_.outputs = ids(root.at("outputs"), 0);
    read_io(root.at("io"));
    read_documents(root.at("documents"));
    verify(graph_);
    return std::move(graph_);
  }

 private:
  json parse() const {
    const auto bytes = file_->get(kGraphSection);
    constexpr int kMostDepth = 16;  // of objects and lists in each other, twice what a graph has
    return runtime::parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                               path_ + ": section \"graph\"", kMostDepth);
  }

  ValueId id(const JsonCursor& at, int64_t least) const {
    return static_cast<ValueId>(at.integer(least, last_id_));
  }

  std::vector<ValueId> ids(const JsonCursor& at, int64_t least) const {
    std::vector<ValueId> result(at.size());
    for (size_t i = 0; i < result.size(); ++i) result[i] = id(at[i], least);
    return result;
  }

  static DType dtype(const JsonCursor& at) {
    const std::string& name = at.text();
    for (int i = 0; i <= static_cast<int>(DType::u4); ++i) {
      if (dtype_name(static_cast<DType>(i)) == name) return static_cast<DType>(i);
    }
    at.wrong("a tensor type");
  }

  // The bytes of a section that must have exactly this size.
  std::span<const std::byte> section(const std::string& name, int64_t bytes,
                                     const std::string& what) const {
    if (bytes == 0) return {};
    const auto found = file_->find(name);
    if (!found) fail("{}: section \"{}\", which holds {}, is missing.", path_, name, what);
    if (std::ssize(*found) != bytes) {
      fail("{}: section \"{}\", which holds {}: expected {} bytes, found {}.", path_, name, what,
           bytes, found->size());
    }
    if (reinterpret_cast<uintptr_t>(found->data()) % kDataAlignment != 0) {
      fail("{}: section \"{}\", which holds {}: expected to begin at a multiple of {} bytes.",
           path_, name, what, kDataAlignment);
    }
    return *found;
  }

  TensorData tensor(const JsonCursor& at, const std::string& section_name,
                    const std::string& what) const {
    TensorData result;
    result.dtype = dtype(at.at("dtype"));
    result.shape = at.at("shape").integers(0, kMostInt);
    int64_t bytes = 0;
    try {
      bytes = tensor_bytes(result.dtype, result.shape);
    } catch (const Error&) {
      at.at("shape").wrong("a shape whose elements a file can hold");
    }
    const auto data = section(section_name, bytes, what);
    result.data = data.data();
    result.bytes = data.size();
    result.owner = file_;
    return result;
  }

  void read_value(const JsonCursor& at, ValueId id) {
    Value value;
    value.name = at.at("name").text();
    value.dtype = dtype(at.at("dtype"));
    if (at.has("shape")) value.shape = at.at("shape").integers(-1, kMostInt);
    if (at.has("tensor") && at.has("weight")) at.wrong("a tensor or a weight, not both");
    if (at.has("tensor")) {
      value.constant = tensor(at.at("tensor"), constant_section(id),
                              fmt::format("the constant \"{}\"", value.name));
    } else if (at.has("weight")) {
      value.constant = weight(at.at("weight"), id, value.name);
    }
    graph_.values.push_back(std::move(value));
  }

  static jit::WeightFormat weight_format(const JsonCursor& at) {
    jit::WeightFormat format;
    const JsonCursor type = at.at("type"), scale = at.at("scale");
    if (type.text() == "u4") {
      format.type = jit::WeightType::u4;
    } else if (type.text() == "u6") {
      format.type = jit::WeightType::u6;
    } else if (type.text() == "u8") {
      format.type = jit::WeightType::u8;
    } else if (type.text() == "f32") {
      format.type = jit::WeightType::f32;
    } else {
      type.wrong("\"u4\", \"u6\", \"u8\" or \"f32\"");
    }
    const auto scale_type = jit::parse_scale_type(scale.text());
    if (!scale_type) scale.wrong("\"f16\", \"f32\", \"bf16\" or \"q8\"");
    format.scale = *scale_type;
    format.group = at.at("group").integer(0, kMostInt);
    format.asym = at.at("asym").boolean();
    format.minimum = at.has("minimum") && at.at("minimum").boolean();
    return format;
  }

  runtime::PackedMatrix weight(const JsonCursor& at, ValueId id, const std::string& name) const {
    runtime::PackedMatrix result;
    jit::PackedView& view = result.view;
    view.format = weight_format(at);
    view.n = at.at("n").integer(1, kMostInt);
    view.k = at.at("k").integer(1, kMostInt);
    jit::PackedShape shape;
    try {
      shape = jit::packed_shape(view.format, view.n, view.k);
    } catch (const Error& e) {
      fail("{}: section \"graph\", {}, the weight \"{}\": {}", path_, at.place(), name, e.what());
    }
    const std::string what = fmt::format("the weight \"{}\"", name);
    const auto part = [&](std::string_view part_name, int64_t bytes) {
      return section(weight_section(id, part_name), bytes, what).data();
    };
    view.data = reinterpret_cast<const uint8_t*>(part("data", shape.data_bytes));
    view.scales = part("scales", shape.scale_bytes);
    view.zeros = reinterpret_cast<const uint8_t*>(part("zeros", shape.zero_bytes));
    result.owner = file_;
    if (pool_ != nullptr && pool_->placement().nodes.size() > 1) {
      return runtime::copy_to_nodes(result, *pool_);
    }
    return result;
  }

  void read_node(const JsonCursor& at, size_t index) {
    Node node;
    node.op = at.at("op").text();
    node.domain = at.at("domain").text();
    node.name = at.at("name").text();
    node.inputs = ids(at.at("inputs"), kNoValue);
    node.outputs = ids(at.at("outputs"), kNoValue);
    const JsonCursor attributes = at.at("attributes");
    for (const auto& [key, ignored] : attributes.object().items()) {
      node.attributes.emplace(key, attribute(attributes.member(key), index, key, node));
    }
    graph_.nodes.push_back(std::move(node));
  }

  Attribute attribute(const JsonCursor& at, size_t node_index, const std::string& key,
                      const Node& node) const {
    if (at.object().size() != 1) at.wrong("an object with one member");
    if (at.has("int")) return at.at("int").integer();
    if (at.has("float")) return at.at("float").real();
    if (at.has("string")) return at.at("string").text();
    if (at.has("ints")) {
      return at.at("ints").integers(std::numeric_limits<int64_t>::min(), kMostInt);
    }
    if (at.has("floats")) {
      const JsonCursor list = at.at("floats");
      std::vector<float> values(list.size());
      for (size_t i = 0; i < values.size(); ++i) values[i] = list[i].real();
      return values;
    }
    if (at.has("tensor")) {
      return tensor(at.at("tensor"), attribute_section(node_index, key),
                    fmt::format("the attribute \"{}\" of node \"{}\"", key, node.name));
    }
    at.wrong("an int, float, string, ints, floats or tensor");
  }

  void read_io(const JsonCursor& at) {
    DecoderIo& io = graph_.io;
    io.input_ids = id(at.at("input_ids"), kNoValue);
    io.attention_mask = id(at.at("attention_mask"), kNoValue);
    io.position_ids = id(at.at("position_ids"), kNoValue);
    io.logits = id(at.at("logits"), kNoValue);
    const JsonCursor layers = at.at("layers");
    for (size_t i = 0; i < layers.size(); ++i) {
      const JsonCursor layer = layers[i];
      if (layer.size() != 4) layer.wrong("four ids");
      io.layers.push_back({id(layer[0], kNoValue), id(layer[1], kNoValue), id(layer[2], kNoValue),
                           id(layer[3], kNoValue)});
    }
  }

  void read_documents(const JsonCursor& at) {
    for (size_t i = 0; i < at.size(); ++i) {
      const JsonCursor document = at[i];
      const std::string& name = document.at("name").text();
      if (graph_.documents.contains(name)) document.wrong("a document that is not there twice");
      const auto bytes = section(document_section(name), document.at("bytes").integer(0, kMostInt),
                                 fmt::format("the document \"{}\"", name));
      graph_.documents[name].assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
  }

  std::shared_ptr<const NibFile> file_;
  const std::string& path_;
  runtime::ThreadPool* pool_;  // null: weights stay where they are mapped
  Graph graph_;
  int64_t last_id_ = -1;
};

}  // namespace

Graph read_nib_model(const std::string& path, runtime::ThreadPool* pool) {
  return Reader(NibFile::open(path, pool), pool).run();
}

}  // namespace nibble::graph
