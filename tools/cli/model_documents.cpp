#include "tools/cli/model_documents.h"

#include <filesystem>
#include <fstream>

#include "frontends/documents/documents.h"
#include "frontends/gguf/gguf_documents.h"
#include "graph/nib_model_sections.h"
#include "jit/error.h"
#include "runtime/nib_file.h"
#include "tools/cli/model_path.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using Documents = std::map<std::string, std::string>;

constexpr uintmax_t kMostBytes = uintmax_t{1} << 28;

Documents read_folder(const fs::path& folder) {
  Documents out;
  for (const char* name : frontends::documents::kChat) {
    const fs::path path = folder / name;
    std::error_code error;
    if (fs::is_regular_file(path, error)) out[name] = read_text_file(path.string());
  }
  return out;
}

Documents read_nib(const std::string& path) {
  const auto file = runtime::NibFile::open(path, nullptr);
  Documents out;
  for (const char* name : frontends::documents::kChat) {
    const auto bytes = file->find(graph::document_section(name));
    if (!bytes) continue;
    out[name].assign(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  }
  return out;
}

}  // namespace

std::string read_text_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  const bool pipe = !fs::is_regular_file(path, error);
  if (!file || fs::is_directory(path, error)) fail("{}: the file cannot be read.", path);
  if (!pipe && fs::file_size(path, error) > kMostBytes) {
    fail("{}: a text of more than {} bytes is not expected.", path, kMostBytes);
  }
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) fail("{}: the file cannot be read to its end.", path);
  return text;
}

Documents read_model_documents(const std::string& model) {
  std::error_code error;
  if (fs::is_directory(model, error)) {
    Documents out = read_folder(model);
    if (!out.empty()) return out;
  }
  const ModelPath found = find_model(model);
  if (found.nib) return read_nib(found.path);
  if (found.gguf) {
    return frontends::gguf::read_documents(frontends::gguf::File::open(found.path));
  }
  return fs::is_directory(model, error) ? Documents() : read_folder(fs::path(model).parent_path());
}

}  // namespace nibble::cli
