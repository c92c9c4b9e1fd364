#include "frontends/gguf/gguf_model.h"

#include <fmt/format.h>

#include <utility>

#include "frontends/gguf/gguf_description.h"
#include "frontends/gguf/gguf_documents.h"
#include "frontends/gguf/gguf_file.h"
#include "frontends/gguf/gguf_weights.h"
#include "frontends/safetensors/decoder_builder.h"

namespace nibble::frontends {

GgufModel load_gguf(const std::string& path) {
  const gguf::File file = gguf::File::open(path);
  safetensors::Checkpoint checkpoint = gguf::read_weights(file);
  const safetensors::Description description = gguf::describe(file, checkpoint);
  GgufModel model{safetensors::build_decoder(description, checkpoint),
                  safetensors::line_of(description)};
  gguf::read_documents(file, model.graph);
  const int64_t most = description.rotation.most_positions;
  if (most > 0 && (model.graph.context_length == 0 || most < model.graph.context_length)) {
    model.graph.context_length = most;
    model.description += fmt::format(", the first {} positions alone", most);
  }
  return model;
}

}  // namespace nibble::frontends
