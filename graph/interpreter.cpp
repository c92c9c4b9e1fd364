#include "graph/interpreter.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>

#include "graph/interpreter_meter.h"
#include "graph/interpreter_ops.h"
#include "graph/ops.h"
#include "jit/error.h"
#include "jit/packed_layout.h"

namespace nibble::graph {
namespace {

using Elements = std::shared_ptr<const std::vector<float>>;

template <typename T>
void check_values(const Shape& shape, const std::vector<T>& values) {
  if (element_count(shape) != static_cast<int64_t>(values.size())) {
    fail("An array of shape {} needs {} values, but {} were given.", to_string(shape),
         element_count(shape), values.size());
  }
}

Array int_array(Array::Kind kind, Shape shape, std::vector<int64_t> values) {
  check_values(shape, values);
  Array array;
  array.kind = kind;
  array.shape = std::move(shape);
  array.i = std::make_shared<const std::vector<int64_t>>(std::move(values));
  return array;
}

const char* kind_name(Array::Kind kind) {
  switch (kind) {
    case Array::Kind::f32:
      return "floats";
    case Array::Kind::i64:
      return "integers";
    case Array::Kind::boolean:
      return "booleans";
  }
  return "nothing";
}

OpFunction find_op(const Node& node) {
  using Key = std::pair<std::string_view, std::string_view>;
  static const std::map<Key, OpFunction> table = [] {
    std::map<Key, OpFunction> all;
    for (const auto& topic :
         {elementwise_ops(), shape_ops(), gather_ops(), reduce_ops(), matmul_ops(), einsum_ops(),
          nibble_ops(), quantized_ops(), contrib_ops(), standard_attention_ops()}) {
      for (const OpEntry& entry : topic) all.emplace(Key{entry.domain, entry.name}, entry.function);
    }
    return all;
  }();
  const std::string_view domain = node.domain == "ai.onnx" ? "" : std::string_view(node.domain);
  const auto found = table.find({domain, node.op});
  return found == table.end() ? nullptr : found->second;
}

Array from_tensor(const TensorData& tensor) {
  switch (tensor.dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16:
    case DType::f64:
      return Array::of(tensor.shape, to_f32(tensor));
    case DType::boolean:
      return Array::of_bool(tensor.shape, to_i64(tensor));
    default:
      return Array::of(tensor.shape, to_i64(tensor));
  }
}

// Quantized weights are read where they are, not as arrays of 64-bit integers.
bool reads_weights_itself(const Node& node, size_t input) {
  if (node.is("MatMulNBits", kMicrosoftDomain)) return input >= 1 && input <= 4;
  return node.is("GatherBlockQuantized", kMicrosoftDomain) && input != 1;
}

std::vector<float> unpack_k_major(const jit::PackedView& view) {
  std::vector<float> out(static_cast<size_t>(array_size({view.k, view.n})));
  std::vector<float> column(static_cast<size_t>(view.k));
  for (int64_t c = 0; c < view.n; ++c) {
    jit::unpack_column(view, c, column);
    for (int64_t kk = 0; kk < view.k; ++kk) {
      out[static_cast<size_t>(kk * view.n + c)] = column[static_cast<size_t>(kk)];
    }
  }
  return out;
}

int64_t bytes_of(const Array& array) {
  return array.size() * static_cast<int64_t>(element_bytes(array));
}

}  // namespace

Array Array::of(Shape shape, std::vector<float> values) {
  check_values(shape, values);
  Array array;
  array.shape = std::move(shape);
  array.f = std::make_shared<const std::vector<float>>(std::move(values));
  return array;
}

Array Array::of(Shape shape, std::vector<int64_t> values) {
  return int_array(Kind::i64, std::move(shape), std::move(values));
}

Array Array::of_bool(Shape shape, std::vector<int64_t> values) {
  for (int64_t& value : values) value = value != 0 ? 1 : 0;
  return int_array(Kind::boolean, std::move(shape), std::move(values));
}

int64_t Array::size() const {
  if (f != nullptr) return static_cast<int64_t>(f->size());
  return i != nullptr ? static_cast<int64_t>(i->size()) : 0;
}

std::span<const float> Array::floats() const {
  if (kind != Kind::f32 || f == nullptr) {
    fail("An array of {} was found where floats are expected.", kind_name(kind));
  }
  return *f;
}

std::span<const int64_t> Array::ints() const {
  if (kind == Kind::f32 || i == nullptr) {
    fail("An array of floats was found where integers or booleans are expected.");
  }
  return *i;
}

const Array& OpCall::in(size_t i) const {
  if (const Array* array = optional(i)) return *array;
  if (node.input(i) != kNoValue) {
    fail("Input {} (\"{}\") is a weight matrix where a tensor is expected.", i,
         graph.value_name(node.input(i)));
  }
  fail("Input {} is missing.", i);
}

const Constant* OpCall::constant(size_t i) const {
  const ValueId id = node.input(i);
  if (id == kNoValue) return nullptr;
  const auto& constant = graph.values[static_cast<size_t>(id)].constant;
  return constant ? &*constant : nullptr;
}

Array reshaped(const Array& x, Shape shape) {
  if (element_count(shape) != x.size()) {
    fail("An array of shape {} ({} elements) cannot take the shape {}.", to_string(x.shape),
         x.size(), to_string(shape));
  }
  Array result = x;
  result.shape = std::move(shape);
  return result;
}

Array like(const Array&, Shape shape, std::vector<float> values) {
  return Array::of(std::move(shape), std::move(values));
}

Array like(const Array& x, Shape shape, std::vector<int64_t> values) {
  return int_array(x.kind, std::move(shape), std::move(values));
}

size_t normal_axis(int64_t axis, size_t rank) {
  const auto dims = static_cast<int64_t>(rank);
  if (axis < -dims || axis >= dims) {
    fail("The axis {} is outside an array of {} dimensions.", axis, rank);
  }
  return static_cast<size_t>(axis < 0 ? axis + dims : axis);
}

int64_t one_int(const Array& x) {
  if (x.size() != 1) {
    fail("An array of shape {} was found where one integer is expected.", to_string(x.shape));
  }
  return x.ints()[0];
}

std::vector<int64_t> axes_of(const OpCall& call, size_t index) {
  if (const Array* axes = call.optional(index)) {
    return {axes->ints().begin(), axes->ints().end()};
  }
  return call.node.get_ints("axes", {});
}

// The graph with what is derived from it once: who makes each value, each node's function, and the
// constants that have been used, as arrays.
struct Interpreter::Impl : MatrixCache {
  Impl(const Graph& g, const InterpreterLimits& l) : graph(g), limits(l), maker(producers(g)) {
    for (const Node& node : graph.nodes) functions.push_back(find_op(node));
  }

