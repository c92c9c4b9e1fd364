#include "frontends/gguf/gguf_model.h"

#include <fmt/format.h>

#include <utility>

#include "frontends/decoder/decoder_builder.h"
#include "frontends/gguf/gguf_description.h"
#include "frontends/gguf/gguf_documents.h"
#include "frontends/gguf/gguf_file.h"
#include "frontends/gguf/gguf_weights.h"

namespace nibble::frontends {

GgufModel load_gguf(const std::string& path) {
  const gguf::File file = gguf::File::open(path);
  decoder::Checkpoint checkpoint = gguf::read_weights(file);
  const decoder::Description description = gguf::describe(file, checkpoint);
  GgufModel model{decoder::build_decoder(description, checkpoint), decoder::line_of(description)};
  gguf::read_documents(file, model.graph);
  const int64_t most = description.rotation.most_positions;
  if (most > 0 && (model.graph.context_length == 0 || most < model.graph.context_length)) {
    model.graph.context_length = most;
    model.description += fmt::format(", the first {} positions alone", most);
  }
  return model;
}

}  // namespace nibble::frontends
