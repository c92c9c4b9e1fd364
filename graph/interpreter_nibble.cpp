// The operators of ops.h but Linear and Attention.
#include "graph/interpreter_nibble.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "graph/ops.h"
#include "jit/error.h"
#include "jit/packed_layout.h"

namespace nibble::graph {

RowShape row_shape(const Array& x) {
  if (x.shape.empty()) fail("A scalar has no rows.");
  const int64_t width = x.shape.back();
  return {width == 0 ? 0 : x.size() / width, width};
}

const float* weight_floats(const OpCall& call, size_t i, int64_t count) {
  const Array* x = call.optional(i);
  if (x == nullptr) {
    if (call.node.input(i) != kNoValue) call.in(i);  // a matrix: says so
    return nullptr;
  }
  const auto values = x->floats();
  if (static_cast<int64_t>(values.size()) != count) {
    fail("Input {} has shape {}, but {} values are needed.", i, to_string(x->shape), count);
  }
  return values.data();
}

const float* same_shape_floats(const OpCall& call, size_t i, const Array& x) {
  const Array* other = call.optional(i);
  if (other == nullptr) return nullptr;
  if (other->shape != x.shape) {
    fail("Input {} has shape {} instead of {}.", i, to_string(other->shape), to_string(x.shape));
  }
  return other->floats().data();
}

jit::Activation activation_of(const OpCall& call) {
  const std::string name = call.node.get_string("activation", "none");
  const auto activation = jit::parse_activation(name);
  if (!activation) fail("There is no activation function \"{}\".", name);
  return *activation;
}

float activate(jit::Activation activation, float value) {
  const double x = value;
  switch (activation) {
    case jit::Activation::none:
      return value;
    case jit::Activation::silu:
      return static_cast<float>(x / (1 + std::exp(-x)));
    case jit::Activation::gelu:
      return static_cast<float>(0.5 * x * (1 + std::erf(x * 0.70710678118654752440)));
    case jit::Activation::gelu_tanh:
      return static_cast<float>(
          0.5 * x * (1 + std::tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x))));
    case jit::Activation::quick_gelu:
      return static_cast<float>(x / (1 + std::exp(-1.702 * x)));
    case jit::Activation::relu:
      return value < 0 ? 0.0F : value;
    case jit::Activation::relu2:
      return value < 0 ? 0.0F : value * value;
  }
  fail("Activation {} is not known.", static_cast<int>(activation));
}

namespace {

// Row `id` of a token table in any of its three forms.
class TableRows {
 public:
  explicit TableRows(const OpCall& call) : call_(call) {
    const Constant* constant = call.constant(1);
    if (constant != nullptr) {
      source_ = std::get_if<MatrixSource>(constant);
      packed_ = std::get_if<runtime::PackedMatrix>(constant);
      tensor_ = std::get_if<TensorData>(constant);
    }
    if (source_ != nullptr) {
      rows_ = source_->n, width_ = source_->k;
    } else if (packed_ != nullptr) {
      rows_ = packed_->view.n, width_ = packed_->view.k;
    } else {
      const Shape& shape = tensor_ != nullptr ? tensor_->shape : call.in(1).shape;
      if (shape.size() != 2) fail("The table's shape {} is no matrix.", to_string(shape));
      rows_ = shape[0], width_ = shape[1];
    }
  }

  int64_t width() const { return width_; }

  void read(int64_t id, std::span<float> out) const {
    if (id < 0 || id >= rows_) fail("The id {} is outside a table of {} rows.", id, rows_);
    if (source_ != nullptr) {
      source_->read_columns(id, 1, out);
    } else if (packed_ != nullptr) {
      jit::unpack_column(packed_->view, id, out);
    } else if (tensor_ != nullptr) {
      read_f32(*tensor_, id * width_, out);
    } else {
      const auto row = call_.in(1).floats().subspan(static_cast<size_t>(id * width_), out.size());
      std::copy(row.begin(), row.end(), out.begin());
    }
  }

