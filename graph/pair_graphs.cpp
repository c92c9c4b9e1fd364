#include "graph/pair_graphs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "graph/ops.h"
#include "graph/rewrite.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

constexpr double kSameFrequency = 1e-3;  // frequencies that were measured are that exact

bool close(double a, double b) {
  return std::fabs(a - b) <= kSameFrequency * std::max(std::fabs(a), std::fabs(b));
}

// What an attribute means where it is not written.
Attribute default_of(const std::string& key, const Attribute& like) {
  if (std::holds_alternative<std::string>(like)) return std::string("none");
  if (!std::holds_alternative<float>(like)) return int64_t{0};
  return key == "scale" || key == "rope_scale" ? 1.0F : 0.0F;
}

bool same(const Attribute& a, const Attribute& b) {
  if (const auto* x = std::get_if<float>(&a)) {
    const auto* y = std::get_if<float>(&b);
    return y != nullptr && close(*x, *y);
  }
  if (const auto* x = std::get_if<int64_t>(&a)) {
    const auto* y = std::get_if<int64_t>(&b);
    return y != nullptr && *x == *y;
  }
  const auto *x = std::get_if<std::string>(&a), *y = std::get_if<std::string>(&b);
  return x != nullptr && y != nullptr && *x == *y;
}

// A factor on the cosines and sines of every dimension is one on the scores.
void settle_scale(Node& attention) {
  if (!attention.has("rope_scale") ||
      attention.get_int("rotary", 0) != attention.get_int("head_dim")) {
    return;
  }
  const float factor = attention.get_float("rope_scale");
  attention.attributes["scale"] = attention.get_float("scale") * factor * factor;
  attention.attributes.erase("rope_scale");
}

bool same_bytes(const void* a, const void* b, int64_t bytes) {
  return bytes == 0 || std::memcmp(a, b, static_cast<size_t>(bytes)) == 0;
}

bool same_packed(const jit::PackedView& a, const jit::PackedView& b) {
  if (!(a.format == b.format) || a.n != b.n || a.k != b.k) return false;
  const jit::PackedShape shape = jit::packed_shape(a.format, a.n, a.k);
  return same_bytes(a.data, b.data, shape.data_bytes) &&
         same_bytes(a.scales, b.scales, shape.scale_bytes) &&
         same_bytes(a.zeros, b.zeros, shape.zero_bytes);
}

// Whether two values are constants of the same numbers.
bool same_numbers(const Graph& graph, ValueId a, ValueId b) {
  const auto& x = graph.values[static_cast<size_t>(a)].constant;
  const auto& y = graph.values[static_cast<size_t>(b)].constant;
  if (!x || !y || x->index() != y->index()) return false;
  if (const auto* tensor = std::get_if<TensorData>(&*x)) {
    const auto& other = std::get<TensorData>(*y);
    return tensor->shape == other.shape && to_f32(*tensor) == to_f32(other);
  }
  if (const auto* source = std::get_if<MatrixSource>(&*x)) {
    return same_source(*source, std::get<MatrixSource>(*y));
  }
  return same_packed(std::get<runtime::PackedMatrix>(*x).view,
                     std::get<runtime::PackedMatrix>(*y).view);
}

// Whether a value is a constant vector of zeros: a bias that adds nothing.
bool is_zero(const Graph& graph, ValueId id) {
  const TensorData* tensor = graph.tensor(id);
  if (tensor == nullptr) return false;
  const std::vector<float> numbers = to_f32(*tensor);
  return std::all_of(numbers.begin(), numbers.end(), [](float x) { return x == 0; });
}

class Pairer {
 public:
  Pairer(const Graph& given, const Graph& expected)
      : given_(given),
        expected_(expected),
        given_links_(given),
        expected_links_(expected),
        given_widths_(hidden_widths(given)),
        expected_widths_(hidden_widths(expected)),
        pairs_(expected.values.size(), kNoValue) {}

  std::vector<ValueId> run() {
    add(given_.io.logits, expected_.io.logits, "the logits");
    while (!queue_.empty()) {
      const auto [given, expected] = queue_.back();
      queue_.pop_back();
      const Node *a = given_links_.producer(given), *b = expected_links_.producer(expected);
      if (a == nullptr && b == nullptr) {
        expect(given == given_.io.input_ids && expected == expected_.io.input_ids, given, expected);
        continue;
      }
      expect(a != nullptr && b != nullptr, given, expected);
      pair_nodes(*a, *b);
    }
    return std::move(pairs_);
  }

 private:
  [[noreturn]] void differ(const Node& a, const Node& b, const std::string& how) const {
    fail("{}: node '{}' ({}) is not what {} expects as '{}' ({}): {}.", given_.origin, a.name, a.op,
         expected_.origin, b.name, b.op, how);
  }

  void expect(bool fits, ValueId given, ValueId expected) const {
    if (fits) return;
    fail("{}: the value '{}' is not what {} expects as '{}'.", given_.origin,
         given_.value_name(given), expected_.origin, expected_.value_name(expected));
  }

  void add(ValueId given, ValueId expected, const std::string& what) {
    ValueId& known = pairs_[static_cast<size_t>(expected)];
    if (known == given) return;
    if (known != kNoValue) {
      if (same_numbers(given_, known, given)) return;  // one constant, kept twice
      fail("{}: {} is '{}' in one place and '{}' in another, but {} expects one.", given_.origin,
           what, given_.value_name(known), given_.value_name(given), expected_.origin);
    }
    known = given;
    const bool constant = expected_.values[static_cast<size_t>(expected)].constant.has_value();
    if (!constant) queue_.emplace_back(given, expected);
  }

