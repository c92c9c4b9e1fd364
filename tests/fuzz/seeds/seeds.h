// The seeds of tests/fuzz/corpus, a function a target: the smallest files that lead far into each
// reader.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/fuzz/scratch_folder.h"

namespace nibble::fuzz {

class Corpus {
 public:
  explicit Corpus(std::filesystem::path root) : root_(std::move(root)) {}
  void add(const std::string& target, const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories(root_ / target);
    std::ofstream(root_ / target / ("seed_" + name), std::ios::binary) << bytes;
  }

 private:
  std::filesystem::path root_;
};

inline std::string joined(const std::vector<std::string>& parts) {
  std::string all;
  for (size_t i = 0; i < parts.size(); ++i) all += (i == 0 ? "" : std::string(kCut)) + parts[i];
  return all;
}

void onnx_seeds(const Corpus& corpus);  // and onnx_external; needs the zoo for most
void safetensors_seeds(const Corpus& corpus);
void nib_seeds(const Corpus& corpus);
void gguf_seeds(const Corpus& corpus);
void tokenizer_seeds(const Corpus& corpus);
void chat_seeds(const Corpus& corpus);

}  // namespace nibble::fuzz
