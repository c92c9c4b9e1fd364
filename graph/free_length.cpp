#include "graph/free_length.h"

#include <algorithm>
#include <array>
#include <optional>

#include "graph/interpreter.h"
#include "graph/length_arrays.h"
#include "graph/length_nodes.h"
#include "graph/length_patterns.h"
#include "graph/ops.h"
#include "graph/probe.h"
#include "graph/rewrite.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

constexpr int64_t kToTheEnd = int64_t{1} << 40;  // of a Slice
// What a file may ask for here: rewritten places (a layer has some 20), nodes, and work between two
// rewrites, as a share of what other probes may do.
constexpr size_t kMostPlaces = 4000, kMostNodes = 50'000;
constexpr int64_t kShareOfWork = 64;

bool among(const Node& node, std::initializer_list<const char*> ops) {
  return node.domain.empty() &&
         std::any_of(ops.begin(), ops.end(), [&](const char* op) { return node.op == op; });
}

bool broadcasts(const Node& node) {
  return among(node, {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "And", "Or", "Xor",
                      "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Where"});
}

// Walks the nodes in order with arrays of two lengths, so that what varies with the length is seen,
// and rewrites what should vary but does not.
class Freer : private LengthArrays {
 public:
  Freer(Graph& graph, int64_t length)
      : LengthArrays(graph), graph_(graph), length_(length), nodes_(graph) {
    // Shorter ones, as a table of N positions has no more.
    if (length > 11) {
      lengths_ = {7, 11};
    } else {
      lengths_ = {2, 3};
    }
  }

  // The node that it came to.
  std::string where() const {
    return at_ < graph_.nodes.size() ? graph_.nodes[at_].name : graph_.value_name(graph_.io.logits);
  }

  int run() {
    most_places_ = static_cast<int>(std::min<size_t>(kMostPlaces, 16 + 4 * graph_.nodes.size()));
    forget_shapes();
    start(lengths_);
    while (at_ < graph_.nodes.size()) {
      InterpreterLimits limits = probe_limits(graph_);
      limits.work /= kShareOfWork;
      const Interpreter interpreter(graph_, limits);
      changed_ = false;
      while (!changed_ && at_ < graph_.nodes.size()) step(interpreter);
    }
    for (size_t k = 0; k < 2; ++k) {
      const Shape& shape = array(k, graph_.io.logits).shape;
      if (shape.size() != 3 || shape[1] != lengths_[k]) throw UnknownDependence();
    }
    if (cut_) {
      graph_.context_length =
          graph_.context_length > 0 ? std::min(graph_.context_length, length_) : length_;
    }
    return places_;
  }

 private:
  // Shapes that the file declares, with N in them.
  void forget_shapes() {
    for (const ValueId id : {graph_.io.input_ids, graph_.io.attention_mask, graph_.io.position_ids,
                             graph_.io.logits}) {
      if (id == kNoValue) continue;
      auto& shape = graph_.values[static_cast<size_t>(id)].shape;
      if (!shape || shape->size() < 2) continue;
      if ((*shape)[1] != length_ && (*shape)[1] >= 0) throw UnknownDependence();
      (*shape)[1] = -1;
    }
    for (const Node& node : graph_.nodes) {
      for (const ValueId id : node.outputs) {
        if (id != kNoValue && id != graph_.io.logits) {
          graph_.values[static_cast<size_t>(id)].shape.reset();
        }
      }
    }
  }

  void step(const Interpreter& interpreter) {
    read_constants(interpreter, graph_.nodes[at_]);
    replace_constants();
    if (changed_) return;
    const Node& node = graph_.nodes[at_];
    if (among(node, {"Reshape"})) free_reshape();
    if (among(node, {"Expand"})) free_expand();
    if (among(node, {"ConstantOfShape"})) free_constant_of_shape();
    if (among(node, {"Slice"})) free_slice();
    if (among(node, {"Gather"})) check_gather();
    if (among(node, {"Split", "Pad", "Tile", "Trilu"})) check_static_axis();
    if (broadcasts(node)) free_operands();
    if (changed_) return;
    evaluate(interpreter, graph_.nodes[at_]);
    ++at_;
  }

  // The same integers at every length: what a file holds, or computes of what it holds; not what
  // was put in place already.
  std::optional<std::vector<int64_t>> fixed_ints(ValueId id) const {
    if (nodes_.put(id) || !known(id) || array(0, id).kind != Array::Kind::i64 || varies(id))
      return std::nullopt;
    const auto a = array(0, id).ints(), b = array(1, id).ints();
    if (!std::equal(a.begin(), a.end(), b.begin())) return std::nullopt;
    return std::vector<int64_t>(a.begin(), a.end());
  }

