#include "frontends/onnx/export_attention.h"

#include <fmt/format.h>

#include <limits>

namespace nibble::frontends::onnx {
namespace {

using graph::kNoValue;
using graph::Node;

constexpr int64_t kToFloat = static_cast<int64_t>(ElementType::f32);
constexpr int64_t kToBoolean = static_cast<int64_t>(ElementType::boolean);

}  // namespace

struct AttentionWriter::Shape {
  const Node& node;
  int64_t layer, heads, kv_heads, head_dim, rotary, window;
  float scale, softcap;
  std::string name;
  // With shared keys a dimension stands between heads and tokens.
  bool grouped() const { return heads != kv_heads; }
};

std::string write_rms_norm(ModelWriter& writer, const std::string& x, const std::string& weight,
                           float epsilon, const std::string& name) {
  const std::string square = writer.node("Pow", name + "/Pow", {x, writer.number(2)});
  const std::string mean = writer.node("ReduceMean", name + "/ReduceMean", {square},
                                       {{"axes", std::vector<int64_t>{-1}}});
  const std::string above = writer.node("Add", name + "/Add", {mean, writer.number(epsilon)});
  const std::string root = writer.node("Sqrt", name + "/Sqrt", {above});
  const std::string unit = writer.node("Div", name + "/Div", {x, root});
  return writer.node("Mul", name + "/Mul", {unit, weight});
}

std::string write_softcap(ModelWriter& writer, const std::string& x, float cap,
                          const std::string& name) {
  const std::string by = writer.number(cap);
  const std::string share = writer.node("Div", name + "/Div", {x, by});
  const std::string bent = writer.node("Tanh", name + "/Tanh", {share});
  return writer.node("Mul", name + "/Mul", {bent, by});
}

std::string AttentionWriter::token_count(const char* input, int64_t axis) {
  const std::string shape = writer_.node("Shape", fmt::format("/{}/Shape", input), {input},
                                         {{"start", axis}, {"end", axis + 1}});
  return writer_.node("Squeeze", fmt::format("/{}/count", input), {shape, writer_.integers({0})});
}

std::string AttentionWriter::positions() {
  if (!positions_.empty()) return positions_;
  const std::string total = token_count("attention_mask", 1);
  const std::string past = writer_.node("Sub", "/past", {total, token_count("input_ids", 1)});
  const std::string zero = writer_.node("Sub", "/zero", {total, total});
  const std::string one = writer_.node("Squeeze", "/one", {writer_.integers({1})});
  keys_ = writer_.node("Range", "/keys", {zero, total, one});
  const std::string queries = writer_.node("Range", "/queries", {past, total, one});
  positions_ = writer_.node("Unsqueeze", "/queries/column", {queries, writer_.integers({1})});
  return positions_;
}

std::string AttentionWriter::distances() {
  if (!distances_.empty()) return distances_;
  const std::string queries = positions();
  const std::string between = writer_.node("Sub", "/distances", {keys_, queries});
  return distances_ = writer_.node("Cast", "/distances/Cast", {between}, {{"to", kToFloat}});
}

std::string AttentionWriter::mask(int64_t window) {
  std::string& known = masks_[window];
  if (!known.empty()) return known;
  const std::string queries = positions();
  const std::string name = window > 0 ? fmt::format("/mask/window_{}", window) : "/mask/all";
  std::string visible = writer_.node("LessOrEqual", name + "/LessOrEqual", {keys_, queries});
  if (window > 0) {
    const std::string before =
        writer_.node("Sub", name + "/Sub", {queries, writer_.integers({window})});
    const std::string near = writer_.node("Greater", name + "/Greater", {keys_, before});
    visible = writer_.node("And", name + "/And", {visible, near});
  }
  const std::string tokens =
      writer_.node("Cast", name + "/Cast", {"attention_mask"}, {{"to", kToBoolean}});
  const std::string rows =
      writer_.node("Unsqueeze", name + "/Unsqueeze", {tokens, writer_.integers({1, 2})});
  const std::string both = writer_.node("And", name + "/And_tokens", {visible, rows});
  const std::string lowest = writer_.number(std::numeric_limits<float>::lowest());
  return known = writer_.node("Where", name + "/Where", {both, writer_.number(0), lowest});
}

const AttentionWriter::Angles& AttentionWriter::angles(const Shape& a) {
  const std::vector<float> frequencies = graph::to_f32(*graph_.tensor(a.node.inputs[1]));
  const float factor = a.node.get_float("rope_scale", 1);
  Angles& known = angles_[{frequencies, factor}];
  if (!known.cos.empty()) return known;
  const std::string name = "/rotary";
  const std::string floats =
      writer_.node("Cast", name + "/Cast", {"position_ids"}, {{"to", kToFloat}});
  const std::string column =
      writer_.node("Unsqueeze", name + "/Unsqueeze", {floats, writer_.integers({1, 3})});
  const std::string by = writer_.floats("inv_freq", {a.rotary / 2}, frequencies);
  const std::string angle = writer_.node("Mul", name + "/angle", {column, by});
  known.cos = writer_.node("Cos", name + "/Cos", {angle});
  known.sin = writer_.node("Sin", name + "/Sin", {angle});
  if (factor != 1) {
    known.cos = writer_.node("Mul", name + "/Cos/Mul", {known.cos, writer_.number(factor)});
    known.sin = writer_.node("Mul", name + "/Sin/Mul", {known.sin, writer_.number(factor)});
  }
  return known;
}

std::string AttentionWriter::heads_of(const Shape& a, const std::string& rows, int64_t heads,
                                      const std::string& name) {
  return writer_.node("Reshape", name + "/Reshape",
                      {rows, writer_.integers({0, 0, heads, a.head_dim})});
}

std::string AttentionWriter::normalised(const Shape& a, const std::string& x, size_t weight,
                                        const std::string& name) {
  const graph::ValueId id = a.node.input(weight);
  if (id == kNoValue) return x;
  const std::string by =
      writer_.floats(graph_.value_name(id), {a.head_dim}, graph::to_f32(*graph_.tensor(id)));
  return write_rms_norm(writer_, x, by, a.node.get_float("norm_epsilon"), name + "/norm");
}

std::string AttentionWriter::rotated(const Shape& a, const std::string& x,
                                     const std::string& name) {
  if (a.rotary == 0) return x;
  const auto& [cos, sin] = angles(a);
  const int64_t half = a.rotary / 2, rest = a.head_dim - a.rotary;
  const bool interleaved = a.node.get_int("interleaved", 0) != 0;
  std::string first, second, kept;
  std::string last;
  if (interleaved) {
    last = writer_.integers({-1});
    const auto every_second = [&](int64_t from, const char* part) {
      return writer_.node(
          "Slice", name + part,
          {x, writer_.integers({from}), writer_.integers({a.rotary}), last, writer_.integers({2})});
    };
    first = every_second(0, "/even");
    second = every_second(1, "/odd");
    if (rest > 0) {
      kept = writer_.node("Slice", name + "/rest",
                          {x, writer_.integers({a.rotary}), writer_.integers({a.head_dim}), last});
    }
  } else {
    std::vector<int64_t> widths = {half, half};
    if (rest > 0) widths.push_back(rest);
    const auto parts = writer_.nodes(widths.size(), "Split", name + "/Split",
                                     {x, writer_.integers(widths)}, {{"axis", int64_t{-1}}});
    first = parts[0];
    second = parts[1];
    if (rest > 0) kept = parts[2];
  }
  // Structured bindings are captured by name for clang's sake.
  const auto turn = [&, &cos = cos, &sin = sin](const char* op, const std::string& u,
                                                const std::string& v, const std::string& part) {
    const std::string by_cos = writer_.node("Mul", part + "/cos", {u, cos});
    const std::string by_sin = writer_.node("Mul", part + "/sin", {v, sin});
    return writer_.node(op, part, {by_cos, by_sin});
  };
  std::string y1 = turn("Sub", first, second, name + "/first");
  std::string y2 = turn("Add", second, first, name + "/second");
  if (!interleaved) {
    std::vector<std::string> parts = {y1, y2};
    if (rest > 0) parts.push_back(kept);
    return writer_.node("Concat", name + "/Concat", parts, {{"axis", int64_t{-1}}});
  }
  y1 = writer_.node("Unsqueeze", name + "/first/Unsqueeze", {y1, last});
  y2 = writer_.node("Unsqueeze", name + "/second/Unsqueeze", {y2, last});
  const std::string pairs =
      writer_.node("Concat", name + "/pairs", {y1, y2}, {{"axis", int64_t{-1}}});
  const std::string flat =
      writer_.node("Reshape", name + "/flat", {pairs, writer_.integers({0, 0, 0, a.rotary})});
  if (rest == 0) return flat;
  return writer_.node("Concat", name + "/Concat", {flat, kept}, {{"axis", int64_t{-1}}});
}

std::string AttentionWriter::extended(const Shape& a, const std::string& x, const char* part) {
  const std::string past = fmt::format("past_key_values.{}.{}", a.layer, part);
  const std::string present = fmt::format("present.{}.{}", a.layer, part);
  writer_.input(past, ElementType::f32, {"batch_size", a.kv_heads, "past_length", a.head_dim});
  writer_.output(present, ElementType::f32, {"batch_size", a.kv_heads, "total_length", a.head_dim});
  return writer_.node("Concat", present, {past, x}, {{"axis", int64_t{2}}});
}

std::string AttentionWriter::scores(const Shape& a, const std::string& q, const std::string& keys) {
  const std::string products = writer_.node("MatMul", a.name + "/QK/MatMul", {q, keys});
  std::string x = writer_.node("Mul", a.name + "/scale/Mul", {products, writer_.number(a.scale)});
  if (a.softcap != 0) x = write_softcap(writer_, x, a.softcap, a.name + "/softcap");
  if (const graph::ValueId slopes = a.node.input(2); slopes != kNoValue) {
    const std::vector<float> values = graph::to_f32(*graph_.tensor(slopes));
    const graph::Shape shape = a.grouped() ? graph::Shape{a.kv_heads, a.heads / a.kv_heads, 1, 1}
                                           : graph::Shape{a.heads, 1, 1};
    const std::string by = writer_.floats(graph_.value_name(slopes), shape, values);
    const std::string bias = writer_.node("Mul", a.name + "/alibi/Mul", {distances(), by});
    x = writer_.node("Add", a.name + "/alibi/Add", {x, bias});
  }
  std::string bias = mask(a.window);
  if (a.grouped()) {
    bias = writer_.node("Unsqueeze", a.name + "/mask/Unsqueeze", {bias, writer_.integers({1})});
  }
  return writer_.node("Add", a.name + "/mask/Add", {x, bias});
}

QkvParts split_qkv(ModelWriter& writer, const Node& node, const std::string& qkv) {
  const int64_t dim = node.get_int("head_dim");
  const int64_t q = node.get_int("heads") * dim, kv = node.get_int("kv_heads") * dim;
  const auto parts = writer.nodes(3, "Split", node.name + "/Split",
                                  {qkv, writer.integers({q, kv, kv})}, {{"axis", int64_t{-1}}});
  return {parts[0], parts[1], parts[2]};
}

std::string AttentionWriter::write(const Node& node, const QkvParts& rows) {
  const Shape a{node,
                node.get_int("layer"),
                node.get_int("heads"),
                node.get_int("kv_heads"),
                node.get_int("head_dim"),
                node.get_int("rotary", 0),
                node.get_int("window", 0),
                node.get_float("scale"),
                node.get_float("softcap", 0),
                node.name};
  const std::vector<int64_t> swapped = {0, 2, 1, 3};
  const auto by_head = [&](const std::string& x, const std::string& name) {
    return writer_.node("Transpose", name + "/Transpose", {x}, {{"perm", swapped}});
  };
  const std::string q_name = a.name + "/q", k_name = a.name + "/k", v_name = a.name + "/v";
  const bool norm_last = node.get_int("norm_last", 0) != 0;
  const auto turned_rows = [&](size_t part, int64_t heads, const std::string& name) {
    std::string x = heads_of(a, rows[part], heads, name);
    if (!norm_last) x = normalised(a, x, 3 + part, name);
    x = rotated(a, by_head(x, name), name);
    return norm_last ? normalised(a, x, 3 + part, name) : x;
  };
  std::string q = turned_rows(0, a.heads, q_name);
  std::string k = turned_rows(1, a.kv_heads, k_name);
  std::string v = by_head(heads_of(a, rows[2], a.kv_heads, v_name), v_name);
  k = extended(a, k, "key");
  v = extended(a, v, "value");

  std::vector<int64_t> turned = {0, 1, 3, 2}, back = swapped;
  if (a.grouped()) {
    const int64_t queries = a.heads / a.kv_heads;
    q = writer_.node("Reshape", q_name + "/groups",
                     {q, writer_.integers({0, a.kv_heads, queries, -1, a.head_dim})});
    k = writer_.node("Unsqueeze", k_name + "/groups", {k, writer_.integers({2})});
    v = writer_.node("Unsqueeze", v_name + "/groups", {v, writer_.integers({2})});
    turned = {0, 1, 2, 4, 3};
    back = {0, 3, 1, 2, 4};
  }
  const std::string keys = writer_.node("Transpose", k_name + "/turned", {k}, {{"perm", turned}});
  const std::string shares =
      writer_.node("Softmax", a.name + "/Softmax", {scores(a, q, keys)}, {{"axis", int64_t{-1}}});
  const std::string mixed = writer_.node("MatMul", a.name + "/PV/MatMul", {shares, v});
  const std::string tokens =
      writer_.node("Transpose", a.name + "/Transpose", {mixed}, {{"perm", back}});
  return writer_.node("Reshape", a.name + "/Reshape",
                      {tokens, writer_.integers({0, 0, a.heads * a.head_dim})});
}

}  // namespace nibble::frontends::onnx
