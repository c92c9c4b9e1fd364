#include "frontends/safetensors/hf_tensors.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "frontends/decoder/decoder_builder.h"
#include "frontends/decoder/numbered_checkpoint.h"
#include "frontends/safetensors/describe.h"
#include "graph/ops.h"
#include "graph/pair_graphs.h"
#include "graph/passes.h"
#include "graph/rewrite.h"
#include "jit/error.h"

namespace nibble::frontends::safetensors {
namespace {

using decoder::Description;
using graph::Graph;
using graph::kNoValue;
using graph::Node;
using graph::ValueId;

constexpr std::string_view kWeight = ".weight";

const runtime::PackedMatrix* packed_at(const Graph& graph, ValueId id) {
  const auto& constant = graph.values[static_cast<size_t>(id)].constant;
  return constant ? std::get_if<runtime::PackedMatrix>(&*constant) : nullptr;
}

class Collector {
 public:
  Collector(const Graph& given, const Description& description)
      : given_(given), d_(description), numbered_(given.origin + ": config.json") {
    expected_ = decoder::build_decoder(d_, numbered_.checkpoint());
    graph::fuse(expected_);
    pairs_ = graph::pair_graphs(given_, expected_);
  }

  HfTensors run() {
    for (const auto& [name, length] : numbered_.vectors()) {
      vectors_[name].resize(static_cast<size_t>(length));
    }
    for (const Node& node : expected_.nodes) {
      const bool matrix = node.op == "Linear" || node.op == "Embedding";
      if (matrix) add_matrix(node);
      for (size_t i = 1; i < node.inputs.size(); ++i) {
        if (matrix && i == 1) continue;
        if (node.op == "Attention" && i < 3) continue;  // they follow from the configuration
        add_vector(node, node.inputs[i], i);
      }
    }
    for (auto& [name, values] : vectors_) out_.vectors.push_back({name, std::move(values)});
    return std::move(out_);
  }

 private:
  ValueId pair_of(ValueId id) const {
    const ValueId pair = pairs_[static_cast<size_t>(id)];
    if (pair == kNoValue) {
      fail("{}: nothing in the model stands for '{}'.", given_.origin, expected_.value_name(id));
    }
    return pair;
  }

  void add_matrix(const Node& node) {
    const ValueId id = node.inputs[1];
    if (!done_.insert(id).second) return;
    const ValueId given = pair_of(id);
    const auto* packed = packed_at(given_, given);
    if (packed == nullptr) {
      fail("{}: the weight '{}' is not packed yet, so it cannot be exported.", given_.origin,
           given_.value_name(given));
    }
    const auto& source =
        std::get<graph::MatrixSource>(*expected_.values[static_cast<size_t>(id)].constant);
    std::vector<HfMatrix> parts;
    for (const graph::MatrixPart& part : source.parts) {
      HfMatrix matrix;
      matrix.name = dynamic_cast<const decoder::NamedMatrix&>(*part.reader).name();
      matrix.in_layer = matrix.name.starts_with(d_.names.layers);
      matrix.name.resize(matrix.name.size() - kWeight.size());
      matrix.packed = &packed->view;
      matrix.columns.resize(static_cast<size_t>(part.n()), -1);
      parts.push_back(std::move(matrix));
    }
    int64_t at = 0;
    for (const graph::ColumnSegment& segment : source.segments) {
      for (int64_t c = 0; c < segment.count && segment.part >= 0; ++c) {
        parts[static_cast<size_t>(segment.part)].columns[static_cast<size_t>(segment.begin + c)] =
            at + c;
      }
      at += segment.count;
    }
    for (HfMatrix& part : parts) {
      if (std::find(part.columns.begin(), part.columns.end(), -1) != part.columns.end()) {
        fail("{}: the model does not use all of '{}'.", given_.origin, part.name);
      }
      out_.matrices.push_back(std::move(part));
    }
  }

  // A norm's weight or bias, a Linear's bias or a table of positions.
  void add_vector(const Node& node, ValueId id, size_t input) {
    if (id == kNoValue) return;
    const graph::TensorData* numbers = expected_.tensor(id);
    if (numbers == nullptr || !done_.insert(id).second) return;
    const graph::TensorData& given = *given_.tensor(pair_of(id));
    if (const std::string table = numbered_.table_name(*numbers); !table.empty()) {
      out_.tables.push_back({table, given});
      return;
    }
    const bool norm = node.op == "RMSNorm" || node.op == "LayerNorm";
    if (norm && !d_.norm_weight) return;  // ones, which no file has
    const bool factors = node.op == "Attention" || ((norm || node.op == "HeadNorm") && input == 1);
    const float above = factors && d_.norm_adds_one ? 1.0F : 0.0F;
    const std::vector<float> ids = graph::to_f32(*numbers), values = graph::to_f32(given);
    for (size_t e = 0; e < ids.size(); ++e) {
      const decoder::VectorElement element = numbered_.element(ids[e] - above);
      if (element.name == nullptr) continue;
      vectors_.at(*element.name)[static_cast<size_t>(element.index)] = values[e] - above;
    }
  }

  const Graph& given_;
  const Description& d_;
  decoder::NumberedCheckpoint numbered_;
  Graph expected_;
  std::vector<ValueId> pairs_;
  std::set<ValueId> done_;
  std::map<std::string, std::vector<float>> vectors_;
  HfTensors out_;
};

bool same_numbers(const jit::PackedView& a, const jit::PackedView& b) {
  if (a.data == b.data) return true;
  if (a.n != b.n || a.k != b.k || a.format != b.format) return false;
  const jit::PackedShape shape = jit::packed_shape(a.format, a.n, a.k);
  const auto same = [](const void* u, const void* v, int64_t bytes) {
    return bytes == 0 || std::memcmp(u, v, static_cast<size_t>(bytes)) == 0;
  };
  return same(a.data, b.data, shape.data_bytes) && same(a.scales, b.scales, shape.scale_bytes) &&
         same(a.zeros, b.zeros, shape.zero_bytes);
}

}  // namespace

bool is_tied(const Graph& graph) {
  const graph::Links links(graph);
  const Node* head = links.producer(graph.io.logits);
  while (head != nullptr && head->is("LogitScale", graph::kNibbleDomain)) {
    head = links.producer(head->inputs[0]);
  }
  const auto table = std::find_if(graph.nodes.begin(), graph.nodes.end(), [](const Node& node) {
    return node.is("Embedding", graph::kNibbleDomain);
  });
  if (head == nullptr || !head->is("Linear", graph::kNibbleDomain) || table == graph.nodes.end()) {
    return false;
  }
  const auto *a = packed_at(graph, head->inputs[1]), *b = packed_at(graph, table->inputs[1]);
  return a != nullptr && b != nullptr && same_numbers(a->view, b->view);
}

HfTensors hf_tensors(const Graph& graph, const decoder::Config& config) {
  const Description description = describe(config);
  if (description.residual_scale != 1) {
    fail(
        "{}: the matrices hold the factor {} of {}'s residual branches, which the layout of its "
        "checkpoints keeps apart.",
        graph.origin, description.residual_scale, description.family);
  }
  return Collector(graph, description).run();
}

}  // namespace nibble::frontends::safetensors
