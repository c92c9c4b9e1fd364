// Where the tests' models lie and what their reference answers are. The models are not part of the
// repository: tests that need them say NIBBLE_NEED_MODELS() first.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/decoder.h"
#include "tests/support/npy.h"
#include "tests/support/shared_files.h"

namespace nibble::test {

// The 20 decoder families that the zoo has as TorchScript exports, in alphabetic order.
std::span<const std::string> zoo_families();
// The same model by the other exporter of PyTorch, in primitive operators and in those of opset 23.
inline constexpr const char* kZooDynamo[] = {"dynamo-llama-opset20", "dynamo-llama-opset23"};
// The same model by onnxruntime-genai, quantized. Its reference has int8 activations in the matmuls
// (accuracy_level 4), of which fp32 is some 4% of the largest logit away.
inline constexpr const char* kZooGenai = "genai-llama-int4-g32";
std::string zoo_folder(const std::string& family);
// The name of a test over families.
std::string zoo_test_name(const testing::TestParamInfo<std::string>& info);
// "onnx-fp32", "onnx-fp16" or "hf".
std::string tale_folder(const std::string& variant);

struct Reference {
  Npy<int64_t> input_ids;               // [batch][length]
  Npy<float> logits;                    // [batch][length][vocabulary]
  std::vector<int32_t> prompt, greedy;  // what greedy decoding continues the prompt with, or empty
  int64_t batch() const { return input_ids.shape[0]; }
  int64_t length() const { return input_ids.shape[1]; }
  int64_t vocabulary() const { return logits.shape[2]; }
  std::vector<int32_t> ids(int64_t row) const;
  std::span<const float> row_logits(int64_t row) const;
};
Reference zoo_reference(const std::string& family);
Reference tale_reference();  // no prompt

float max_abs(std::span<const float> values);
// max |a - b|; NaN where either has one, and infinity when the lengths differ.
float max_abs_difference(std::span<const float> a, std::span<const float> b);
int32_t argmax(std::span<const float> values);
// The `count` ids that greedy decoding continues the prompt with, from where the decoder stands.
std::vector<int32_t> greedy_ids(runtime::Decoder& decoder, std::span<const int32_t> prompt,
                                size_t count);

}  // namespace nibble::test

// In a test: ends it, loudly, when there are no models.
#define NIBBLE_NEED_MODELS() \
  if (nibble::test::shared_folder().empty()) GTEST_SKIP() << nibble::test::skip_reason()