  void pair_nodes(const Node& given, const Node& expected) {
    if (!seen_.emplace(&given, &expected).second) return;
    if (given.op != expected.op || given.domain != expected.domain) {
      differ(given, expected, "another operator");
    }
    compare_attributes(given, expected);
    const size_t count = std::max(given.inputs.size(), expected.inputs.size());
    const bool swapped = given.is("Add", kNibbleDomain) && is_swapped(given, expected);
    for (size_t i = 0; i < count; ++i) {
      const size_t at = swapped && i < 2 ? 1 - i : i;
      pair_inputs(given, expected, given.input(at), expected.input(i), i);
    }
  }

  // Of a sum one term may be told by what makes it.
  bool is_swapped(const Node& given, const Node& expected) const {
    const auto alike = [&](size_t a, size_t b) {
      const Node* x = given_links_.producer(given.inputs[a]);
      const Node* y = expected_links_.producer(expected.inputs[b]);
      return (x == nullptr) == (y == nullptr) && (x == nullptr || x->op == y->op);
    };
    return !(alike(0, 0) && alike(1, 1)) && alike(0, 1) && alike(1, 0);
  }

  void compare_attributes(Node given, Node expected) const {
    if (given.op == "Attention") {
      settle_scale(given);
      settle_scale(expected);
    }
    std::set<std::string> keys;
    for (const Node* node : {&given, &expected}) {
      for (const auto& [key, value] : node->attributes) keys.insert(key);
    }
    for (const std::string& key : keys) {
      if (key == "compute" || key == "columns") continue;  // columns: below
      const Node& known = given.has(key) ? given : expected;
      const Attribute usual = default_of(key, known.attributes.at(key));
      const Attribute a = given.has(key) ? given.attributes.at(key) : usual;
      const Attribute b = expected.has(key) ? expected.attributes.at(key) : usual;
      if (!same(a, b)) differ(given, expected, fmt::format("its attribute {} differs", key));
    }
    const int64_t a = given_widths_[static_cast<size_t>(given.outputs[0])];
    const int64_t b = expected_widths_[static_cast<size_t>(expected.outputs[0])];
    if (a != b) differ(given, expected, fmt::format("{} columns where {} are expected", a, b));
  }

  void pair_inputs(const Node& given, const Node& expected, ValueId a, ValueId b, size_t i) {
    if (a == kNoValue && b == kNoValue) return;
    if (b == kNoValue && given.op == "LayerNorm" && i == 2 && is_zero(given_, a)) return;
    if (a == kNoValue || b == kNoValue) {
      differ(given, expected,
             fmt::format("input {} is {}", i, b == kNoValue ? "there" : "missing"));
    }
    const auto& x = given_.values[static_cast<size_t>(a)].constant;
    const auto& y = expected_.values[static_cast<size_t>(b)].constant;
    if (x.has_value() != y.has_value()) {
      differ(given, expected, fmt::format("input {} is {}", i, x ? "a constant" : "computed"));
    }
    if (x) compare_constants(given, expected, *x, *y, i);
    if (x && is_setting(given, i)) return;  // each layer may have its own, as near as that
    add(a, b, fmt::format("input {} of node '{}'", i, given.name));
  }

  // Frequencies and slopes.
  static bool is_setting(const Node& node, size_t input) {
    return node.op == "Attention" && input <= 2;
  }

  struct Size {
    int64_t n = 0, k = 0;
    friend bool operator==(const Size&, const Size&) = default;
  };
  static Size size_of(const Constant& constant) {
    if (const auto* source = std::get_if<MatrixSource>(&constant)) return {source->n, source->k};
    if (const auto* packed = std::get_if<runtime::PackedMatrix>(&constant)) {
      return {packed->view.n, packed->view.k};
    }
    const Shape& shape = std::get<TensorData>(constant).shape;
    return shape.size() == 2 ? Size{shape[0], shape[1]} : Size{element_count(shape), 0};
  }

  void compare_constants(const Node& given, const Node& expected, const Constant& x,
                         const Constant& y, size_t i) const {
    const Size a = size_of(x), b = size_of(y);
    if (!(a == b)) {
      differ(given, expected,
             fmt::format("input {} is {} x {} where {} x {} is expected", i, a.n, a.k, b.n, b.k));
    }
    if (!is_setting(given, i)) return;
    const auto u = to_f32(std::get<TensorData>(x)), v = to_f32(std::get<TensorData>(y));
    for (size_t e = 0; e < u.size(); ++e) {
      if (close(u[e], v[e])) continue;
      differ(given, expected,
             fmt::format("number {} of input {} is {} where {} is expected", e, i, u[e], v[e]));
    }
  }

  const Graph &given_, &expected_;
  const Links given_links_, expected_links_;
  const std::vector<int64_t> given_widths_, expected_widths_;
  std::vector<ValueId> pairs_;
  std::vector<std::pair<ValueId, ValueId>> queue_;
  std::set<std::pair<const Node*, const Node*>> seen_;
};

}  // namespace

std::vector<ValueId> pair_graphs(const Graph& given, const Graph& expected) {
  return Pairer(given, expected).run();
}

}  // namespace nibble::graph
