#include "frontends/onnx/model_writer.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <filesystem>

#include "jit/error.h"

namespace nibble::frontends::onnx {
namespace {

constexpr int64_t kIrVersion = 8;      // that of ONNX 1.12, the first with opset 17
constexpr size_t kMostInside = 1024;   // bytes of a tensor that is kept in the model
constexpr uint64_t kAlignment = 4096;  // of tensors in the data file, so that they can be mapped
constexpr int64_t kExternal = 1;       // TensorProto.data_location

// AttributeProto.AttributeType.
constexpr int64_t kFloatAttribute = 1, kIntAttribute = 2, kIntsAttribute = 7;

WireWriter attribute_proto(const WriterAttribute& attribute) {
  WireWriter proto;
  proto.text(1, attribute.first);
  if (const auto* f = std::get_if<float>(&attribute.second)) {
    proto.real(2, *f).integer(20, kFloatAttribute);
  } else if (const auto* i = std::get_if<int64_t>(&attribute.second)) {
    proto.integer(3, *i).integer(20, kIntAttribute);
  } else {
    for (const int64_t value : std::get<std::vector<int64_t>>(attribute.second)) {
      proto.integer(8, value);
    }
    proto.integer(20, kIntsAttribute);
  }
  return proto;
}

WireWriter value_info(const std::string& name, ElementType type,
                      const std::vector<ModelWriter::Dimension>& dimensions) {
  WireWriter shape;
  for (const auto& dimension : dimensions) {
    WireWriter proto;
    if (const auto* value = std::get_if<int64_t>(&dimension)) {
      proto.integer(1, *value);
    } else {
      proto.text(2, std::get<std::string>(dimension));
    }
    shape.message(1, proto);
  }
  const WireWriter tensor = WireWriter().integer(1, static_cast<int64_t>(type)).message(2, shape);
  return WireWriter().text(1, name).message(2, WireWriter().message(1, tensor));
}

WireWriter entry(std::string_view key, const std::string& value) {
  return WireWriter().text(1, key).text(2, value);
}

std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace

ModelWriter::ModelWriter(std::string path)
    : path_(std::move(path)),
      location_(std::filesystem::path(path_).filename().string() + "_data"),
      data_(path_ + "_data") {}

std::string ModelWriter::unique(const std::string& name) {
  const auto [at, is_new] = taken_.emplace(name, 1);
  if (is_new) return name;
  for (;;) {
    std::string numbered = fmt::format("{}_{}", name, at->second++);
    if (taken_.emplace(numbered, 1).second) return numbered;
  }
}

void ModelWriter::input(const std::string& name, ElementType type,
                        const std::vector<Dimension>& shape) {
  graph_.message(11, value_info(unique(name), type, shape));
}

void ModelWriter::output(const std::string& name, ElementType type,
                         const std::vector<Dimension>& shape) {
  graph_.message(12, value_info(name, type, shape));
}

std::vector<std::string> ModelWriter::nodes(size_t outputs, std::string_view op,
                                            const std::string& name,
                                            std::vector<std::string> inputs,
                                            const WriterAttributes& attributes,
                                            std::string_view domain) {
  const std::string own = unique(name);
  std::vector<std::string> names = {own};
  while (names.size() < outputs) names.push_back(unique(fmt::format("{}:{}", own, names.size())));
  while (!inputs.empty() && inputs.back().empty()) inputs.pop_back();  // optional ones at the end
  WireWriter proto;
  for (const std::string& input : inputs) proto.text(1, input);
  for (const std::string& output : names) proto.text(2, output);
  proto.text(3, own).text(4, op);
  for (const WriterAttribute& attribute : attributes) proto.message(5, attribute_proto(attribute));
  if (!domain.empty()) proto.text(7, domain);
  graph_.message(1, proto);
  return names;
}

std::string ModelWriter::node(std::string_view op, const std::string& name,
                              std::vector<std::string> inputs, const WriterAttributes& attributes,
                              std::string_view domain) {
  return nodes(1, op, name, std::move(inputs), attributes, domain).front();
}

void ModelWriter::rename(const std::string& value, const std::string& name) {
  if (unique(name) != name) fail("{}: the name '{}' is taken already.", path_, name);
  graph_.message(
      1, WireWriter().text(1, value).text(2, name).text(3, name + "/Identity").text(4, "Identity"));
}

std::string ModelWriter::constant(const std::string& name, ElementType type,
                                  const graph::Shape& shape, std::string_view bytes) {
  std::string own = unique(name);
  WireWriter proto;
  for (const int64_t dimension : shape) proto.integer(1, dimension);
  proto.integer(2, static_cast<int64_t>(type)).text(8, own);
  if (bytes.size() <= kMostInside) {
    proto.text(9, bytes);
  } else {
    const std::array<std::byte, kAlignment> zeros{};
    data_.append(std::span(zeros).first((kAlignment - data_.size() % kAlignment) % kAlignment));
    proto.message(13, entry("location", location_))
        .message(13, entry("offset", std::to_string(data_.size())))
        .message(13, entry("length", std::to_string(bytes.size())))
        .integer(14, kExternal);
    data_.append(as_bytes(bytes));
  }
  graph_.message(5, proto);
  return own;
}

std::string ModelWriter::floats(const std::string& name, const graph::Shape& shape,
                                std::span<const float> values) {
  return constant(name, ElementType::f32, shape,
                  {reinterpret_cast<const char*>(values.data()), values.size_bytes()});
}

std::string ModelWriter::number(float value) {
  std::string& known = numbers_[std::bit_cast<uint32_t>(value)];
  if (known.empty()) known = floats(fmt::format("number/{}", value), {}, {&value, 1});
  return known;
}

std::string ModelWriter::bytes(const std::string& name, const graph::Shape& shape,
                               std::span<const uint8_t> values) {
  return constant(name, ElementType::u8, shape,
                  {reinterpret_cast<const char*>(values.data()), values.size()});
}

std::string ModelWriter::integers(const std::vector<int64_t>& values) {
  std::string& known = integers_[values];
  if (!known.empty()) return known;
  return known = constant(
             "integers/" + graph::to_string(values), ElementType::i64,
             {static_cast<int64_t>(values.size())},
             {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int64_t)});
}

void ModelWriter::commit() {
  WireWriter model;
  model.integer(1, kIrVersion).text(2, "nibble");
  graph_.text(2, "decoder");
  model.message(7, graph_);
  model.message(8, WireWriter().text(1, "").integer(2, kExportedOpset));
  model.message(8, WireWriter().text(1, "com.microsoft").integer(2, 1));
  runtime::AtomicFile file(path_);
  file.append(as_bytes(model.bytes()));
  data_.commit();
  file.commit();
}

}  // namespace nibble::frontends::onnx