  const Graph& graph;
  const InterpreterLimits limits;
  std::vector<int32_t> maker;
  std::vector<OpFunction> functions;
  std::atomic<int64_t> work{0};
  std::mutex mutex;  // guards the two caches
  int64_t kept = 0;  // bytes of both
  std::map<ValueId, Array> arrays;
  std::map<ValueId, Elements> matrices;

  const Value& value(ValueId id) const { return graph.values.at(static_cast<size_t>(id)); }

  Elements k_major(ValueId id) override {
    const std::lock_guard lock(mutex);
    Elements& matrix = matrices[id];
    if (matrix == nullptr) {
      const Constant& constant = *value(id).constant;
      if (const auto* source = std::get_if<MatrixSource>(&constant)) {
        array_size({source->k, source->n});
        matrix = std::make_shared<const std::vector<float>>(source->to_k_major());
      } else if (const auto* packed = std::get_if<runtime::PackedMatrix>(&constant)) {
        matrix = std::make_shared<const std::vector<float>>(unpack_k_major(packed->view));
      } else {
        fail("The weight \"{}\" is a plain tensor where a matrix is expected.",
             graph.value_name(id));
      }
      keep(static_cast<int64_t>(matrix->size() * sizeof(float)));
    }
    return matrix;
  }

  void keep(int64_t bytes) {
    kept += bytes;
    meter_held(bytes);
  }

  // The array of a constant tensor; nullopt for weight matrices.
  std::optional<Array> constant_array(ValueId id) {
    const TensorData* tensor = graph.tensor(id);
    if (tensor == nullptr) return std::nullopt;
    const std::lock_guard lock(mutex);
    const auto found = arrays.find(id);
    if (found != arrays.end()) return found->second;
    try {
      const bool floats = tensor->dtype == DType::f32 || tensor->dtype == DType::f16 ||
                          tensor->dtype == DType::bf16 || tensor->dtype == DType::f64;
      array_size(tensor->shape, floats ? sizeof(float) : sizeof(int64_t));
      const Array& array = arrays.emplace(id, from_tensor(*tensor)).first->second;
      keep(bytes_of(array));
      return array;
    } catch (const Error& error) {
      fail("The constant \"{}\" of {} cannot be read: {}", graph.value_name(id), graph.origin,
           error.what());
    }
  }

  std::vector<Array> run(const Feeds& feeds, std::span<const ValueId> wanted);
  void evaluate(const Node& node, OpFunction function, std::vector<Array>& held,
                std::vector<bool>& known);
};

namespace {

// Which nodes a run needs and how often each value is used in it.
struct Demand {
  std::vector<bool> known;     // fed, or a constant, or made so far
  std::vector<int32_t> users;  // uses left, one more for wanted values
  std::vector<bool> needed;    // nodes
};

Demand demand(const Graph& graph, const std::vector<int32_t>& maker, const Feeds& feeds,
              std::span<const ValueId> wanted) {
  const size_t values = graph.values.size();
  Demand result{std::vector<bool>(values), std::vector<int32_t>(values),
                std::vector<bool>(graph.nodes.size())};
  for (const auto& [id, array] : feeds) {
    if (id < 0 || static_cast<size_t>(id) >= values)
      fail("Value {} is fed, but does not exist.", id);
    result.known[static_cast<size_t>(id)] = true;
  }
  const auto use = [&](ValueId id) {
    ++result.users[static_cast<size_t>(id)];
    if (result.known[static_cast<size_t>(id)]) return;
    const int32_t node = maker[static_cast<size_t>(id)];
    if (node >= 0) result.needed[static_cast<size_t>(node)] = true;
  };
  for (const ValueId id : wanted) {
    if (id < 0 || static_cast<size_t>(id) >= values)
      fail("Value {} is wanted, but does not exist.", id);
    use(id);
  }
  // Nodes are in topological order, so one walk backwards sees every user before its makers.
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    if (!result.needed[i]) continue;
    for (const ValueId id : graph.nodes[i].inputs) {
      if (id != kNoValue) use(id);
    }
  }
  return result;
}

}  // namespace

