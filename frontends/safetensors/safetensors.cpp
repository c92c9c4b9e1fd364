#include "frontends/safetensors/safetensors.h"

#include <fmt/format.h>

#include <algorithm>

#include "frontends/decoder/config.h"
#include "frontends/decoder/decoder_builder.h"
#include "frontends/decoder/description.h"
#include "frontends/documents/documents.h"
#include "frontends/safetensors/describe.h"
#include "frontends/safetensors/open_checkpoint.h"
#include "jit/error.h"

namespace nibble::frontends {
using decoder::Description;

SafetensorsModel load_safetensors(const std::string& path) {
  decoder::Checkpoint checkpoint = safetensors::open_checkpoint(path);
  graph::Graph beside;
  documents::read_documents(checkpoint.folders(), beside);
  const auto text = beside.documents.find("config.json");
  if (text == beside.documents.end()) {
    fail("{}: there is no config.json beside it, which says what model it is.", checkpoint.path());
  }
  const std::string origin = (checkpoint.folders().front() / "config.json").string();
  const auto config = decoder::Config::parse(text->second, origin);
  const Description description = safetensors::describe(config);

  SafetensorsModel model{decoder::build_decoder(description, checkpoint), line_of(description)};
  graph::Graph& graph = model.graph;
  graph.documents = std::move(beside.documents);
  graph.eos_ids = std::move(beside.eos_ids);
  graph.bos_id = beside.bos_id;
  graph.context_length = beside.context_length;
  const int64_t most = description.rotation.most_positions;
  if (most > 0 && (graph.context_length == 0 || most < graph.context_length)) {
    graph.context_length = most;
    model.description += fmt::format(", the first {} positions alone", most);
  }
  return model;
}

}  // namespace nibble::frontends
