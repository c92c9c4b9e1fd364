#include "frontends/onnx/export_head_norm.h"

#include <algorithm>
#include <utility>
#include <vector>
namespace nibble::frontends::onnx {
namespace {

using graph::kNoValue;

// The columns [begin, begin + count) of a row: all Q heads or all K heads.
struct Part {
  std::string x, name;
  int64_t begin = 0, count = 0;
};

class HeadNormWriter {
 public:
  HeadNormWriter(const graph::Graph& graph, ModelWriter& writer, const graph::Node& node)
      : graph_(graph),
        writer_(writer),
        node_(node),
        dim_(node.get_int("head_dim")),
        whole_(node.get_int("whole", 0) != 0),
        epsilon_(node.get_float("epsilon")) {}

  QkvParts write(const QkvParts& rows) {
    const int64_t q = node_.get_int("heads") * dim_, k = node_.get_int("kv_heads") * dim_;
    return {normed({rows[0], node_.name + "/q", 0, q}), normed({rows[1], node_.name + "/k", q, k}),
            rows[2]};
  }

 private:
  std::string normed(const Part& part) {
    if (whole_) return norm(part, part.x);
    const std::string heads =
        writer_.node("Reshape", part.name + "/heads", {part.x, writer_.integers({0, 0, -1, dim_})});
    return writer_.node("Reshape", part.name + "/row",
                        {norm(part, heads), writer_.integers({0, 0, -1})});
  }

  // Over the last axis: of the part, or of each head [B, S, heads, head_dim].
  std::string norm(const Part& part, const std::string& x) {
    if (node_.get_int("centre", 0) == 0) {
      return write_rms_norm(writer_, x, factors(1, part), epsilon_, part.name);
    }
    const bool biased = node_.input(2) != kNoValue;
    if (shared(1, part) && (!biased || shared(2, part))) {
      return layer_norm(part, {x, factors(1, part), biased ? factors(2, part) : ""});
    }
    const int64_t width = whole_ ? part.count : dim_;
    const std::vector<float> ones(static_cast<size_t>(width), 1.0F);
    std::string y = layer_norm(part, {x, writer_.floats(part.name + "/ones", {width}, ones)});
    y = writer_.node("Mul", part.name + "/Mul", {y, factors(1, part)});
    return biased ? writer_.node("Add", part.name + "/Add", {y, factors(2, part)}) : y;
  }

  std::string layer_norm(const Part& part, std::vector<std::string> inputs) {
    return writer_.node("LayerNormalization", part.name + "/LayerNormalization", std::move(inputs),
                        {{"axis", int64_t{-1}}, {"epsilon", epsilon_}});
  }

  std::vector<float> values_of(size_t operand, const Part& part) const {
    const std::vector<float> all = graph::to_f32(*graph_.tensor(node_.inputs[operand]));
    return {all.begin() + part.begin, all.begin() + part.begin + part.count};
  }

  // Whether an operand is the same for every span.
  bool shared(size_t operand, const Part& part) const {
    const std::vector<float> values = values_of(operand, part);
    return whole_ || std::equal(values.begin() + dim_, values.end(), values.begin());
  }

  // The operand's values of a part: for every span, or a row a head.
  std::string factors(size_t operand, const Part& part) {
    std::vector<float> values = values_of(operand, part);
    graph::Shape shape = {part.count};
    if (!whole_ && shared(operand, part)) {
      shape = {dim_};
      values.resize(static_cast<size_t>(dim_));
    } else if (!whole_) {
      shape = {part.count / dim_, dim_};
    }
    return writer_.floats(graph_.value_name(node_.inputs[operand]) + part.name, shape, values);
  }

  const graph::Graph& graph_;
  ModelWriter& writer_;
  const graph::Node& node_;
  int64_t dim_;
  bool whole_;
  float epsilon_;
};

}  // namespace

QkvParts write_head_norm(const graph::Graph& graph, ModelWriter& writer, const graph::Node& node,
                         const QkvParts& rows) {
  return HeadNormWriter(graph, writer, node).write(rows);
}

}  // namespace nibble::frontends::onnx
