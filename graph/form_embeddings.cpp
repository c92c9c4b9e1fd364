// Gather of a table's rows by input_ids becomes Embedding; a constant factor and learned positions
// that are added become part of it. What index a position Gather uses is found by evaluating it.
#include <algorithm>
#include <numeric>

#include "graph/interpreter.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/probe.h"
#include "graph/quantized_nodes.h"
#include "graph/rewrite.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

bool is_table(const TensorData* tensor) {
  return tensor != nullptr && tensor->shape.size() == 2 && element_count(tensor->shape) > 0 &&
         (tensor->dtype == DType::f32 || tensor->dtype == DType::f16 ||
          tensor->dtype == DType::bf16 || tensor->dtype == DType::f64);
}

// What a node looks rows up in, and by which numbers; nullopt when it is no look-up in a constant
// table.
struct Lookup {
  MatrixSource table;
  ValueId name = kNoValue, index = kNoValue;
};

std::optional<Lookup> lookup_of(const Graph& graph, const Links& links, const Node& node) {
  if (node.is("GatherBlockQuantized", kMicrosoftDomain)) {
    return Lookup{MatrixSource::whole(gather_block_table(graph, node)), node.inputs[0],
                  node.inputs[1]};
  }
  if (node.op == "DequantizeLinear") {  // of rows that were looked up
    const Node* gather = links.producer(node.input(0));
    if (gather == nullptr || !gather->is("Gather") || gather->get_int("axis", 0) != 0) {
      return std::nullopt;
    }
    Node whole = node;
    whole.inputs[0] = gather->inputs[0];
    const auto scale = constant_behind(graph, node.input(1));
    if (!scale || element_count(scale->shape) != 1) return std::nullopt;
    auto matrix = dequantized_weight(graph, whole, false);
    if (!matrix) return std::nullopt;
    return Lookup{MatrixSource::whole(std::move(matrix)), gather->inputs[0], gather->inputs[1]};
  }
  if (!node.is("Gather") || node.get_int("axis", 0) != 0) return std::nullopt;
  const TensorData* tensor = graph.tensor(node.inputs[0]);
  if (is_table(tensor)) {
    return Lookup{MatrixSource::whole(*tensor, false), node.inputs[0], node.inputs[1]};
  }
  const Node* maker = links.producer(node.input(0));
  if (maker == nullptr || maker->op != "DequantizeLinear") return std::nullopt;
  auto matrix = dequantized_weight(graph, *maker, false);
  if (!matrix) return std::nullopt;
  return Lookup{MatrixSource::whole(std::move(matrix)), node.inputs[0], node.inputs[1]};
}

// The constant over the same numbers, when a tied head already made one.
ValueId table_value(Graph& graph, MatrixSource table, const std::string& name) {
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const auto& constant = graph.values[id].constant;
    const auto* source = constant ? std::get_if<MatrixSource>(&*constant) : nullptr;
    if (source != nullptr && source->parts.size() == 1 && source->segments.size() == 1 &&
        source->n == table.n && source->parts[0].same_as(table.parts[0])) {
      return static_cast<ValueId>(id);
    }
  }
  return graph.add_constant(name, Constant(std::move(table)));
}

// Whether `index` is input_ids, however reshaped.
bool is_ids(const Graph& graph, const Interpreter& interpreter, ValueId index, int64_t rows) {
  if (index == graph.io.input_ids) return true;
  Feeds feeds = decoder_feeds(graph, {.tokens = rows, .past = 2});
  std::vector<int64_t> ids(static_cast<size_t>(rows));  // every id that the table has
  std::iota(ids.rbegin(), ids.rend(), 0);               // backwards: positions go forwards
  feeds[graph.io.input_ids] = Array::of({1, rows}, ids);
  try {
    const Array found = interpreter.run_one(feeds, index);
    return found.kind == Array::Kind::i64 && found.shape == Shape{1, rows} &&
           std::equal(ids.begin(), ids.end(), found.ints().begin());
  } catch (const Error&) {
    return false;  // depends on what a probe does not feed
  }
}

int replace_gathers(Graph& graph) {
  std::vector<std::pair<size_t, Lookup>> found;
  {
    const Interpreter interpreter(graph, probe_limits(graph));
    const Links links(graph);
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      auto lookup = lookup_of(graph, links, graph.nodes[i]);
      if (!lookup || !is_ids(graph, interpreter, lookup->index, lookup->table.n)) continue;
      found.emplace_back(i, *std::move(lookup));
    }
  }
  for (auto& [i, lookup] : found) {
    const ValueId table =
        table_value(graph, std::move(lookup.table), graph.value_name(lookup.name));
    Node& target = graph.nodes[i];
    target.op = "Embedding";
    target.domain = kNibbleDomain;
    target.inputs = {graph.io.input_ids, table};
    target.attributes.clear();
  }
  return static_cast<int>(found.size());
}

