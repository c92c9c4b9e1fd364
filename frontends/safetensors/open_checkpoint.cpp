#include "frontends/safetensors/open_checkpoint.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "frontends/safetensors/tensor_file.h"
#include "jit/error.h"
#include "runtime/mapped_file.h"

namespace nibble::frontends::safetensors {
namespace {

namespace fs = std::filesystem;
using decoder::Checkpoint;
using nlohmann::json;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr size_t kMostNames = size_t{1} << 19;

// The object weight_map of an index: tensor -> file. Other members are passed over.
class IndexReader : public json::json_sax_t {
 public:
  explicit IndexReader(const std::string& path) : path_(path) {}

  std::map<std::string, std::set<std::string>> files;  // file -> its tensors

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("true or false"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool binary(binary_t&) override { return other("binary data"); }
  bool start_array(std::size_t) override {
    ++depth_;
    return other("an array");
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool start_object(std::size_t) override {
    if (in_map_ && depth_ == 2) return other("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool key(string_t& text) override {
    if (depth_ == 1) {
      in_map_ = text == "weight_map";
      if (in_map_ && std::exchange(has_map_, true)) fail("{}: weight_map comes twice.", path_);
    }
    if (depth_ == 2 && in_map_) name_ = std::move(text);
    return true;
  }
  bool string(string_t& text) override {
    if (!in_map_) return true;
    if (depth_ != 2) return other("text");
    if (!names_.insert(name_).second) {
      fail("{}: weight_map has the tensor '{}' twice.", path_, name_);
    }
    if (names_.size() > kMostNames) {
      fail("{}: weight_map has more than {} tensors.", path_, kMostNames);
    }
    files[text].insert(name_);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    fail("{}: this is not valid JSON near byte {}: {}.", path_, position, error.what());
  }

 private:
  bool other(const char* found) const {
    if (in_map_) {
      fail("{}: weight_map should give each tensor's file, but '{}' has {}.", path_, name_, found);
    }
    return true;
  }

  const std::string& path_;
  std::set<std::string> names_;
  std::string name_;
  int depth_ = 0;
  bool in_map_ = false, has_map_ = false;
};

bool is_inside(const fs::path& file, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), file.begin(), file.end()).first ==
         folder.end();
}

// The folder that a file is in, and the one that it is really in: caches are trees of symlinks.
std::vector<fs::path> folders_of(const fs::path& file) {
  std::error_code error;
  const fs::path absolute = fs::absolute(file, error);
  std::vector<fs::path> folders;
  if (!error) folders.push_back(fs::canonical(absolute.parent_path(), error));
  if (!error) folders.push_back(fs::canonical(absolute, error).parent_path());
  if (error) fail("{}: its folder cannot be resolved: {}.", file.string(), error.message());
  return folders;
}

// A shard lies beside the index, or is a link to where the index really lies.
fs::path resolve_shard(const std::string& name, const fs::path& index,
                       const std::vector<fs::path>& folders) {
  const fs::path relative(name);
  if (name.empty() || relative.is_absolute()) {
    fail("{}: a shard is \"{}\", but a path relative to the index is expected.", index.string(),
         name);
  }
  if (std::find(relative.begin(), relative.end(), "..") != relative.end()) {
    fail("{}: a shard is \"{}\", which may leave the model's folder.", index.string(), name);
  }
  std::error_code error;
  const fs::path file = fs::canonical(folders[0] / relative, error);
  if (error) {
    fail("{}: the shard \"{}\" cannot be opened: {}.", index.string(), name, error.message());
  }
  const bool inside = std::any_of(folders.begin(), folders.end(),
                                  [&](const fs::path& folder) { return is_inside(file, folder); });
  if (!inside) {
    fail("{}: the shard \"{}\" is really \"{}\", outside the model's folder.", index.string(), name,
         file.string());
  }
  if (!fs::is_regular_file(file, error)) {
    fail("{}: the shard \"{}\" is not a regular file.", index.string(), name);
  }
  return folders[0] / relative;
}

fs::path find_file(const fs::path& folder) {
  std::error_code error;
  for (const char* name : {kSingle, kIndex}) {
    if (fs::is_regular_file(folder / name, error)) return folder / name;
  }
  std::vector<fs::path> found;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".safetensors") found.push_back(it->path());
  }
  if (error) fail("{}: the folder cannot be read: {}.", folder.string(), error.message());
  if (found.size() != 1) {
    fail("{}: the folder has no {}, no {} and {} .safetensors files, but one is expected.",
         folder.string(), kSingle, kIndex, found.size());
  }
  return found.front();
}

void add_file(const fs::path& file, Checkpoint& checkpoint) {
  for (NamedTensor& item : read_tensor_file(file.string()).tensors) {
    if (checkpoint.has(item.name)) {
      fail("{}: the tensor '{}' is in another shard too.", file.string(), item.name);
    }
    checkpoint.add(std::move(item.name), std::move(item.tensor));
  }
}

void add_shards(const fs::path& index, Checkpoint& checkpoint) {
  const std::string& path = checkpoint.path();
  const auto map = runtime::MappedFile::open(path);
  IndexReader reader(path);
  const char* text = reinterpret_cast<const char*>(map->bytes().data());
  json::sax_parse(text, text + map->bytes().size(), &reader);
  if (reader.files.empty()) fail("{}: weight_map names no tensor.", path);
  const std::vector<fs::path> allowed = folders_of(index);
  for (const auto& [name, tensors] : reader.files) {
    const fs::path file = resolve_shard(name, index, allowed);
    add_file(file, checkpoint);
    for (const std::string& tensor : tensors) {
      if (!checkpoint.has(tensor)) {
        fail("{}: the tensor '{}' should be in the shard \"{}\", but it is not there.", path,
             tensor, name);
      }
    }
  }
}

}  // namespace

Checkpoint open_checkpoint(const std::string& path) {
  std::error_code error;
  fs::path file = path;
  if (fs::is_directory(file, error)) {
    file = find_file(file);
  } else if (file.filename() != kSingle) {
    const fs::path index = file.parent_path() / kIndex;  // the file may be one shard of many
    if (fs::is_regular_file(index, error)) file = index;
  }
  std::vector<fs::path> folders = folders_of(file);
  folders.insert(folders.begin(), file.parent_path());
  Checkpoint checkpoint(file.string(), std::move(folders));
  if (file.extension() == ".json") {
    add_shards(file, checkpoint);
  } else {
    add_file(file, checkpoint);
  }
  return checkpoint;
}

}  // namespace nibble::frontends::safetensors
