#include "frontends/onnx/onnx.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <vector>

#include "frontends/documents/documents.h"
#include "frontends/onnx/all_logits.h"
#include "frontends/onnx/graph_builder.h"
#include "frontends/onnx/model_proto.h"
#include "frontends/onnx/tensor_loader.h"
#include "graph/cache_shapes.h"
#include "jit/error.h"
#include "runtime/mapped_file.h"

namespace nibble::frontends {
namespace {

namespace fs = std::filesystem;

fs::path find_in_folder(const fs::path& folder) {
  std::error_code error;
  // Of the parts that older Optimum writes, the merged decoder has all; decoder_model has no cache,
  // which is added, while decoder_with_past_model may only take one token at a time.
  for (const char* name : {"model.onnx", "decoder_model_merged.onnx", "decoder_model.onnx"}) {
    if (fs::exists(folder / name, error)) return folder / name;
  }
  std::vector<fs::path> candidates;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".onnx") candidates.push_back(it->path());
  }
  if (error) fail("{}: the folder cannot be read: {}.", folder.string(), error.message());
  if (candidates.size() == 1) return candidates.front();
  if (candidates.empty()) {
    fail("{}: the folder has no .onnx file, but model.onnx is expected.", folder.string());
  }
  std::sort(candidates.begin(), candidates.end());
  std::string names;
  for (const fs::path& path : candidates) {
    names += (names.empty() ? "" : ", ") + path.filename().string();
  }
  fail("{}: the folder has no model.onnx but several .onnx files: name one of {}.", folder.string(),
       names);
}

fs::path find_model(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    fail("{}: no model can be opened here: {}.", path.string(),
         error ? error.message() : "there is no such file or folder");
  }
  fs::path file = fs::is_directory(status) ? find_in_folder(path) : path;
  if (!fs::is_regular_file(file, error)) {
    fail("{}: this is no regular file, but an .onnx file is expected.", file.string());
  }
  return file;
}

}  // namespace

graph::Graph load_onnx(const std::string& path) {
  const fs::path file = find_model(path);
  const auto map = runtime::MappedFile::open(file.string());
  const WireFile wire{.path = file.string(), .bytes = map->bytes()};
  const onnx::ModelProto model = onnx::parse_model(wire);
  onnx::TensorLoader loader(file.string(), map);
  graph::Graph graph = onnx::build_graph(model, wire, loader);
  onnx::keep_all_logits(graph);
  graph.io = onnx::find_decoder_io(graph);
  onnx::drop_last_token_slice(graph);
  // What an export without a cache gives out beside the logits, nobody takes.
  if (graph.io.layers.empty()) graph.outputs = {graph.io.logits};

  std::error_code error;
  const fs::path real = fs::canonical(file, error);
  const std::vector<fs::path> folders = {file.parent_path(), real.parent_path()};
  documents::read_documents(folders, graph);
  graph::complete_cache_shapes(graph);
  return graph;
}

}  // namespace nibble::frontends
