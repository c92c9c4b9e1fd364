// Writes the seeds of tests/fuzz/corpus. Usage: fuzz_seeds FOLDER
#include "tests/fuzz/seeds/seeds.h"

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: fuzz_seeds FOLDER\n", stderr);
    return 2;
  }
  const nibble::fuzz::Corpus corpus(argv[1]);
  nibble::fuzz::onnx_seeds(corpus);
  nibble::fuzz::safetensors_seeds(corpus);
  nibble::fuzz::nib_seeds(corpus);
  nibble::fuzz::gguf_seeds(corpus);
  nibble::fuzz::tokenizer_seeds(corpus);
  nibble::fuzz::chat_seeds(corpus);
  return 0;
}
