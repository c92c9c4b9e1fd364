// nibble_random_model: a Llama or Qwen 2 of any size with random fp16 weights, as an ONNX export, a
// Hugging Face folder or a GGUF. With no sizes given it is Llama-2-7B: 13.5 GB as an export.
#include "tests/support/random_model.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

int main(int argc, char** argv) {
  using namespace nibble::test;  // NOLINT(google-build-using-namespace)
  RandomModel model = llama2_7b();
  std::string onnx, safetensors, gguf;
  CLI::App program("Write a model with random weights");
  program.add_option("--onnx", onnx, "Folder of model.onnx, streamed whatever its size");
  program.add_option("--safetensors", safetensors, "Folder of model.safetensors, made in memory");
  program.add_option("--gguf", gguf, "The .gguf to write, made in memory");
  program.add_option("--layers", model.layers)->capture_default_str();
  program.add_option("--hidden", model.hidden)->capture_default_str();
  program.add_option("--mlp", model.mlp)->capture_default_str();
  program.add_option("--heads", model.heads)->capture_default_str();
  program.add_option("--kv-heads", model.kv_heads)->capture_default_str();
  program.add_option("--vocabulary", model.vocabulary)->capture_default_str();
  program.add_option("--context", model.context)->capture_default_str();
  program.add_flag("--qwen2", model.qwen2, "Qwen 2 instead of Llama");
  program.add_flag("--tied", model.tied, "The output matrix is the embedding table");
  CLI11_PARSE(program, argc, argv);
  try {
    const bool loud = isatty(2) == 1;
    if (!onnx.empty()) {
      write_onnx(model, onnx, [&](int64_t done, int64_t total) {
        if (loud) fmt::print(stderr, "\r{:.1f} of {:.1f} GB", done * 1e-9, total * 1e-9);
      });
      if (loud) fmt::print(stderr, "\n");
    }
    if (!safetensors.empty()) write_safetensors(model, safetensors);
    if (!gguf.empty()) write_gguf(model, gguf);
  } catch (const std::exception& error) {
    fmt::print(stderr, "nibble_random_model: {}\n", error.what());
    return 1;
  }
  return 0;
}