int absorb_scales(Graph& graph) {
  const Links links(graph);
  std::vector<bool> dead(graph.nodes.size(), false);
  int changed = 0;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    Node& embedding = graph.nodes[i];
    if (!embedding.is("Embedding", kNibbleDomain) || embedding.has("scale")) continue;
    if (!links.single_use(embedding.outputs[0])) continue;
    const auto user = static_cast<size_t>(links.consumers(embedding.outputs[0])[0]);
    const Node& mul = graph.nodes[user];
    if (!mul.is("Mul")) continue;
    const ValueId other = mul.inputs[0] == embedding.outputs[0] ? mul.inputs[1] : mul.inputs[0];
    const auto scale = scalar_constant(graph, other);
    if (!scale) continue;
    embedding.attributes["scale"] = *scale;
    embedding.outputs = mul.outputs;
    dead[user] = true;
    ++changed;
  }
  erase_nodes(graph, dead);
  return changed;
}

// The constant c such that `index` is position + c in every probe; nullopt when it is something
// else.
std::optional<int64_t> position_offset(const Graph& graph, const Interpreter& interpreter,
                                       ValueId index) {
  std::optional<int64_t> offset;
  for (const ProbeCall& call : {ProbeCall{3, 0}, ProbeCall{2, 5}, ProbeCall{1, 9}}) {
    const int64_t rows = rows_of_call(graph, call), first = first_position(graph, call);
    Array array;
    try {
      array = interpreter.run_one(decoder_feeds(graph, call), index);
    } catch (const Error&) {
      return std::nullopt;  // depends on what a probe does not feed
    }
    if (array.kind != Array::Kind::i64 || array.size() != rows) return std::nullopt;
    for (int64_t s = 0; s < rows; ++s) {
      int64_t found = 0;
      if (__builtin_sub_overflow(array.ints()[static_cast<size_t>(s)], first + s, &found) ||
          (offset && *offset != found)) {
        return std::nullopt;
      }
      offset = found;
    }
  }
  return offset;
}

// The node that makes the rows of a value, which may have been given another shape: Reshape keeps
// rows whole where it keeps their width.
const Node* rows_behind(const Graph& graph, const Links& links, const Interpreter& interpreter,
                        ValueId id) {
  const Node* maker = links.producer(id);
  if (maker == nullptr || !maker->is("Reshape")) return maker;
  const ValueId wanted[] = {id, maker->inputs[0]};
  try {
    const auto found = interpreter.run(decoder_feeds(graph, {.tokens = 3, .past = 0}), wanted);
    const Shape &after = found[0].shape, &before = found[1].shape;
    if (after.empty() || before.empty() || after.back() != before.back()) return nullptr;
  } catch (const Error&) {
    return nullptr;  // depends on what a probe does not feed
  }
  return links.producer(maker->inputs[0]);
}

// An embedding and the table of the positions that are added to it.
struct WithPositions {
  Node embedding;
  Lookup positions;
};

// The constant of such a table: as the file has it, or in fp32 where it is quantized.
ValueId position_table(Graph& graph, const Lookup& positions) {
  if (is_table(graph.tensor(positions.name))) return positions.name;
  const MatrixSource& table = positions.table;
  std::vector<float> values(static_cast<size_t>(table.n * table.k));
  table.read_columns(0, table.n, values);
  return graph.add_constant(graph.value_name(positions.name) + "/f32",
                            make_f32({table.n, table.k}, std::move(values)));
}

// The embedding that `add` completes with positions, fused; nullopt when it does not.
std::optional<WithPositions> with_positions(const Graph& graph, const Links& links,
                                            const Interpreter& interpreter, const Node& add) {
  for (size_t side = 0; side < 2; ++side) {
    const Node* embedding = links.producer(add.inputs[side]);
    const Node* gather = rows_behind(graph, links, interpreter, add.inputs[1 - side]);
    if (embedding == nullptr || gather == nullptr) continue;
    if (!embedding->is("Embedding", kNibbleDomain) || embedding->input(2) != kNoValue) continue;
    const auto lookup = lookup_of(graph, links, *gather);
    const auto& constant = graph.values[static_cast<size_t>(embedding->inputs[1])].constant;
    const auto* table = constant ? std::get_if<MatrixSource>(&*constant) : nullptr;
    if (!lookup || table == nullptr || lookup->table.k != table->k) continue;
    if (!links.single_use(embedding->outputs[0])) continue;
    const auto offset = position_offset(graph, interpreter, lookup->index);
    if (!offset) continue;
    Node fused = *embedding;
    fused.attributes["position_offset"] = *offset;
    fused.outputs = add.outputs;
    return WithPositions{std::move(fused), *lookup};
  }
  return std::nullopt;
}

int absorb_positions(Graph& graph) {
  std::vector<std::pair<size_t, WithPositions>> fused;
  {
    const Links links(graph);
    const Interpreter interpreter(graph, probe_limits(graph));
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      if (!graph.nodes[i].is("Add")) continue;
      auto node = with_positions(graph, links, interpreter, graph.nodes[i]);
      if (node) fused.emplace_back(i, std::move(*node));
    }
  }
  for (auto& [index, found] : fused) {
    found.embedding.inputs.push_back(position_table(graph, found.positions));
    graph.nodes[index] = std::move(found.embedding);
  }
  if (!fused.empty()) eliminate_dead(graph);
  return static_cast<int>(fused.size());
}

}  // namespace

int form_embeddings(Graph& graph) {
  int changed = replace_gathers(graph);
  simplify_shapes(graph);  // so that what only asks for a shape does not count as a user
  changed += absorb_scales(graph);
  changed += absorb_positions(graph);
  return changed;
}

}  // namespace nibble::graph
