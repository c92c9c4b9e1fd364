// The ONNX export of a random model: the operators that torch.onnx makes of transformers' Llama.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>

#include "tests/support/onnx_builder.h"
#include "tests/support/random_model_files.h"

namespace nibble::test {
namespace {

using Text = std::string;
constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();

class Exporter {
 public:
  explicit Exporter(const RandomModel& model) : m_(model) { onnx_.ir_version = 8; }

  OnnxModel run() {
    for (const RandomTensor& tensor : random_tensors(m_)) add_weight(tensor);
    onnx_.inputs = {onnx_value("input_ids", kOnnxInt64, {-1, -1}),
                    onnx_value("attention_mask", kOnnxInt64, {-1, -1}),
                    onnx_value("position_ids", kOnnxInt64, {-1, -1})};
    onnx_.outputs = {onnx_value("logits", kOnnxFloat16, {-1, -1, m_.vocabulary})};
    make_mask();
    make_rotation();
    Text x = "hidden";
    node("Gather", {"model.embed_tokens.weight", "input_ids"}, x);
    for (int64_t layer = 0; layer < m_.layers; ++layer) x = add_layer(layer, x);
    const Text last = norm("model.norm", x);
    Text head = "lm_head.weight";
    if (m_.tied) head = op("Transpose", {"model.embed_tokens.weight"}, {onnx_ints("perm", {1, 0})});
    node("MatMul", {last, head}, "logits");
    return std::move(onnx_);
  }

 private:
  void node(const Text& name, const std::vector<Text>& inputs, const Text& out,
            const std::vector<WireMessage>& attributes = {}) {
    onnx_.nodes.push_back(onnx_node(name, inputs, {out}, attributes));
  }
  // The same into a value of its own.
  Text op(const Text& name, const std::vector<Text>& inputs,
          const std::vector<WireMessage>& attributes = {}) {
    const Text out = fmt::format("{}{}_{}", scope_, name, ++count_);
    node(name, inputs, out, attributes);
    return out;
  }
  Text ints(const std::vector<int64_t>& values) {
    const Text name = fmt::format("{}ints_{}", scope_, ++count_);
    onnx_.initializers.push_back(
        onnx_integers(name, {static_cast<int64_t>(values.size())}, values));
    return name;
  }
  Text integer(int64_t value) {
    const Text name = fmt::format("{}int_{}", scope_, ++count_);
    onnx_.initializers.push_back(onnx_integers(name, {}, {value}));
    return name;
  }
  Text number(float value) {
    const Text name = fmt::format("{}number_{}", scope_, ++count_);
    onnx_.initializers.push_back(onnx_floats(name, {}, {value}));
    return name;
  }
  Text to_half(const Text& x) { return op("Cast", {x}, {onnx_int("to", kOnnxFloat16)}); }
  Text to_float(const Text& x) { return op("Cast", {x}, {onnx_int("to", kOnnxFloat)}); }
  Text half(float value) { return to_half(number(value)); }
  Text unsqueeze(const Text& x, const std::vector<int64_t>& axes) {
    return op("Unsqueeze", {x, ints(axes)});
  }
  Text slice(const Text& x, int64_t begin, int64_t end) {
    return op("Slice", {x, ints({begin}), ints({end}), ints({3})});
  }
  Text concat(const Text& a, const Text& b, int64_t axis) {
    return op("Concat", {a, b}, {onnx_int("axis", axis)});
  }

  // Where its bytes are in the external data; a matrix as MatMul takes it, [columns][rows], but the
  // embedding.
  void add_weight(const RandomTensor& tensor) {
    const int64_t bytes = tensor.elements() * 2;
    std::vector<int64_t> dims = {tensor.rows};
    if (tensor.columns > 1) {
      dims = tensor.name.find("embed") != Text::npos
                 ? std::vector<int64_t>{tensor.rows, tensor.columns}
                 : std::vector<int64_t>{tensor.columns, tensor.rows};
    }
    onnx_.initializers.push_back(onnx_external(tensor.name, kOnnxFloat16, dims,
                                               {{"location", "model.onnx.data"},
                                                {"offset", std::to_string(offset_)},
                                                {"length", std::to_string(bytes)}}));
    offset_ += bytes;
  }

