#include "tools/cli/model_path.h"

#include <filesystem>
#include <vector>

#include "frontends/gguf/gguf_model.h"
#include "frontends/gguf/gguf_parts.h"
#include "frontends/onnx/onnx.h"
#include "frontends/safetensors/safetensors.h"
#include "jit/error.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_ending(const std::string& folder, const std::string& extension) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(folder, error)) {
    if (item.path().extension() == extension && !item.is_directory()) files.push_back(item.path());
  }
  if (error) fail("{}: the folder cannot be read: {}.", folder, error.message());
  return files;
}

}  // namespace

ModelPath find_model(const std::string& model) {
  std::error_code error;
  if (!fs::exists(model, error)) fail("{}: there is no such file or folder.", model);
  if (!fs::is_directory(model, error)) {
    const std::string extension = fs::path(model).extension().string();
    if (extension == ".onnx" || extension == ".nib" || extension == ".safetensors" ||
        extension == ".gguf") {
      return {model, extension == ".nib", extension == ".safetensors", extension == ".gguf"};
    }
    fail(
        "{}: a model should end in .onnx, .nib, .safetensors or .gguf, or be a folder holding one.",
        model);
  }
  const auto onnx = files_ending(model, ".onnx");
  const auto nib = files_ending(model, ".nib");
  const auto tensors = files_ending(model, ".safetensors");
  const auto gguf = files_ending(model, ".gguf");
  if (onnx.empty() && nib.empty() && tensors.empty() && gguf.empty()) {
    fail("{}: the folder holds no .onnx, no .nib, no .safetensors and no .gguf.", model);
  }
  const auto& sources = !onnx.empty() ? onnx : !tensors.empty() ? tensors : gguf;
  if (!sources.empty() && !nib.empty()) {
    fail("{}: the folder holds both {} and {}; name the one that is meant.", model,
         sources[0].filename().string(), nib[0].filename().string());
  }
  if (nib.size() > 1) {
    fail("{}: the folder holds {} .nib files; name the one that is meant.", model, nib.size());
  }
  if (!nib.empty()) return {nib[0].string(), true};
  if (onnx.empty() && tensors.empty()) {
    const bool one =
        gguf.size() == 1 || frontends::gguf::part_paths(gguf[0].string()).size() == gguf.size();
    if (one) return {gguf[0].string(), false, false, true};
    fail("{}: the folder holds {} .gguf files; name the one that is meant.", model, gguf.size());
  }
  return {model, false, onnx.empty()};
}

SourceGraph load_source(const ModelPath& model) {
  if (model.gguf) {
    frontends::GgufModel loaded = frontends::load_gguf(model.path);
    return {std::move(loaded.graph), std::move(loaded.description)};
  }
  if (!model.safetensors) return {frontends::load_onnx(model.path), ""};
  frontends::SafetensorsModel loaded = frontends::load_safetensors(model.path);
  return {std::move(loaded.graph), std::move(loaded.description)};
}

}  // namespace nibble::cli
