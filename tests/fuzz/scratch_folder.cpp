#include "tests/fuzz/scratch_folder.h"

#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>

namespace nibble::fuzz {
namespace {

namespace fs = std::filesystem;

// Made at the first use; taken away when the process ends by itself.
class Folder {
 public:
  Folder() {
    std::error_code error;
    const bool shm = fs::is_directory("/dev/shm", error) && access("/dev/shm", W_OK) == 0;
    path_ = (shm ? fs::path("/dev/shm") : fs::temp_directory_path()) / "nibble_fuzz_XXXXXX";
    std::string pattern = path_.string();
    if (mkdtemp(pattern.data()) == nullptr) {
      std::perror(pattern.c_str());
      std::abort();
    }
    path_ = pattern;
  }
  ~Folder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }

  void empty() {
    for (const std::string& file : files_) unlink(file.c_str());
    files_.clear();
  }

  std::string write(const std::string& name, std::string_view bytes) {
    std::string file = (path_ / name).string();
    std::FILE* out = std::fopen(file.c_str(), "wb");
    const bool written =
        out != nullptr &&
        (bytes.empty() || std::fwrite(bytes.data(), 1, bytes.size(), out) == bytes.size());
    if (!written || std::fclose(out) != 0) {
      std::perror(file.c_str());
      std::abort();
    }
    files_.insert(file);
    return file;
  }

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  std::set<std::string> files_;
};

Folder& folder_of_process() {
  static Folder folder;
  return folder;
}

}  // namespace

std::vector<std::string_view> cut_parts(const uint8_t* data, size_t size, size_t most) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::vector<std::string_view> parts;
  while (parts.size() + 1 < most) {
    const size_t cut = rest.find(kCut);
    if (cut == std::string_view::npos) break;
    parts.push_back(rest.substr(0, cut));
    rest.remove_prefix(cut + kCut.size());
  }
  parts.push_back(rest);
  return parts;
}

Scratch::Scratch() { folder_of_process().empty(); }

std::string Scratch::write(const std::string& name, std::string_view bytes) const {
  return folder_of_process().write(name, bytes);
}

std::string Scratch::folder() const { return folder_of_process().path().string(); }

}  // namespace nibble::fuzz
