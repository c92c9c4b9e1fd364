// Where the models and texts that larger tests use lie: $NIBBLE_SHARED, else ../shared beside the
// repository.
#pragma once

#include <filesystem>
#include <string>

namespace nibble::test {

// Empty when there is none: the test should then GTEST_SKIP() with skip_reason().
std::filesystem::path shared_folder();
std::string skip_reason();

// All of a file; "" when it cannot be read.
std::string read_text(const std::filesystem::path& path);

}  // namespace nibble::test
