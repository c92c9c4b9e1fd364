// Writes small ONNX models for tests, field by field in protobuf's wire format, so that a test can
// also write what no ONNX library would: fields twice, wrong types, sizes that lie.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble::test {

// A protobuf message under construction. Each call appends one field and returns the message.
class WireMessage {
 public:
  WireMessage& integer(uint32_t number, int64_t value);
  WireMessage& text(uint32_t number, std::string_view value);
  WireMessage& real(uint32_t number, float value);
  WireMessage& message(uint32_t number, const WireMessage& value);
  WireMessage& packed_integers(uint32_t number, const std::vector<int64_t>& values);
  WireMessage& raw(std::string_view bytes);  // as they are
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// TensorProto.DataType.
enum OnnxType : int64_t {
  kOnnxFloat = 1,
  kOnnxUint8 = 2,
  kOnnxInt8 = 3,
  kOnnxInt32 = 6,
  kOnnxInt64 = 7,
  kOnnxString = 8,
  kOnnxBool = 9,
  kOnnxFloat16 = 10,
  kOnnxDouble = 11,
  kOnnxUint64 = 13,
  kOnnxBfloat16 = 16,
  kOnnxUint4 = 21
};

std::string floats_as_bytes(const std::vector<float>& values);
std::string integers_as_bytes(const std::vector<int64_t>& values);

// A TensorProto without data; add raw_data (9) or a typed field. The others have data.
WireMessage onnx_tensor(std::string_view name, int64_t type, const std::vector<int64_t>& dims);
WireMessage onnx_floats(std::string_view name, const std::vector<int64_t>& dims,
                        const std::vector<float>& values);
WireMessage onnx_integers(std::string_view name, const std::vector<int64_t>& dims,
                          const std::vector<int64_t>& values);
// Entries of external_data: location, offset, length as text.
WireMessage onnx_external(std::string_view name, int64_t type, const std::vector<int64_t>& dims,
                          const std::vector<std::pair<std::string, std::string>>& entries);

WireMessage onnx_value(std::string_view name, int64_t type, const std::vector<int64_t>& dims);
WireMessage onnx_node(std::string_view op, const std::vector<std::string>& inputs,
                      const std::vector<std::string>& outputs,
                      const std::vector<WireMessage>& attributes = {},
                      std::string_view domain = "");

WireMessage onnx_int(std::string_view name, int64_t value);
WireMessage onnx_real(std::string_view name, float value);
WireMessage onnx_text(std::string_view name, std::string_view value);
WireMessage onnx_ints(std::string_view name, const std::vector<int64_t>& values);
WireMessage onnx_reals(std::string_view name, const std::vector<float>& values);
WireMessage onnx_tensor_attribute(std::string_view name, const WireMessage& tensor);
WireMessage onnx_subgraph(std::string_view name);

// A model as lists of its parts; bytes() puts them together.
struct OnnxModel {
  int64_t ir_version = 8;
  std::vector<std::pair<std::string, int64_t>> opsets = {{"", 17}};
  std::vector<WireMessage> nodes, initializers, inputs, outputs, value_infos;
  WireMessage more_of_graph, more_of_model;  // appended fields
  std::string bytes() const;
};

// A one-layer "decoder" that computes little but has every input and output of one: logits =
// table[input_ids] * head, with table f32 [8,4] and head f32 [4,8]; the cache passes through.
OnnxModel tiny_decoder();

}  // namespace nibble::test
