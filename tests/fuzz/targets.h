// What is fuzzed: one function a format of files, each of which takes any bytes and leads them as
// deep as a user would. A target comes back when the bytes were read or refused with an Error;
// everything else (another exception, more memory than is allowed, a fault that a sanitizer sees)
// ends the process. Called by libFuzzer (fuzzers/) and, with the kept corpus, by replay_test.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace nibble::fuzz {

int fuzz_onnx(const uint8_t* data, size_t size);  // a model.onnx: load, fuse, choose formats
int fuzz_onnx_external(const uint8_t* data, size_t size);  // parts: model.onnx, weights.bin
// Parts: config.json, model.safetensors; or config.json, one shard, the index, another shard. What
// begins with '{' instead of a length is a header, and the next line on its data.
int fuzz_safetensors(const uint8_t* data, size_t size);
int fuzz_gguf(const uint8_t* data, size_t size);  // a model.gguf, its vocabulary and template too
// A .nib as it is and with its check sums put right; or parts: the graph's JSON, then sections, a
// name, a line end and bytes each.
int fuzz_nib(const uint8_t* data, size_t size);
int fuzz_tokenizer(const uint8_t* data,
                   size_t size);                  // a tokenizer.json, or else a tokenizer.model
int fuzz_chat(const uint8_t* data, size_t size);  // parts: the template, its variables as JSON

struct Target {
  const char* name;  // of the function without "fuzz_", and of its folder in corpus/
  int (*run)(const uint8_t*, size_t);
};
std::span<const Target> targets();

// Runs what a target does with input of so many bytes and holds it to what is promised: nothing
// but nibble::Error is thrown, and no more than 4 x bytes + 64 MiB are allocated at any time.
void hold_to_promises(size_t bytes, const std::function<void()>& action);
// What the last action was refused with; "" when it went through.
const std::string& last_refusal();

}  // namespace nibble::fuzz
