// The formats that models come in.
#include <algorithm>
#include <cstring>
#include <string>

#include "frontends/chat/chat_template.h"
#include "frontends/chat/model_template.h"
#include "frontends/gguf/gguf_documents.h"
#include "frontends/gguf/gguf_model.h"
#include "frontends/onnx/onnx.h"
#include "frontends/safetensors/safetensors.h"
#include "frontends/tokenizer/gguf_vocabulary.h"
#include "frontends/tokenizer/tokenizer.h"
#include "graph/graph.h"
#include "graph/passes.h"
#include "quant/formats/quantize.h"
#include "tests/fuzz/scratch_folder.h"
#include "tests/fuzz/targets.h"

namespace nibble::fuzz {
namespace {

// What `nibble compile` does with a graph before it reads the weights themselves.
void compile(graph::Graph graph) {
  graph::fuse(graph);
  const auto options = quant::default_options("int4", 32, false, jit::ScaleType::f16);
  quant::choose_formats(graph, options);
  quant::quantized_weights(graph, options);
  graph::to_text(graph);
}

std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// A file of safetensors whose header has its right length.
std::string with_length(std::string_view part) {
  if (!part.starts_with('{')) return std::string(part);
  const uint64_t length = std::min(part.find('\n'), part.size());
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  file += part.substr(0, length);
  if (length < part.size()) file += part.substr(length + 1);
  return file;
}

}  // namespace

int fuzz_onnx(const uint8_t* data, size_t size) {
  const Scratch scratch;
  const std::string path = scratch.write("model.onnx", text_of(data, size));
  // So that the corpus needs no weights: seeds have theirs here.
  static const std::string zeros(size_t{1} << 18, '\0');
  scratch.write("weights.bin", zeros);
  hold_to_promises(size, [&] { compile(frontends::load_onnx(path)); });
  return 0;
}

int fuzz_onnx_external(const uint8_t* data, size_t size) {
  const Scratch scratch;
  const auto parts = cut_parts(data, size, 2);
  const std::string path = scratch.write("model.onnx", parts[0]);
  if (parts.size() > 1) scratch.write("weights.bin", parts[1]);
  hold_to_promises(size, [&] { compile(frontends::load_onnx(path)); });
  return 0;
}

int fuzz_safetensors(const uint8_t* data, size_t size) {
  const Scratch scratch;
  const auto parts = cut_parts(data, size, 4);
  scratch.write("config.json", parts[0]);
  if (parts.size() > 1) {
    scratch.write(parts.size() == 2 ? "model.safetensors" : "a.safetensors", with_length(parts[1]));
  }
  if (parts.size() > 2) scratch.write("model.safetensors.index.json", parts[2]);
  if (parts.size() > 3) scratch.write("b.safetensors", with_length(parts[3]));
  hold_to_promises(size, [&] { compile(frontends::load_safetensors(scratch.folder()).graph); });
  return 0;
}

int fuzz_gguf(const uint8_t* data, size_t size) {
  const Scratch scratch;
  const std::string path = scratch.write("model.gguf", text_of(data, size));
  hold_to_promises(size, [&] { compile(frontends::load_gguf(path).graph); });
  // Vocabularies are read without the model, too.
  hold_to_promises(size, [&] {
    const auto documents = frontends::gguf::read_documents(frontends::gguf::File::open(path));
    const auto text = documents.find(frontends::kGgufVocabularyDocument);
    if (text == documents.end()) return;
    const auto vocabulary = frontends::gguf_vocabulary_from_json(text->second, path);
    const auto tokenizer = frontends::Tokenizer::from_gguf(vocabulary, path);
    tokenizer.decode(tokenizer.encode("Once upon a time", true), true);
    const auto chat = frontends::read_model_template(documents, path, "", false);
    frontends::ChatTemplate::parse(chat.source);
  });
  return 0;
}

}  // namespace nibble::fuzz
