// Turns TensorProtos into TensorData that stays where it is: raw bytes in the mapped model file or
// in an external data file, each mapped once. Only typed fields that are not already the bytes of
// the tensor (varints) are decoded into memory of their own.
//
// External data is where a model file points into the file system. A location is accepted only
// when it is relative, has no "..", and its real path is a regular file inside the folder of the
// model (as given, or where the model file really lies when it is a symlink).
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "frontends/onnx/model_proto.h"
#include "graph/tensor.h"
#include "runtime/mapped_file.h"

namespace nibble::frontends::onnx {

// The DType of TensorProto.DataType. Throws Error: "{who} has element type ...".
graph::DType dtype_of(int64_t data_type, const std::string& who);

class TensorLoader {
 public:
  // `path`: as the user gave it; `model`: its map.
  TensorLoader(std::string path, std::shared_ptr<const runtime::MappedFile> model);

  // `what` names the tensor in messages: `initializer "w"`. Throws Error when the bytes are not
  // exactly those of its type and shape.
  graph::TensorData load(const TensorProto& tensor, const std::string& what);

 private:
  graph::TensorData load_external(const TensorProto& tensor, graph::TensorData data,
                                  const std::string& who);
  std::shared_ptr<const runtime::MappedFile> open_external(std::string_view location,
                                                           const std::string& who);
  std::filesystem::path resolve(std::string_view location, const std::string& who) const;

  std::string path_;
  std::shared_ptr<const runtime::MappedFile> model_;
  std::filesystem::path given_folder_, real_folder_;  // canonical
  std::map<std::filesystem::path, std::shared_ptr<const runtime::MappedFile>> files_;
  size_t varint_bytes_ = 0;  // made of varints so far
};

}  // namespace nibble::frontends::onnx