  void set_input(size_t input, ValueId value) {
    nodes_.keep(value);
    graph_.nodes[nodes_.end()].inputs.at(input) = value;  // the current one, behind what was added
    changed_ = true;
    if (++places_ > most_places_) throw UnknownDependence();  // what was put in place does not vary
  }

  static bool holds_shape(const Node& node, size_t input) {
    return input > 0 && among(node, {"Reshape", "Expand", "Slice", "Unsqueeze", "Squeeze", "Split",
                                     "Tile", "Pad", "ReduceSum", "ReduceMean"});
  }

  // Positions and causal masks that a file holds, or computes of what it holds.
  void replace_constants() {
    const Node node = graph_.nodes[at_];
    if (node.domain == kNibbleDomain) return;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      if (!known(id) || holds_shape(node, i)) continue;
      const Array &a = array(0, id), &b = array(1, id);
      if (!same_array(a, b)) continue;
      if (const auto row = match_positions(a, length_)) {
        nodes_.begin(at_);
        ValueId value = nodes_.positions(row->first);
        if (a.kind == Array::Kind::f32) value = nodes_.add("Cast", {value}, {{"to", int64_t{1}}});
        Shape shape = a.shape;
        for (int64_t& size : shape) size = size == length_ ? -1 : 1;
        set_input(i, nodes_.add("Reshape", {value, nodes_.ints(shape)}));
        return;
      }
      if (const auto mask = match_band_mask(a, length_)) {
        nodes_.begin(at_);
        set_input(i, nodes_.band_mask(a, *mask));
        return;
      }
    }
  }

  void free_reshape() {
    const Node node = graph_.nodes[at_];
    const auto target = fixed_ints(node.input(1));
    if (!known(node.input(0)) || !varies(node.input(0))) return;
    if (!target) return;  // computed from the length already
    const std::array<Shape, 2> from = {array(0, node.inputs[0]).shape,
                                       array(1, node.inputs[0]).shape};
    const auto freed = free_target(from, lengths_, *target, length_);
    if (!freed) throw UnknownDependence();
    if (*freed == *target) return;
    nodes_.begin(at_);
    std::vector<bool> at;
    for (const int64_t size : *freed) at.push_back(size == kLengthItself);
    set_input(1, nodes_.vector_with_length(*freed, at));
  }

  void free_expand() {
    const Node node = graph_.nodes[at_];
    const auto target = fixed_ints(node.input(1));
    if (!target || !known(node.input(0))) return;
    const Shape& shape = array(0, node.inputs[0]).shape;
    std::vector<int64_t> wanted = *target;
    std::vector<bool> at(wanted.size(), false);
    bool any = false;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const size_t missing = wanted.size() - std::min(wanted.size(), shape.size());
      const bool own = i >= missing;
      const size_t axis = i - missing;
      if (own && varies_at(node.inputs[0], axis)) {
        if (wanted[i] != length_ && wanted[i] != 1) throw UnknownDependence();
        any = any || wanted[i] != 1;
        wanted[i] = 1;
      } else if (wanted[i] == length_ && (!own || shape[axis] == 1)) {
        at[i] = any = true;
      }
    }
    if (!any) return;
    nodes_.begin(at_);
    set_input(1, nodes_.vector_with_length(wanted, at));
  }

  void free_constant_of_shape() {
    const Node node = graph_.nodes[at_];
    const auto target = fixed_ints(node.input(0));
    if (!target || target->size() < 2) return;  // one number: the rank of something
    std::vector<bool> at;
    for (const int64_t size : *target) at.push_back(size == length_);
    if (std::find(at.begin(), at.end(), true) == at.end()) return;
    nodes_.begin(at_);
    set_input(0, nodes_.vector_with_length(*target, at));
  }

  void free_slice() {
    const Node node = graph_.nodes[at_];
    if (node.inputs.size() < 3) throw UnknownDependence();
    const ValueId data = node.inputs[0];
    auto starts = fixed_ints(node.input(1)), ends = fixed_ints(node.inputs[2]);
    if (!known(data)) throw UnknownDependence();
    if (!starts || !ends) return;  // computed from the length already
    if (starts->size() != ends->size()) throw UnknownDependence();
    std::vector<int64_t> axes;
    if (node.input(3) != kNoValue) axes = fixed_ints(node.inputs[3]).value_or(axes);
    for (size_t i = axes.size(); i < ends->size(); ++i) axes.push_back(static_cast<int64_t>(i));
    std::vector<bool> at(ends->size(), false);
    bool any = false;
    const bool held = same_array(array(0, data), array(1, data));
    for (size_t i = 0; i < ends->size(); ++i) {
      const size_t axis = normal_axis(axes[i], array(0, data).shape.size());
      int64_t& end = (*ends)[i];
      if (varies_at(data, axis)) {
        // From the front or the end on, to the end or up to there.
        if ((*starts)[i] > 0 || (end >= 0 && end < length_)) throw UnknownDependence();
        any = any || end == length_;
        if (end == length_) end = kToTheEnd;
      } else if (held && end == length_ && (*starts)[i] == 0) {
        if (array(0, data).shape[axis] < length_) continue;
        at[i] = any = true;  // so many rows of a table
        cut_ = cut_ || array(0, data).shape[axis] == length_;
      }
    }
    if (!any) return;
    nodes_.begin(at_);
    set_input(2, nodes_.vector_with_length(*ends, at));
  }

  // The first input, along the attribute.
  bool varies_along_axis(const Node& node) const {
    const size_t rank = array(0, node.input(0)).shape.size();
    return varies_at(node.input(0), normal_axis(node.get_int("axis", 0), rank));
  }

  // What is picked from the front of what varies, or counted from its end, stays.
  void check_gather() {
    const Node& node = graph_.nodes[at_];
    if (!known(node.input(0)) || !varies(node.input(0))) return;
    const auto indices = fixed_ints(node.input(1));
    if (!indices || !varies_along_axis(node)) return;
    for (const int64_t index : *indices) {
      if (index > 0) throw UnknownDependence();
    }
  }

  // Operators that are told sizes: none along what varies.
  void check_static_axis() {
    const Node& node = graph_.nodes[at_];
    if (!known(node.input(0)) || !varies(node.input(0))) return;
    if (!node.is("Split") || varies_along_axis(node)) throw UnknownDependence();
  }

  // Operands of N where others vary: the rows of a table.
  void free_operands() {
    const Node node = graph_.nodes[at_];
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      const Shape& shape = array(0, id).shape;
      check_scalar(node, id);
      for (size_t axis = 0; axis < shape.size(); ++axis) {
        if (shape[axis] == 1 || varies_at(id, axis)) continue;
        const size_t from_end = shape.size() - axis;
        const bool others = std::any_of(node.inputs.begin(), node.inputs.end(), [&](ValueId other) {
          const size_t size = array(0, other).shape.size();
          return size >= from_end && varies_at(other, size - from_end);
        });
        if (!others) continue;
        if (shape[axis] != length_ || !same_array(array(0, id), array(1, id)))
          throw UnknownDependence();
        nodes_.begin(at_);
        cut_ = true;
        set_input(i, nodes_.add("Slice", {id, nodes_.ints({0}), nodes_.length_vector(),
                                          nodes_.ints({static_cast<int64_t>(axis)})}));
        return;
      }
    }
  }

  // A number like N among integers may be the length.
  void check_scalar(const Node& node, ValueId id) const {
    const Array& value = array(0, id);
    const bool computes_positions = std::any_of(node.inputs.begin(), node.inputs.end(),
                                                [&](ValueId other) { return varies(other); });
    if (!computes_positions || value.kind != Array::Kind::i64 || value.size() != 1 ||
        graph_.tensor(id) == nullptr || nodes_.put(id)) {
      return;
    }
    const int64_t number = value.ints()[0];
    if (number == length_ || number == length_ - 1 || number == -length_ || number == 1 - length_) {
      throw UnknownDependence();
    }
  }

  Graph& graph_;
  int64_t length_;
  std::array<int64_t, 2> lengths_ = {};
  LengthNodes nodes_;
  size_t at_ = 0;
  int places_ = 0, most_places_ = 0;
  bool changed_ = false, cut_ = false;
};

}  // namespace

int64_t fixed_length(const Graph& graph) {
  if (!is_prefix_form(graph) || graph.io.input_ids == kNoValue) return 0;
  const auto& shape = graph.values[static_cast<size_t>(graph.io.input_ids)].shape;
  return shape && shape->size() == 2 && (*shape)[1] > 1 ? (*shape)[1] : 0;
}

int free_length(Graph& graph, FusionReport& report) {
  constexpr int64_t kShortest = 4;  // of fewer positions no pattern shows
  const int64_t length = fixed_length(graph);
  if (length < kShortest || graph.io.logits == kNoValue || graph.nodes.size() > kMostNodes) {
    return 0;
  }
  Graph freed = graph;
  Freer freer(freed, length);
  std::string why = "it depends on that in a way that is not known";
  try {
    const int places = freer.run();
    sort_nodes(freed);
    graph = std::move(freed);
    return places + 1;  // with the declared shape of input_ids
  } catch (const UnknownDependence&) {
  } catch (const Error& error) {  // what was put in place does not fit, or is too large to try
    why = error.what();
  }
  report.entries.push_back(
      {-1, "length", false,
       fmt::format("exported for {} tokens, and at no other number: {}", length, why),
       freer.where()});
  return 0;
}

}  // namespace nibble::graph