 private:
  const OpCall& call_;
  const MatrixSource* source_ = nullptr;
  const runtime::PackedMatrix* packed_ = nullptr;
  const TensorData* tensor_ = nullptr;
  int64_t rows_ = 0, width_ = 0;
};

// Input 3, which ops.h does not list, is the position of the first id: InterpretedDecoder gives it.
Outputs op_embedding(const OpCall& call) {
  const Array& ids = call.in(0);
  const auto values = ids.ints();
  const TableRows table(call);
  const auto width = static_cast<size_t>(table.width());
  const float scale = call.node.get_float("scale", 1.0F);
  Shape shape = ids.shape;
  shape.push_back(table.width());
  std::vector<float> out(static_cast<size_t>(array_size(shape)));
  for (size_t t = 0; t < values.size(); ++t) {
    const std::span<float> row(out.data() + t * width, width);
    table.read(values[t], row);
    for (float& value : row) value *= scale;
  }
  if (call.node.input(2) != kNoValue) {
    const Array& positions = call.in(2);
    if (positions.shape.size() != 2 || positions.shape[1] != table.width() || ids.shape.empty()) {
      fail("A position table of shape {} does not fit embeddings of shape {}.",
           to_string(positions.shape), to_string(shape));
    }
    const int64_t first = (call.optional(3) != nullptr ? one_int(*call.optional(3)) : 0) +
                          call.node.get_int("position_offset", 0);
    const int64_t length = ids.shape.back();
    for (size_t t = 0; t < values.size(); ++t) {
      const int64_t row = first + static_cast<int64_t>(t) % length;
      if (row < 0 || row >= positions.shape[0]) {
        fail("Row {} is outside a position table of {} rows.", row, positions.shape[0]);
      }
      const auto from = positions.floats().subspan(static_cast<size_t>(row) * width, width);
      for (size_t j = 0; j < width; ++j) out[t * width + j] += from[j];
    }
  }
  return {Array::of(std::move(shape), std::move(out))};
}

// x + residual where there is one.
Array with_residual(const OpCall& call, size_t i) {
  const Array& x = call.in(0);
  const float* residual = same_shape_floats(call, i, x);
  if (residual == nullptr) return x;
  std::vector<float> sum(x.floats().begin(), x.floats().end());
  for (size_t j = 0; j < sum.size(); ++j) sum[j] += residual[j];
  return Array::of(x.shape, std::move(sum));
}

// RMSNorm, or with `centre` LayerNorm, of x.
void normalise(std::span<float> x, const float* weight, const float* bias, bool centre,
               double epsilon) {
  const auto count = static_cast<double>(x.size());
  double mean = 0, squares = 0;
  if (centre) {
    for (const float value : x) mean += value;
    mean /= count;
  }
  for (const float value : x) squares += (value - mean) * (value - mean);
  const double inverse = 1 / std::sqrt(squares / count + epsilon);
  for (size_t j = 0; j < x.size(); ++j) {
    const double y = (x[j] - mean) * inverse * weight[j];
    x[j] = static_cast<float>(bias != nullptr ? y + bias[j] : y);
  }
}

Outputs norm(const OpCall& call, const Array& sum, const float* bias, bool centre) {
  const RowShape shape = row_shape(sum);
  const float* weight = weight_floats(call, 1, shape.width);
  if (weight == nullptr) fail("The weight is missing.");
  const double epsilon = call.node.get_float("epsilon");
  std::vector<float> out(sum.floats().begin(), sum.floats().end());
  for (int64_t r = 0; r < shape.rows; ++r) {
    normalise(std::span(out).subspan(static_cast<size_t>(r * shape.width),
                                     static_cast<size_t>(shape.width)),
              weight, bias, centre, epsilon);
  }
  return {Array::of(sum.shape, std::move(out)), sum};
}

Outputs op_rms_norm(const OpCall& call) {
  return norm(call, with_residual(call, 2), nullptr, false);
}

Outputs op_layer_norm(const OpCall& call) {
  const Array sum = with_residual(call, 3);
  return norm(call, sum, weight_floats(call, 2, row_shape(sum).width), true);
}

// Spans of a row of Q, K and V heads: each head of Q and K, or Q and K as wholes.
struct Spans {
  explicit Spans(const Node& node)
      : whole(node.get_int("whole", 0) != 0),
        head_dim(node.get_int("head_dim")),
        heads(node.get_int("heads")),
        kv_heads(node.get_int("kv_heads")) {
    constexpr int64_t kMost = 1 << 20;
    if (heads < 1 || kv_heads < 1 || head_dim < 1 || heads > kMost || kv_heads > kMost ||
        head_dim > kMost) {
      fail("{} heads of {} and {} KV heads make no sense.", heads, head_dim, kv_heads);
    }
  }
  int64_t columns() const { return (heads + kv_heads) * head_dim; }
  int64_t count() const { return whole ? 2 : heads + kv_heads; }
  int64_t begin(int64_t span) const { return span * (whole ? heads : 1) * head_dim; }
  int64_t width(int64_t span) const {
    return head_dim * (whole ? (span == 0 ? heads : kv_heads) : 1);
  }