  // 0 where a position sees another, and the lowest fp16 elsewhere: [B,1,S,T].
  void make_mask() {
    const Text length =
        op("Gather", {op("Shape", {"attention_mask"}), integer(1)}, {onnx_int("axis", 0)});
    const Text all = op("Range", {integer(0), length, integer(1)});
    const Text seen =
        op("LessOrEqual", {unsqueeze(all, {0, 1, 2}), unsqueeze("position_ids", {1, 3})});
    const Text given =
        unsqueeze(op("Cast", {"attention_mask"}, {onnx_int("to", kOnnxBool)}), {1, 2});
    mask_ = op("Where", {op("And", {seen, given}), half(0), half(-65504.0F)});
  }

  // Cosines and sines of all angles, computed in fp32: [B,1,S,head_dim] fp16.
  void make_rotation() {
    std::vector<float> frequencies;
    for (int64_t i = 0; i < m_.head_dim(); i += 2) {
      const float exponent = static_cast<float>(i) / static_cast<float>(m_.head_dim());
      frequencies.push_back(1.0F / std::pow(kRandomRopeBase, exponent));
    }
    onnx_.initializers.push_back(onnx_floats("inv_freq", {1, m_.head_dim() / 2, 1}, frequencies));
    const Text positions = to_float(unsqueeze("position_ids", {1}));
    const Text angles =
        op("Transpose", {op("MatMul", {"inv_freq", positions})}, {onnx_ints("perm", {0, 2, 1})});
    const Text twice = concat(angles, angles, -1);
    cosines_ = unsqueeze(to_half(op("Cos", {twice})), {1});
    sines_ = unsqueeze(to_half(op("Sin", {twice})), {1});
  }

  Text norm(const Text& name, const Text& x) {
    const Text wide = to_float(x);
    const Text mean = op("ReduceMean", {op("Pow", {wide, number(2)})},
                         {onnx_ints("axes", {-1}), onnx_int("keepdims", 1)});
    const Text root = op("Sqrt", {op("Add", {mean, number(kRandomEpsilon)})});
    const Text normed = to_half(op("Mul", {wide, op("Div", {number(1), root})}));
    return op("Mul", {name + ".weight", normed});
  }

  Text linear(const Text& name, const Text& x, bool bias = false) {
    const Text product = op("MatMul", {x, name + ".weight"});
    return bias ? op("Add", {name + ".bias", product}) : product;
  }

  // [B,S,heads * head_dim] as [B,heads,S,head_dim].
  Text heads_of(const Text& x, int64_t heads) {
    return op("Transpose", {op("Reshape", {x, ints({0, 0, heads, m_.head_dim()})})},
              {onnx_ints("perm", {0, 2, 1, 3})});
  }

  Text rotated(const Text& x) {
    const int64_t middle = m_.head_dim() / 2;
    const Text turned = concat(op("Neg", {slice(x, middle, kEnd)}), slice(x, 0, middle), -1);
    return op("Add", {op("Mul", {x, cosines_}), op("Mul", {turned, sines_})});
  }

  // Behind what the cache holds, which the output `present` then does.
  Text cached(const Text& x, int64_t layer, const char* kind) {
    const std::vector<int64_t> shape = {-1, m_.kv_heads, -1, m_.head_dim()};
    const Text past = fmt::format("past_key_values.{}.{}", layer, kind);
    const Text present = fmt::format("present.{}.{}", layer, kind);
    onnx_.inputs.push_back(onnx_value(past, kOnnxFloat16, shape));
    onnx_.outputs.push_back(onnx_value(present, kOnnxFloat16, shape));
    node("Concat", {past, x}, present, {onnx_int("axis", -2)});
    if (m_.kv_heads == m_.heads) return present;
    const Text many =
        op("Expand", {unsqueeze(present, {2}), ints({1, 1, m_.heads / m_.kv_heads, 1, 1})});
    return op("Reshape", {many, ints({0, m_.heads, -1, m_.head_dim()})});
  }

