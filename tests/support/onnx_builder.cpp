#include "tests/support/onnx_builder.h"

#include <fmt/format.h>

namespace nibble::test {
namespace {

constexpr uint32_t kVarint = 0, kLengthDelimited = 2, kFixed32 = 5;

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  out += static_cast<char>(value);
}

void put_tag(std::string& out, uint32_t number, uint32_t type) {
  put_varint(out, uint64_t{number} << 3 | type);
}

WireMessage attribute(std::string_view name, int64_t type) {
  return WireMessage().text(1, name).integer(20, type);
}

}  // namespace

WireMessage& WireMessage::integer(uint32_t number, int64_t value) {
  put_tag(bytes_, number, kVarint);
  put_varint(bytes_, static_cast<uint64_t>(value));
  return *this;
}

WireMessage& WireMessage::text(uint32_t number, std::string_view value) {
  put_tag(bytes_, number, kLengthDelimited);
  put_varint(bytes_, value.size());
  bytes_ += value;
  return *this;
}

WireMessage& WireMessage::real(uint32_t number, float value) {
  put_tag(bytes_, number, kFixed32);
  bytes_ += floats_as_bytes({value});
  return *this;
}

WireMessage& WireMessage::message(uint32_t number, const WireMessage& value) {
  return text(number, value.bytes());
}

WireMessage& WireMessage::packed_integers(uint32_t number, const std::vector<int64_t>& values) {
  std::string payload;
  for (const int64_t value : values) put_varint(payload, static_cast<uint64_t>(value));
  return text(number, payload);
}

WireMessage& WireMessage::raw(std::string_view bytes) {
  bytes_ += bytes;
  return *this;
}

std::string floats_as_bytes(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::string integers_as_bytes(const std::vector<int64_t>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int64_t)};
}

WireMessage onnx_tensor(std::string_view name, int64_t type, const std::vector<int64_t>& dims) {
  WireMessage tensor;
  for (const int64_t dim : dims) tensor.integer(1, dim);
  return tensor.integer(2, type).text(8, name);
}

WireMessage onnx_floats(std::string_view name, const std::vector<int64_t>& dims,
                        const std::vector<float>& values) {
  return onnx_tensor(name, kOnnxFloat, dims).text(9, floats_as_bytes(values));
}

WireMessage onnx_integers(std::string_view name, const std::vector<int64_t>& dims,
                          const std::vector<int64_t>& values) {
  return onnx_tensor(name, kOnnxInt64, dims).text(9, integers_as_bytes(values));
}

WireMessage onnx_external(std::string_view name, int64_t type, const std::vector<int64_t>& dims,
                          const std::vector<std::pair<std::string, std::string>>& entries) {
  WireMessage tensor = onnx_tensor(name, type, dims);
  for (const auto& [key, value] : entries) {
    tensor.message(13, WireMessage().text(1, key).text(2, value));
  }
  return tensor.integer(14, 1);
}

WireMessage onnx_value(std::string_view name, int64_t type, const std::vector<int64_t>& dims) {
  WireMessage shape;
  for (const int64_t dim : dims) {
    shape.message(1, dim < 0 ? WireMessage().text(2, "any") : WireMessage().integer(1, dim));
  }
  const WireMessage tensor = WireMessage().integer(1, type).message(2, shape);
  return WireMessage().text(1, name).message(2, WireMessage().message(1, tensor));
}

WireMessage onnx_node(std::string_view op, const std::vector<std::string>& inputs,
                      const std::vector<std::string>& outputs,
                      const std::vector<WireMessage>& attributes, std::string_view domain) {
  WireMessage node;
  for (const std::string& input : inputs) node.text(1, input);
  for (const std::string& output : outputs) node.text(2, output);
  node.text(3, fmt::format("/{}", op)).text(4, op);
  for (const WireMessage& value : attributes) node.message(5, value);
  if (!domain.empty()) node.text(7, domain);
  return node;
}

WireMessage onnx_int(std::string_view name, int64_t value) {
  return attribute(name, 2).integer(3, value);
}

WireMessage onnx_real(std::string_view name, float value) {
  return attribute(name, 1).real(2, value);
}

WireMessage onnx_text(std::string_view name, std::string_view value) {
  return attribute(name, 3).text(4, value);
}

WireMessage onnx_ints(std::string_view name, const std::vector<int64_t>& values) {
  WireMessage result = attribute(name, 7);
  for (const int64_t value : values) result.integer(8, value);
  return result;
}

WireMessage onnx_reals(std::string_view name, const std::vector<float>& values) {
  WireMessage result = attribute(name, 6);
  for (const float value : values) result.real(7, value);
  return result;
}

WireMessage onnx_tensor_attribute(std::string_view name, const WireMessage& tensor) {
  return attribute(name, 4).message(5, tensor);
}

WireMessage onnx_subgraph(std::string_view name) {
  return attribute(name, 5).message(6, WireMessage().text(2, "body"));
}

std::string OnnxModel::bytes() const {
  WireMessage graph;
  for (const WireMessage& node : nodes) graph.message(1, node);
  graph.text(2, "main");
  for (const WireMessage& tensor : initializers) graph.message(5, tensor);
  for (const WireMessage& value : inputs) graph.message(11, value);
  for (const WireMessage& value : outputs) graph.message(12, value);
  for (const WireMessage& value : value_infos) graph.message(13, value);
  graph.raw(more_of_graph.bytes());

  WireMessage model;
  model.integer(1, ir_version).text(2, "test").message(7, graph);
  for (const auto& [domain, version] : opsets) {
    model.message(8, WireMessage().text(1, domain).integer(2, version));
  }
  return model.raw(more_of_model.bytes()).bytes();
}

OnnxModel tiny_decoder() {
  constexpr int kElements = 32;
  std::vector<float> table(kElements), head(kElements);
  for (int i = 0; i < kElements; ++i) {
    table[static_cast<size_t>(i)] = 0.25F * static_cast<float>(i);
    head[static_cast<size_t>(i)] = 1.0F - 0.5F * static_cast<float>(i);
  }
  OnnxModel model;
  model.initializers = {onnx_floats("table", {8, 4}, table), onnx_floats("head", {4, 8}, head)};
  model.nodes = {onnx_node("Gather", {"table", "input_ids"}, {"hidden"}, {onnx_int("axis", 0)}),
                 onnx_node("MatMul", {"hidden", "head"}, {"logits"}),
                 onnx_node("Identity", {"past_key_values.0.key"}, {"present.0.key"}),
                 onnx_node("Identity", {"past_key_values.0.value"}, {"present.0.value"})};
  const std::vector<int64_t> cache = {-1, 1, -1, 4};
  model.inputs = {onnx_value("input_ids", kOnnxInt64, {-1, -1}),
                  onnx_value("attention_mask", kOnnxInt64, {-1, -1}),
                  onnx_value("past_key_values.0.key", kOnnxFloat, cache),
                  onnx_value("past_key_values.0.value", kOnnxFloat, cache)};
  model.outputs = {onnx_value("logits", kOnnxFloat, {-1, -1, 8}),
                   onnx_value("present.0.key", kOnnxFloat, cache),
                   onnx_value("present.0.value", kOnnxFloat, cache)};
  return model;
}

}  // namespace nibble::test