  bool whole;
  int64_t head_dim, heads, kv_heads;
};

Outputs op_head_norm(const OpCall& call) {
  const Spans spans(call.node);
  const Array& x = call.in(0);
  const RowShape shape = row_shape(x);
  if (shape.width < spans.columns()) {
    fail("Rows of {} hold no {} heads of {}.", shape.width, spans.heads + spans.kv_heads,
         spans.head_dim);
  }
  const float* weight = weight_floats(call, 1, spans.columns());
  const float* bias = weight_floats(call, 2, spans.columns());
  if (weight == nullptr) fail("The weight is missing.");
  const bool centre = call.node.get_int("centre", 0) != 0;
  const double epsilon = call.node.get_float("epsilon");
  std::vector<float> out(x.floats().begin(), x.floats().end());
  for (int64_t r = 0; r < shape.rows; ++r) {
    for (int64_t span = 0; span < spans.count(); ++span) {
      const int64_t begin = spans.begin(span);
      normalise(std::span(out).subspan(static_cast<size_t>(r * shape.width + begin),
                                       static_cast<size_t>(spans.width(span))),
                weight + begin, bias == nullptr ? nullptr : bias + begin, centre, epsilon);
    }
  }
  return {Array::of(x.shape, std::move(out))};
}

Outputs op_clip_nibble(const OpCall& call) {
  const float limit = call.node.get_float("limit");
  if (!(limit > 0)) fail("The limit {} is not above 0.", limit);
  const Array& x = call.in(0);
  std::vector<float> out(x.floats().begin(), x.floats().end());
  for (float& value : out) {
    if (!std::isnan(value)) value = std::clamp(value, -limit, limit);
  }
  return {Array::of(x.shape, std::move(out))};
}

Outputs op_activation(const OpCall& call) {
  const jit::Activation activation = activation_of(call);
  const Array& x = call.in(0);
  std::vector<float> out(x.floats().begin(), x.floats().end());
  for (float& value : out) value = activate(activation, value);
  return {Array::of(x.shape, std::move(out))};
}

Outputs op_gate(const OpCall& call) {
  const jit::Activation activation = activation_of(call);
  const Array& x = call.in(0);
  const float* up = same_shape_floats(call, 1, x);
  if (up == nullptr) fail("The second operand is missing.");
  std::vector<float> out(x.floats().begin(), x.floats().end());
  for (size_t j = 0; j < out.size(); ++j) out[j] = activate(activation, out[j]) * up[j];
  return {Array::of(x.shape, std::move(out))};
}

Outputs op_add_same(const OpCall& call) {
  call.in(1);
  return {with_residual(call, 1)};
}

Outputs op_logit_scale(const OpCall& call) {
  const Array& x = call.in(0);
  const double scale = call.node.get_float("scale", 1), cap = call.node.get_float("softcap", 0);
  std::vector<float> out(x.floats().begin(), x.floats().end());
  for (float& value : out) {
    const double y = scale * value;
    value = static_cast<float>(cap == 0 ? y : cap * std::tanh(y / cap));
  }
  return {Array::of(x.shape, std::move(out))};
}

constexpr OpEntry kNibbleOps[] = {
    {kNibbleDomain, "Embedding", op_embedding},    {kNibbleDomain, "RMSNorm", op_rms_norm},
    {kNibbleDomain, "LayerNorm", op_layer_norm},   {kNibbleDomain, "Linear", op_linear},
    {kNibbleDomain, "Activation", op_activation},  {kNibbleDomain, "Gate", op_gate},
    {kNibbleDomain, "Add", op_add_same},           {kNibbleDomain, "Attention", op_attention},
    {kNibbleDomain, "LogitScale", op_logit_scale}, {kNibbleDomain, "HeadNorm", op_head_norm},
    {kNibbleDomain, "Clip", op_clip_nibble},
};

}  // namespace

std::span<const OpEntry> nibble_ops() { return kNibbleOps; }

}  // namespace nibble::graph