  Text attention(int64_t layer, const Text& prefix, const Text& x) {
    const Text q = rotated(heads_of(linear(prefix + "q_proj", x, m_.qwen2), m_.heads));
    const Text k = rotated(heads_of(linear(prefix + "k_proj", x, m_.qwen2), m_.kv_heads));
    const Text v = heads_of(linear(prefix + "v_proj", x, m_.qwen2), m_.kv_heads);
    const Text keys = op("Transpose", {cached(k, layer, "key")}, {onnx_ints("perm", {0, 1, 3, 2})});
    const float scale = 1.0F / std::sqrt(static_cast<float>(m_.head_dim()));
    const Text scores = op("Add", {op("Mul", {op("MatMul", {q, keys}), half(scale)}), mask_});
    const Text weights = op("Softmax", {scores}, {onnx_int("axis", -1)});
    const Text sums = op("Transpose", {op("MatMul", {weights, cached(v, layer, "value")})},
                         {onnx_ints("perm", {0, 2, 1, 3})});
    return linear(prefix + "o_proj", op("Reshape", {sums, ints({0, 0, m_.hidden})}));
  }

  Text add_layer(int64_t layer, Text x) {
    const Text prefix = fmt::format("model.layers.{}.", layer);
    scope_ = fmt::format("/model/layers.{}/", layer);
    x = op("Add",
           {x, attention(layer, prefix + "self_attn.", norm(prefix + "input_layernorm", x))});
    const Text normed = norm(prefix + "post_attention_layernorm", x);
    const Text gate = linear(prefix + "mlp.gate_proj", normed);
    const Text active = op("Mul", {gate, op("Sigmoid", {gate})});
    const Text product = op("Mul", {active, linear(prefix + "mlp.up_proj", normed)});
    const Text sum = op("Add", {x, linear(prefix + "mlp.down_proj", product)});
    scope_ = "/model/";
    return sum;
  }

  const RandomModel& m_;
  OnnxModel onnx_;
  int64_t offset_ = 0, count_ = 0;
  Text scope_ = "/model/", mask_, cosines_, sines_;
};

// One tensor in the order of the export, a row of that at a time.
void write_tensor(std::ofstream& file, const RandomTensor& tensor) {
  const RandomHalves halves(tensor);
  const bool as_it_is = tensor.columns == 1 || tensor.name.find("embed") != Text::npos;
  const int64_t rows = as_it_is ? tensor.rows : tensor.columns;
  const int64_t columns = as_it_is ? tensor.columns : tensor.rows;
  std::vector<uint16_t> row(static_cast<size_t>(columns));
  for (int64_t r = 0; r < rows; ++r) {
    halves.read(as_it_is ? r * columns : r, as_it_is ? 1 : tensor.columns, row);
    file.write(reinterpret_cast<const char*>(row.data()),
               static_cast<std::streamsize>(row.size() * sizeof(uint16_t)));
  }
}

}  // namespace

void write_onnx(const RandomModel& model, const std::string& folder,
                const std::function<void(int64_t, int64_t)>& progress) {
  std::filesystem::create_directories(folder);
  write_bytes(folder + "/model.onnx", Exporter(model).run().bytes());
  write_config(model, folder);
  const std::string path = folder + "/model.onnx.data";
  std::ofstream file(path, std::ios::binary);
  const std::vector<RandomTensor> tensors = random_tensors(model);
  int64_t total = 0, done = 0;
  for (const RandomTensor& tensor : tensors) total += tensor.elements() * 2;
  for (const RandomTensor& tensor : tensors) {
    write_tensor(file, tensor);
    done += tensor.elements() * 2;
    if (progress) progress(done, total);
  }
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

}  // namespace nibble::test
