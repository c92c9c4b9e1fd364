#include "frontends/onnx/model_proto.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "jit/error.h"

namespace nibble::frontends::onnx {
namespace {

// The schemas. Every field of onnx.proto is listed, those that are skipped too.
constexpr auto kBytes = WireType::bytes;
constexpr auto kVarint = WireType::varint;
constexpr auto kFixed32 = WireType::fixed32;
constexpr auto kFixed64 = WireType::fixed64;

constexpr std::array kModelFields = std::to_array<FieldSpec>({{1, "ir_version", kVarint},
                                                              {2, "producer_name", kBytes},
                                                              {3, "producer_version", kBytes},
                                                              {4, "domain", kBytes},
                                                              {5, "model_version", kVarint},
                                                              {6, "doc_string", kBytes},
                                                              {7, "graph", kBytes},
                                                              {8, "opset_import", kBytes, true},
                                                              {14, "metadata_props", kBytes, true},
                                                              {20, "training_info", kBytes, true},
                                                              {25, "functions", kBytes, true},
                                                              {26, "configuration", kBytes, true}});
constexpr std::array kOpsetFields =
    std::to_array<FieldSpec>({{1, "domain", kBytes}, {2, "version", kVarint}});
constexpr std::array kGraphFields =
    std::to_array<FieldSpec>({{1, "node", kBytes, true},
                              {2, "name", kBytes},
                              {5, "initializer", kBytes, true},
                              {10, "doc_string", kBytes},
                              {11, "input", kBytes, true},
                              {12, "output", kBytes, true},
                              {13, "value_info", kBytes, true},
                              {14, "quantization_annotation", kBytes, true},
                              {15, "sparse_initializer", kBytes, true},
                              {16, "metadata_props", kBytes, true}});
constexpr std::array kNodeFields =
    std::to_array<FieldSpec>({{1, "input", kBytes, true},
                              {2, "output", kBytes, true},
                              {3, "name", kBytes},
                              {4, "op_type", kBytes},
                              {5, "attribute", kBytes, true},
                              {6, "doc_string", kBytes},
                              {7, "domain", kBytes},
                              {8, "overload", kBytes},
                              {9, "metadata_props", kBytes, true},
                              {10, "device_configurations", kBytes, true}});
constexpr std::array kAttributeFields =
    std::to_array<FieldSpec>({{1, "name", kBytes},
                              {2, "f", kFixed32},
                              {3, "i", kVarint},
                              {4, "s", kBytes},
                              {5, "t", kBytes},
                              {6, "g", kBytes},
                              {7, "floats", kFixed32, true},
                              {8, "ints", kVarint, true},
                              {9, "strings", kBytes, true},
                              {10, "tensors", kBytes, true},
                              {11, "graphs", kBytes, true},
                              {13, "doc_string", kBytes},
                              {14, "tp", kBytes},
                              {15, "type_protos", kBytes, true},
                              {20, "type", kVarint},
                              {21, "ref_attr_name", kBytes},
                              {22, "sparse_tensor", kBytes},
                              {23, "sparse_tensors", kBytes, true}});
constexpr std::array kTensorFields =
    std::to_array<FieldSpec>({{1, "dims", kVarint, true},
                              {2, "data_type", kVarint},
                              {3, "segment", kBytes},
                              {4, "float_data", kFixed32, true},
                              {5, "int32_data", kVarint, true},
                              {6, "string_data", kBytes, true},
                              {7, "int64_data", kVarint, true},
                              {8, "name", kBytes},
                              {9, "raw_data", kBytes},
                              {10, "double_data", kFixed64, true},
                              {11, "uint64_data", kVarint, true},
                              {12, "doc_string", kBytes},
                              {13, "external_data", kBytes, true},
                              {14, "data_location", kVarint},
                              {16, "metadata_props", kBytes, true}});
constexpr std::array kEntryFields =
    std::to_array<FieldSpec>({{1, "key", kBytes}, {2, "value", kBytes}});
constexpr std::array kValueInfoFields =
    std::to_array<FieldSpec>({{1, "name", kBytes},
                              {2, "type", kBytes},
                              {3, "doc_string", kBytes},
                              {4, "metadata_props", kBytes, true}});
constexpr std::array kTypeFields = std::to_array<FieldSpec>({{1, "tensor_type", kBytes},
                                                             {4, "sequence_type", kBytes},
                                                             {5, "map_type", kBytes},
                                                             {6, "denotation", kBytes},
                                                             {7, "opaque_type", kBytes},
                                                             {8, "sparse_tensor_type", kBytes},
                                                             {9, "optional_type", kBytes}});
constexpr std::array kTensorTypeFields =
    std::to_array<FieldSpec>({{1, "elem_type", kVarint}, {2, "shape", kBytes}});
constexpr std::array kShapeFields = std::to_array<FieldSpec>({{1, "dim", kBytes, true}});
constexpr std::array kDimensionFields = std::to_array<FieldSpec>(
    {{1, "dim_value", kVarint}, {2, "dim_param", kBytes}, {3, "denotation", kBytes}});

constexpr MessageSpec kModel{"ModelProto", kModelFields};
constexpr MessageSpec kOpset{"OperatorSetIdProto", kOpsetFields};
constexpr MessageSpec kGraph{"GraphProto", kGraphFields};
constexpr MessageSpec kNode{"NodeProto", kNodeFields};
constexpr MessageSpec kAttribute{"AttributeProto", kAttributeFields};
constexpr MessageSpec kTensor{"TensorProto", kTensorFields};
constexpr MessageSpec kEntry{"StringStringEntryProto", kEntryFields};
constexpr MessageSpec kValueInfo{"ValueInfoProto", kValueInfoFields};
constexpr MessageSpec kType{"TypeProto", kTypeFields};
constexpr MessageSpec kTensorType{"TypeProto.Tensor", kTensorTypeFields};
constexpr MessageSpec kShape{"TensorShapeProto", kShapeFields};
constexpr MessageSpec kDimension{"TensorShapeProto.Dimension", kDimensionFields};

// What the largest models have a tenth of, at most.
constexpr size_t kMostNodes = size_t{1} << 17, kMostTensors = size_t{1} << 17,
                 kMostValues = size_t{1} << 17, kMostAttributes = size_t{1} << 18,
                 kMostOperands = size_t{1} << 20, kMostDims = 64, kMostEntries = 64,
                 kMostInts = size_t{1} << 20;

void limit(const WireFile& file, size_t count, size_t most, const char* what) {
  if (count > most) {
    fail("{}: there are more than {} {}, which no model has.", file.path, most, what);
  }
}

void append_floats(Bytes bytes, std::vector<float>& out) {
  const size_t begin = out.size(), count = bytes.size() / sizeof(float);
  out.resize(begin + count);
  if (count > 0) std::memcpy(out.data() + begin, bytes.data(), count * sizeof(float));
}

TensorProto::Entry parse_entry(const WireFile& file, Bytes bytes) {
  TensorProto::Entry entry;
  WireReader reader(file, kEntry, bytes);
  for (Field field; reader.next(field);) {
    (field.number == 1 ? entry.key : entry.value) = reader.text(field);
  }
  return entry;
}

void parse_tensor_field(const WireReader& reader, const Field& field, TensorProto& tensor) {
  switch (field.number) {
    case 1:
      reader.varints(field, [&](uint64_t v) {
        tensor.dims.push_back(static_cast<int64_t>(v));
        limit(reader.file(), tensor.dims.size(), kMostDims, "dimensions of a tensor");
      });
      break;
    case 2:
      tensor.data_type = static_cast<int64_t>(field.varint);
      break;
    case 3:
      tensor.has_segment = true;
      break;
    case 4:
      tensor.float_data.push_back(field.bytes);
      break;
    case 5:
      tensor.int32_data.push_back(field.bytes);
      break;
    case 6:
      tensor.has_string_data = true;
      break;
    case 7:
      tensor.int64_data.push_back(field.bytes);
      break;
    case 8:
      tensor.name = reader.text(field);
      break;
    case 9:
      tensor.raw_data = field.bytes;
      break;
    case 10:
      tensor.double_data.push_back(field.bytes);
      break;
    case 11:
      tensor.uint64_data.push_back(field.bytes);
      break;
    case 13:
      tensor.external_data.push_back(parse_entry(reader.file(), field.bytes));
      limit(reader.file(), tensor.external_data.size(), kMostEntries, "entries of external data");
      break;
    case 14:
      tensor.data_location = static_cast<int64_t>(field.varint);
      break;
    default:
      break;
  }
}

TensorProto parse_tensor(const WireFile& file, Bytes bytes) {
  TensorProto tensor;
  WireReader reader(file, kTensor, bytes);
  for (Field field; reader.next(field);) parse_tensor_field(reader, field, tensor);
  return tensor;
}

void parse_attribute_field(const WireReader& reader, const Field& field,
                           AttributeProto& attribute) {
  switch (field.number) {
    case 1:
      attribute.name = reader.text(field);
      break;
    case 2:
      attribute.f = reader.fixed32_as_float(field);
      break;
    case 3:
      attribute.i = static_cast<int64_t>(field.varint);
      break;
    case 4:
      attribute.s = reader.text(field);
      break;
    case 5:
      attribute.t = std::make_shared<const TensorProto>(parse_tensor(reader.file(), field.bytes));
      break;
    case 6:
      attribute.g = field.bytes;
      break;
    case 7:
      append_floats(field.bytes, attribute.floats);
      break;
    case 8:
      reader.varints(field, [&](uint64_t v) {
        attribute.ints.push_back(static_cast<int64_t>(v));
        limit(reader.file(), attribute.ints.size(), kMostInts, "integers in an attribute");
      });
      break;
    case 20:
      attribute.type = static_cast<int64_t>(field.varint);
      break;
    case 21:
      attribute.reference = reader.text(field);
      break;
    default:
      break;
  }
}

AttributeProto parse_attribute(const WireFile& file, Bytes bytes) {
  AttributeProto attribute;
  WireReader reader(file, kAttribute, bytes);
  for (Field field; reader.next(field);) parse_attribute_field(reader, field, attribute);
  return attribute;
}

NodeProto parse_node(const WireFile& file, Bytes bytes) {
  NodeProto node;
  WireReader reader(file, kNode, bytes);
  for (Field field; reader.next(field);) {
    limit(file, node.attributes.size(), kMostAttributes, "attributes");
    limit(file, node.inputs.size() + node.outputs.size(), kMostOperands, "operands of a node");
    switch (field.number) {
      case 1:
        node.inputs.push_back(reader.text(field));
        break;
      case 2:
        node.outputs.push_back(reader.text(field));
        break;
      case 3:
        node.name = reader.text(field);
        break;
      case 4:
        node.op_type = reader.text(field);
        break;
      case 5:
        node.attributes.push_back(parse_attribute(file, field.bytes));
        break;
      case 7:
        node.domain = reader.text(field);
        break;
      default:
        break;
    }
  }
  return node;
}

int64_t parse_dimension(const WireFile& file, Bytes bytes) {
  int64_t dimension = -1;  // symbolic until a value is found
  WireReader reader(file, kDimension, bytes);
  for (Field field; reader.next(field);) {
    // Some exporters write a negative value for a dimension they do not know.
    if (field.number == 1) dimension = std::max<int64_t>(-1, static_cast<int64_t>(field.varint));
  }
  return dimension;
}

void parse_tensor_type(const WireFile& file, Bytes bytes, ValueInfo& info) {
  WireReader reader(file, kTensorType, bytes);
  for (Field field; reader.next(field);) {
    if (field.number == 1) {
      info.elem_type = static_cast<int64_t>(field.varint);
    } else {
      info.shape.emplace();
      WireReader shape(file, kShape, field.bytes);
      for (Field dim; shape.next(dim);) {
        info.shape->push_back(parse_dimension(file, dim.bytes));
        limit(file, info.shape->size(), kMostDims, "dimensions of a value");
      }
    }
  }
}

ValueInfo parse_value_info(const WireFile& file, Bytes bytes) {
  ValueInfo info;
  WireReader reader(file, kValueInfo, bytes);
  for (Field field; reader.next(field);) {
    if (field.number == 1) info.name = reader.text(field);
    if (field.number != 2) continue;
    WireReader type(file, kType, field.bytes);
    for (Field kind; type.next(kind);) {
      if (kind.number == 1) {
        parse_tensor_type(file, kind.bytes, info);
      } else if (kind.number != 6) {
        info.is_tensor = false;
      }
    }
  }
  return info;
}

GraphProto parse_graph(const WireFile& file, Bytes bytes) {
  GraphProto graph;
  size_t attributes = 0, operands = 0;
  WireReader reader(file, kGraph, bytes);
  for (Field field; reader.next(field);) {
    switch (field.number) {
      case 1:
        graph.nodes.push_back(parse_node(file, field.bytes));
        attributes += graph.nodes.back().attributes.size();
        operands += graph.nodes.back().inputs.size() + graph.nodes.back().outputs.size();
        limit(file, graph.nodes.size(), kMostNodes, "nodes");
        limit(file, attributes, kMostAttributes, "attributes");
        limit(file, operands, kMostOperands, "inputs and outputs of nodes");
        break;
      case 5:
        graph.initializers.push_back(parse_tensor(file, field.bytes));
        limit(file, graph.initializers.size(), kMostTensors, "initializers");
        break;
      case 11:
        graph.inputs.push_back(parse_value_info(file, field.bytes));
        limit(file, graph.inputs.size(), kMostValues, "inputs");
        break;
      case 12:
        graph.outputs.push_back(parse_value_info(file, field.bytes));
        limit(file, graph.outputs.size(), kMostValues, "outputs");
        break;
      case 13:
        graph.value_infos.push_back(parse_value_info(file, field.bytes));
        limit(file, graph.value_infos.size(), 2 * kMostValues, "declared values");
        break;
      case 15:
        graph.has_sparse_initializer = true;
        break;
      default:
        break;
    }
  }
  return graph;
}

ModelProto::Opset parse_opset(const WireFile& file, Bytes bytes) {
  ModelProto::Opset opset;
  WireReader reader(file, kOpset, bytes);
  for (Field field; reader.next(field);) {
    if (field.number == 1) {
      opset.domain = reader.text(field);
    } else {
      opset.version = static_cast<int64_t>(field.varint);
    }
  }
  return opset;
}

}  // namespace

ModelProto parse_model(const WireFile& file) {
  ModelProto model;
  WireReader reader(file, kModel, file.bytes);
  for (Field field; reader.next(field);) {
    switch (field.number) {
      case 1:
        model.ir_version = static_cast<int64_t>(field.varint);
        break;
      case 7:
        model.graph = parse_graph(file, field.bytes);
        break;
      case 8:
        model.opsets.push_back(parse_opset(file, field.bytes));
        break;
      case 25:
        model.has_functions = true;
        break;
      default:
        break;
    }
  }
  return model;
}

GraphProto parse_subgraph(const WireFile& file, Bytes bytes) { return parse_graph(file, bytes); }

}  // namespace nibble::frontends::onnx
