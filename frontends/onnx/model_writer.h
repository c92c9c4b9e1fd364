// Puts an ONNX model together and writes it: nodes and values by name, small tensors inside the
// model, all others one after another in a data file beside it, as they are added. It knows
// protobuf's fields and no operator: export_graph.cpp knows those. Source: onnx.proto.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "frontends/wire/wire_writer.h"
#include "graph/tensor.h"
#include "runtime/atomic_file.h"

namespace nibble::frontends::onnx {

inline constexpr int64_t kExportedOpset = 17;

// TensorProto.DataType.
enum class ElementType : int64_t { f32 = 1, u8 = 2, i64 = 7, boolean = 9 };

using WriterAttribute = std::pair<std::string, std::variant<int64_t, float, std::vector<int64_t>>>;
using WriterAttributes = std::vector<WriterAttribute>;

class ModelWriter {
 public:
  // A dimension is a number or, as text, a symbol.
  using Dimension = std::variant<int64_t, std::string>;

  // `path`: of the model; its data file is path + "_data". Both appear with commit().
  explicit ModelWriter(std::string path);

  void input(const std::string& name, ElementType type, const std::vector<Dimension>& shape);
  void output(const std::string& name, ElementType type, const std::vector<Dimension>& shape);

  // A node called `name` (or `name` and a number, where that is taken) and the names of its
  // outputs, which are the node's name and, from the second on, a number.
  std::string node(std::string_view op, const std::string& name, std::vector<std::string> inputs,
                   const WriterAttributes& attributes = {}, std::string_view domain = "");
  std::vector<std::string> nodes(size_t outputs, std::string_view op, const std::string& name,
                                 std::vector<std::string> inputs,
                                 const WriterAttributes& attributes = {},
                                 std::string_view domain = "");
  // Gives a value a name that was promised: an Identity.
  void rename(const std::string& value, const std::string& name);

  // Constants; the shape's elements must be there. Integers that were written before are not
  // written again.
  std::string floats(const std::string& name, const graph::Shape& shape,
                     std::span<const float> values);
  std::string number(float value);  // a scalar
  std::string bytes(const std::string& name, const graph::Shape& shape,
                    std::span<const uint8_t> values);
  std::string integers(const std::vector<int64_t>& values);  // [n]

  void commit();

 private:
  std::string unique(const std::string& name);
  std::string constant(const std::string& name, ElementType type, const graph::Shape& shape,
                       std::string_view bytes);

  std::string path_, location_;
  runtime::AtomicFile data_;
  WireWriter graph_;
  std::unordered_map<std::string, int64_t> taken_;  // by name: the next number to try
  std::map<std::vector<int64_t>, std::string> integers_;
  std::map<uint32_t, std::string> numbers_;  // by bit pattern
};

}  // namespace nibble::frontends::onnx