void Interpreter::Impl::evaluate(const Node& node, OpFunction function, std::vector<Array>& held,
                                 std::vector<bool>& known) {
  if (function == nullptr) {
    fail("The interpreter has no operator \"{}{}{}\".", node.domain, node.domain.empty() ? "" : ".",
         node.op);
  }
  OpCall call{node, graph, {}, *this};
  std::vector<Array> constants(node.inputs.size());
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const ValueId id = node.inputs[i];
    const Array* input = nullptr;
    if (id != kNoValue && known[static_cast<size_t>(id)]) {
      input = &held[static_cast<size_t>(id)];
    } else if (id != kNoValue && !reads_weights_itself(node, i)) {
      if (!value(id).constant) {
        fail("The value \"{}\" is neither fed nor made by an earlier node.", graph.value_name(id));
      }
      if (auto array = constant_array(id)) {
        constants[i] = *std::move(array);
        input = &constants[i];
      }
    }
    call.inputs.push_back(input);
  }
  for (const Array* input : call.inputs) spend(input != nullptr ? 1 + input->size() : 1);
  std::vector<Array> outputs = function(call);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const ValueId id = node.outputs[i];
    if (id == kNoValue || known[static_cast<size_t>(id)]) continue;
    if (i >= outputs.size()) fail("The interpreter does not make output {}.", i);
    meter_held(bytes_of(outputs[i]));
    held[static_cast<size_t>(id)] = std::move(outputs[i]);
    known[static_cast<size_t>(id)] = true;
  }
}

std::vector<Array> Interpreter::Impl::run(const Feeds& feeds, std::span<const ValueId> wanted) {
  int64_t before = 0;
  {
    const std::lock_guard lock(mutex);
    before = kept;
  }
  const MeterScope scope(limits, before, work);
  spend(static_cast<int64_t>(graph.nodes.size()));
  Demand plan = demand(graph, maker, feeds, wanted);
  std::vector<Array> held(graph.values.size());
  // What is fed is the caller's to hold.
  const auto drop = [&](ValueId id) {
    Array& array = held[static_cast<size_t>(id)];
    if (!feeds.contains(id)) meter_held(-bytes_of(array));
    array = Array();
  };
  for (const auto& [id, array] : feeds) held[static_cast<size_t>(id)] = array;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (!plan.needed[i]) continue;
    const Node& node = graph.nodes[i];
    try {
      evaluate(node, functions[i], held, plan.known);
    } catch (const Error& error) {
      fail("Node \"{}\" ({}) of {}: {}", node.name, node.op, graph.origin, error.what());
    } catch (const std::bad_alloc&) {
      fail("Node \"{}\" ({}) of {}: There is not enough memory for its result.", node.name, node.op,
           graph.origin);
    }
    for (const ValueId id : node.inputs) {
      if (id == kNoValue) continue;
      if (--plan.users[static_cast<size_t>(id)] == 0) drop(id);
    }
    for (const ValueId id : node.outputs) {
      if (id != kNoValue && plan.users[static_cast<size_t>(id)] == 0) {
        drop(id);
      }
    }
  }
  std::vector<Array> results;
  for (const ValueId id : wanted) {
    if (plan.known[static_cast<size_t>(id)]) {
      results.push_back(held[static_cast<size_t>(id)]);
    } else if (auto array = constant_array(id)) {
      results.push_back(*std::move(array));
    } else {
      fail("The value \"{}\" of {} is neither fed nor made by a node.", graph.value_name(id),
           graph.origin);
    }
  }
  return results;
}

Interpreter::Interpreter(const Graph& graph, const InterpreterLimits& limits)
    : impl_(std::make_unique<Impl>(graph, limits)) {}
Interpreter::~Interpreter() = default;

std::vector<Array> Interpreter::run(const Feeds& feeds, std::span<const ValueId> wanted) const {
  return impl_->run(feeds, wanted);
}

Array Interpreter::run_one(const Feeds& feeds, ValueId wanted) const {
  return impl_->run(feeds, std::span(&wanted, 1)).front();
}

bool interpreter_knows(const Node& node) { return find_op(node) != nullptr; }

}  // namespace nibble::graph
