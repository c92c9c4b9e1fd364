// What the writer and the reader of .nib models share: the names, versions and alignments of the
// sections. "graph" is JSON:
//
//   version, opset, context_length, eos_ids, bos_id, inputs [id], outputs [id], documents
//              [{name, bytes}]
//   io         input_ids, attention_mask, position_ids, logits: id or -1;
//              layers [[past key, past value, present key, present value]]
//   values     [{name, dtype, shape?, tensor? {dtype, shape}, weight? {type, group, asym, minimum?,
//   scale, n,
//              k}}]; a value's id is its index
//   nodes      [{op, domain, name, inputs [id], outputs [id], attributes {key: one of {int: 1},
//              {float: 1}, {string: ""}, {ints: []}, {floats: []}, {tensor: {dtype, shape}}}}]
//
// The bytes of tensors and weights lie in sections of their own, those of size 0 in none. The
// path that a graph came from is not stored: it is the machine's that wrote the file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "graph/graph.h"
#include "graph/nib_model_json.h"

namespace nibble::graph {

inline constexpr int64_t kGraphVersion = 1;
inline constexpr std::string_view kGraphSection = "graph";
inline constexpr uint64_t kDataAlignment = 64;
inline constexpr uint64_t kWeightAlignment = 4096;

std::string document_section(std::string_view name);
std::string constant_section(ValueId id);
std::string weight_section(ValueId id, std::string_view part);
std::string attribute_section(size_t node, std::string_view key);

// Bytes of a tensor of this type and shape. Throws Error on a negative dimension or overflow.
int64_t tensor_bytes(DType dtype, const Shape& shape);

}  // namespace nibble::graph
