#include "tests/support/same_weights.h"

#include <fmt/format.h>

#include <cstring>
#include <vector>

#include "graph/ops.h"
#include "jit/packed_layout.h"

namespace nibble::test {
namespace {

struct Weight {
  std::string node;
  const jit::PackedView* view = nullptr;
};

std::vector<Weight> weights_of(const graph::Graph& graph) {
  std::vector<Weight> weights;
  for (const graph::Node& node : graph.nodes) {
    if (!node.is("Linear", graph::kNibbleDomain) && !node.is("Embedding", graph::kNibbleDomain)) {
      continue;
    }
    const auto& constant = graph.values[static_cast<size_t>(node.inputs[1])].constant;
    weights.push_back(
        {node.op + " " + node.name, &std::get<runtime::PackedMatrix>(*constant).view});
  }
  return weights;
}

// A group that is no shorter than k is the whole of k.
jit::WeightFormat normal_format(const jit::PackedView& view) {
  jit::WeightFormat format = view.format;
  if (format.type == jit::WeightType::f32 || format.group >= view.k) format.group = 0;
  return format;
}

std::string difference(const jit::PackedView& a, const jit::PackedView& b) {
  if (a.n != b.n || a.k != b.k) return fmt::format("{} x {} became {} x {}", a.n, a.k, b.n, b.k);
  const jit::WeightFormat x = normal_format(a), y = normal_format(b);
  if (y.type == jit::WeightType::f32 && x.type != y.type) {
    std::vector<float> u(static_cast<size_t>(a.k)), v(u.size());
    for (int64_t c = 0; c < a.n; ++c) {
      jit::unpack_column(a, c, u);
      jit::unpack_column(b, c, v);
      if (u != v) return fmt::format("the numbers of column {} differ", c);
    }
    return "";
  }
  if (x != y) {
    return fmt::format("{} in groups of {}, {}symmetric, {} scales became {}, {}, {}symmetric, {}",
                       jit::weight_type_name(x.type), x.group, x.asym ? "a" : "",
                       jit::scale_type_name(x.scale), jit::weight_type_name(y.type), y.group,
                       y.asym ? "a" : "", jit::scale_type_name(y.scale));
  }
  const jit::PackedShape shape = jit::packed_shape(a.format, a.n, a.k);
  const auto same = [](const void* u, const void* v, int64_t bytes) {
    return bytes == 0 || std::memcmp(u, v, static_cast<size_t>(bytes)) == 0;
  };
  if (!same(a.data, b.data, shape.data_bytes)) return "the values differ";
  if (!same(a.scales, b.scales, shape.scale_bytes)) return "the scales differ";
  if (!same(a.zeros, b.zeros, shape.zero_bytes)) return "the zero points differ";
  return "";
}

}  // namespace

std::string packed_difference(const graph::Graph& wanted, const graph::Graph& found) {
  const auto a = weights_of(wanted), b = weights_of(found);
  if (a.size() != b.size()) return fmt::format("{} matrices became {}", a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    const std::string what = difference(*a[i].view, *b[i].view);
    if (!what.empty()) return fmt::format("{} and {}: {}", a[i].node, b[i].node, what);
  }
  return "";
}

}  // namespace nibble::test
