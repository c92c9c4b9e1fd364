#include "frontends/safetensors/safetensors.h"

#include <fmt/format.h>

#include <algorithm>

#include "frontends/onnx/documents.h"
#include "frontends/safetensors/checkpoint.h"
#include "frontends/safetensors/config.h"
#include "frontends/safetensors/decoder_builder.h"
#include "frontends/safetensors/description.h"
#include "jit/error.h"

namespace nibble::frontends {
using safetensors::Description;

SafetensorsModel load_safetensors(const std::string& path) {
  safetensors::Checkpoint checkpoint = safetensors::Checkpoint::open(path);
  graph::Graph documents;
  onnx::read_documents(checkpoint.folders(), documents);
  const auto text = documents.documents.find("config.json");
  if (text == documents.documents.end()) {
    fail("{}: there is no config.json beside it, which says what model it is.", checkpoint.path());
  }
  const std::string origin = (checkpoint.folders().front() / "config.json").string();
  const auto config = safetensors::Config::parse(text->second, origin);
  const Description description = safetensors::describe(config);

  SafetensorsModel model{safetensors::build_decoder(description, checkpoint), line_of(description)};
  graph::Graph& graph = model.graph;
  graph.documents = std::move(documents.documents);
  graph.eos_ids = std::move(documents.eos_ids);
  graph.bos_id = documents.bos_id;
  graph.context_length = documents.context_length;
  const int64_t most = description.rotation.most_positions;
  if (most > 0 && (graph.context_length == 0 || most < graph.context_length)) {
    graph.context_length = most;
    model.description += fmt::format(", the first {} positions alone", most);
  }
  return model;
}

}  // namespace nibble::frontends
