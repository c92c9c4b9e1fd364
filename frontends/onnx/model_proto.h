// An ONNX model as the file spells it: records of string_views and spans into the mapped file, for
// the parts of onnx.proto that a decoder needs. No meaning yet: tensor_loader.h turns tensors into
// data, graph_builder.h the whole into a Graph. Functions are only noticed; a subgraph is kept as
// its bytes until somebody asks for it, so nothing here recurses. Source: onnx.proto (IR version 3
// to 12).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "frontends/wire/wire.h"

namespace nibble::frontends::onnx {

using Bytes = std::span<const std::byte>;

// TensorProto. A typed field (float_data and the like) is kept as its encoded chunks: one when it
// is packed, else one per element.
struct TensorProto {
  struct Entry {
    std::string_view key, value;
  };
  std::string_view name;
  std::vector<int64_t> dims;
  int64_t data_type = 0;
  std::optional<Bytes> raw_data;
  std::vector<Bytes> float_data, double_data;              // little-endian values
  std::vector<Bytes> int32_data, int64_data, uint64_data;  // varints
  bool has_string_data = false, has_segment = false;
  int64_t data_location = 0;  // 1: external
  std::vector<Entry> external_data;
};

struct AttributeProto {
  enum Type : int64_t {
    kFloat = 1,
    kInt = 2,
    kString = 3,
    kTensor = 4,
    kGraph = 5,
    kFloats = 6,
    kInts = 7
  };
  std::string_view name, reference;  // reference: ref_attr_name, of function bodies only
  int64_t type = 0;
  std::optional<float> f;
  std::optional<int64_t> i;
  std::optional<std::string_view> s;
  std::shared_ptr<const TensorProto> t;  // apart: few have one
  std::optional<Bytes> g;                // a subgraph: see parse_subgraph
  std::vector<float> floats;
  std::vector<int64_t> ints;
};

struct NodeProto {
  std::string_view name, op_type, domain;
  std::vector<std::string_view> inputs, outputs;
  std::vector<AttributeProto> attributes;
};

// ValueInfoProto of a tensor. elem_type 0: not declared.
struct ValueInfo {
  std::string_view name;
  bool is_tensor = true;  // false: a sequence, map, optional or sparse tensor
  int64_t elem_type = 0;
  std::optional<std::vector<int64_t>> shape;  // -1 where symbolic
};

struct GraphProto {
  std::vector<NodeProto> nodes;
  std::vector<TensorProto> initializers;
  std::vector<ValueInfo> inputs, outputs, value_infos;
  bool has_sparse_initializer = false;
};

struct ModelProto {
  struct Opset {
    std::string_view domain;
    int64_t version = 0;
  };
  int64_t ir_version = 0;
  std::vector<Opset> opsets;
  std::optional<GraphProto> graph;
  bool has_functions = false;
};

// Throws Error naming the file, the offset and the field, or when there are more messages of a kind
// than any model has: each takes more memory than bytes of the file. The result points into
// file.bytes.
ModelProto parse_model(const WireFile& file);

// A subgraph of that file.
GraphProto parse_subgraph(const WireFile& file, Bytes bytes);

}  // namespace nibble::frontends::onnx
