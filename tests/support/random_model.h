// Decoders of any size with random fp16 weights, written as the files that users have: an ONNX
// export with external data, a Hugging Face folder, a GGUF. All three hold the same numbers. The
// export is streamed, so that it may be larger than memory.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace nibble::test {

// Llama, or Qwen 2, which adds biases to Q, K and V (and whose GGUF keeps the order of Q and K).
struct RandomModel {
  int64_t layers = 2, hidden = 64, mlp = 96, heads = 4, kv_heads = 2, vocabulary = 128;
  int64_t context = 256;
  bool qwen2 = false;
  bool tied = false;  // the output matrix is the embedding table
  int64_t head_dim() const { return hidden / heads; }
  int64_t kv_columns() const { return kv_heads * head_dim(); }
  const char* family() const { return qwen2 ? "qwen2" : "llama"; }
};
RandomModel llama2_7b();

// One tensor by its name in transformers and as torch has it: [rows][columns], a vector with
// columns 1. Element i is scale * u + offset rounded to fp16, where u of [-1, 1) depends on the
// name and i alone.
struct RandomTensor {
  std::string name;
  int64_t rows = 0, columns = 0;
  float scale = 1, offset = 0;
  int64_t elements() const { return rows * columns; }
};
std::vector<RandomTensor> random_tensors(const RandomModel& model);

// The bit patterns of a tensor's elements.
class RandomHalves {
 public:
  explicit RandomHalves(const RandomTensor& tensor);
  // Elements begin, begin + step, ...
  void read(int64_t begin, int64_t step, std::span<uint16_t> out) const;

 private:
  std::vector<uint16_t> table_;
  int64_t first_;
};
std::vector<float> random_values(const RandomTensor& tensor);

// FOLDER/model.onnx, model.onnx.data and config.json: opset 17, with a KV cache, as torch.onnx
// writes it in fp16. `progress` is told of bytes written and to write; may be empty.
void write_onnx(const RandomModel& model, const std::string& folder,
                const std::function<void(int64_t, int64_t)>& progress = {});
// FOLDER/model.safetensors and config.json.
void write_safetensors(const RandomModel& model, const std::string& folder);
// Matrices in F16, vectors in F32, as llama.cpp's conversion writes them.
void write_gguf(const RandomModel& model, const std::string& path);

}  // namespace nibble::test
