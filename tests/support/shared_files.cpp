#include "tests/support/shared_files.h"

#include <cstdlib>
#include <fstream>
#include <iterator>

namespace nibble::test {

std::filesystem::path shared_folder() {
  const char* named = std::getenv("NIBBLE_SHARED");
  const std::filesystem::path folder =
      named != nullptr ? std::filesystem::path(named)
                       : std::filesystem::path(NIBBLE_SOURCE_DIR) / ".." / "shared";
  return std::filesystem::exists(folder / "models") ? folder : std::filesystem::path();
}

std::string skip_reason() {
  return "SKIPPED: the shared models are absent (looked in $NIBBLE_SHARED and ../shared)";
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace nibble::test
