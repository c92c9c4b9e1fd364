// The row kernels in plain C++: what the generated code must equal bit for bit.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "jit/error.h"
#include "jit/float16.h"
#include "jit/reference_lanes.h"
#include "jit/row_generator.h"
#include "jit/row_kernels.h"
#include "jit/scalar_math.h"

namespace nibble::jit {
namespace {

// One group of a row; value(i) is element i. store_sum(sum of q) takes that of each of its parts.
template <typename Value, typename StoreSum>
void quantize_group(int64_t begin, int64_t end, int64_t part, const Value& value, int8_t* q,
                    float* scale, const StoreSum& store_sum) {
  // As integers, the bits of magnitudes order as the magnitudes do, with infinity and NaN on top.
  int32_t largest = 0;
  for (int64_t i = begin; i < end; ++i) {
    largest = std::max(largest, std::bit_cast<int32_t>(std::fabs(value(i))));
  }
  const float amax = std::bit_cast<float>(largest);
  *scale = amax / 127.0F + (amax - amax);
  const bool keep = amax >= kQuantizeTiny && amax <= std::numeric_limits<float>::max();
  const float inverse = 127.0F / amax;
  for (int64_t first = begin; first < end; first += part) {
    int32_t total = 0;
    for (int64_t i = first; i < std::min(first + part, end); ++i) {
      const int32_t v = keep ? static_cast<int32_t>(std::nearbyint(value(i) * inverse)) : 0;
      q[i] = static_cast<int8_t>(v);
      total += v;
    }
    store_sum(total);
  }
}

template <typename Value>
void round_row(const RowSpec& spec, const RowArgs& args, int64_t row, const Value& value) {
  auto* q = static_cast<uint16_t*>(args.q) + row * args.q_stride / 2;
  for (int64_t i = 0; i < spec.n; ++i) q[i] = bf16_activation(value(i));
  for (int64_t i = spec.n; i % 8 != 0; ++i) q[i] = 0;
}

template <typename Value>
void quantize_row(const RowSpec& spec, const RowArgs& args, int64_t row, const Value& value) {
  if (spec.bf16) return round_row(spec, args, row, value);
  const int64_t group = spec.group == 0 ? spec.n : spec.group;
  int8_t* q = static_cast<int8_t*>(args.q) + row * args.q_stride;
  float* scale = args.q_scale + row * args.q_groups;
  const int64_t part = spec.sum_group == 0 ? group : spec.sum_group;
  int32_t* sums = args.q_sum + row * args.q_sum_words;
  auto* words = reinterpret_cast<int16_t*>(sums);
  const auto store_sum = [&](int32_t total) {
    if (spec.word_sums) {
      *words++ = static_cast<int16_t>(-spec.zero * total);
    } else {
      *sums++ = -spec.zero * total;
    }
  };
  for (int64_t begin = 0; begin < spec.n; begin += group) {
    const int64_t end = std::min(begin + group, spec.n);
    quantize_group(begin, end, part, value, q, scale++, store_sum);
  }
  for (int64_t i = spec.n; i % 8 != 0; ++i) q[i] = 0;
}

// The row to normalise; with a residual it is stored first and read back.
const float* norm_input(const RowSpec& spec, const RowArgs& args, int64_t row) {
  const float* x = args.x + row * args.x_stride;
  if (!spec.residual) return x;
  const float* residual = args.x2 + row * args.x2_stride;
  float* sum = args.sum + row * args.sum_stride;
  for (int64_t i = 0; i < spec.n; ++i) sum[i] = x[i] + residual[i];
  return sum;
}

float inverse_deviation(const RowSpec& spec, float eps, const float* s, float mean) {
  Lanes squares{};
  for (int64_t i = 0; i < spec.n; ++i) {
    const float d = spec.op == RowOp::layer_norm ? s[i] - mean : s[i];
    float& lane = squares[static_cast<size_t>(i % kLanes)];
    lane = std::fma(d, d, lane);
  }
  return 1.0F / std::sqrt(reduce_add(squares) / static_cast<float>(spec.n) + eps);
}

void norm_row(const RowSpec& spec, const RowArgs& args, int64_t row) {
  const float* s = norm_input(spec, args, row);
  float mean = 0;
  if (spec.op == RowOp::layer_norm) {
    Lanes sums{};
    for (int64_t i = 0; i < spec.n; ++i) sums[static_cast<size_t>(i % kLanes)] += s[i];
    mean = reduce_add(sums) / static_cast<float>(spec.n);
  }
  const float inverse = inverse_deviation(spec, args.eps, s, mean);
  const auto value = [&](int64_t i) {
    const float d = spec.op == RowOp::layer_norm ? s[i] - mean : s[i];
    const float y = d * inverse * args.weight[i];
    return spec.bias ? y + args.bias[i] : y;
  };
  // Quantize first: y may be the row that value() reads.
  if (spec.quantize) quantize_row(spec, args, row, value);
  if (!spec.f32_out) return;
  float* y = args.y + row * args.y_stride;
  for (int64_t i = 0; i < spec.n; ++i) y[i] = value(i);
}

void rope_row(const RowSpec& spec, const RowArgs& args, int64_t row) {
  const float* cos = args.x2 + row * args.x2_stride;
  const float* sin = args.x3 + row * args.x2_stride;
  const int64_t half = spec.rotary / 2;
  for (int64_t h = 0; h < args.heads; ++h) {
    float* head = args.y + row * args.y_stride + h * spec.n;
    for (int64_t i = 0; i < half; ++i) {
      float& first = spec.interleaved ? head[2 * i] : head[i];
      float& second = spec.interleaved ? head[2 * i + 1] : head[i + half];
      const float a = first;
      const float b = second;
      first = std::fma(a, cos[i], -(b * sin[i]));
      second = std::fma(b, cos[i], a * sin[i]);
    }
  }
}

void softmax_row(const RowArgs& args, int64_t row) {
  ScalarMath v;
  const float* x = args.x + row * args.x_stride;
  float* y = args.y + row * args.y_stride;
  Lanes lanes;
  lanes.fill(-std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < args.n; ++i) {
    float& lane = lanes[static_cast<size_t>(i % kLanes)];
    lane = v.max(x[i], lane);
  }
  const float max = reduce(lanes, [&](float a, float b) { return v.max(a, b); });
  lanes.fill(0);
  for (int64_t i = 0; i < args.n; ++i) {
    y[i] = vector_exp(v, x[i] - max);
    lanes[static_cast<size_t>(i % kLanes)] += y[i];
  }
  const float sum = reduce_add(lanes);
  for (int64_t i = 0; i < args.n; ++i) y[i] = y[i] / sum;
}

void elementwise_row(const RowSpec& spec, const RowArgs& args, int64_t row) {
  ScalarMath v;
  const float* x = args.x + row * args.x_stride;
  const float* x2 = args.x2 + row * args.x2_stride;
  float* y = args.y + row * args.y_stride;
  for (int64_t i = 0; i < spec.n; ++i) {
    if (spec.op == RowOp::add) {
      y[i] = x[i] + x2[i];
    } else {
      const float a = vector_activation(v, spec.activation, x[i]);
      y[i] = spec.op == RowOp::gate ? a * x2[i] : a;
    }
  }
}

void scale_row(const RowSpec& spec, const RowArgs& args, int64_t row) {
  ScalarMath v;
  const float* x = args.x + row * args.x_stride;
  float* y = args.y + row * args.y_stride;
  for (int64_t i = 0; i < args.n; ++i) {
    if (spec.op == RowOp::clip) {
      y[i] = v.max(0.0F - args.cap, v.min(args.cap, x[i]));
      continue;
    }
    const float scaled = x[i] * args.scale;
    y[i] = spec.op == RowOp::softcap ? args.cap * vector_tanh(v, scaled) : scaled;
  }
}

}  // namespace

void check_row_spec(const RowSpec& spec) {
  constexpr int64_t kMaxLength = int64_t{1} << 24;
  const bool norm = spec.op == RowOp::rms_norm || spec.op == RowOp::layer_norm;
  const bool quantizes = spec.op == RowOp::quantize || spec.quantize;
  if (length_at_run_time(spec.op) ? spec.n != 0 : spec.n <= 0 || spec.n > kMaxLength) {
    fail(
        "A row kernel has rows of {} elements, expected 1 to {} (0 where the length comes "
        "with the call).",
        spec.n, kMaxLength);
  }
  if (quantizes && (spec.group < 0 || spec.group % 8 != 0)) {
    fail("A row kernel quantizes in groups of {}, expected a multiple of 8, or 0 for the row.",
         spec.group);
  }
  const bool parts = spec.sum_group != 0;
  if (parts && (spec.sum_group % 16 != 0 || spec.group == 0 || spec.group % spec.sum_group != 0 ||
                spec.n % spec.group != 0)) {
    fail(
        "A row kernel sums {} elements at a time, in groups of {} of a row of {}: expected a "
        "multiple of 16 that divides the group, and whole groups.",
        spec.sum_group, spec.group, spec.n);
  }
  if (spec.word_sums && (!parts || spec.zero != 1 || spec.sum_group > INT16_MAX / 127)) {
    fail(
        "A row kernel has sums of {} times a zero point of {} in 16 bits, expected up to {} times "
        "1.",
        spec.sum_group, spec.zero, INT16_MAX / 127 / 16 * 16);
  }
  if (spec.bf16 && (!quantizes || spec.group != 0 || parts || spec.zero != RowSpec{}.zero)) {
    fail(
        "A row kernel makes bf16 in groups of {} with zero point {}, but bf16 rows have neither, "
        "and quantize and norms alone make them.",
        spec.group, spec.zero);
  }
  const int64_t group = spec.group == 0 ? spec.n : std::min(spec.group, spec.n);
  if (quantizes && !spec.bf16 && (spec.zero < 0 || int64_t{spec.zero} * 127 * group > INT32_MAX)) {
    fail(
        "A row kernel sums groups of {} times a zero point of {}, which must be positive and whose "
        "product must fit 32 bits.",
        group, spec.zero);
  }
  if (!norm && (spec.quantize || spec.residual)) {
    fail(
        "A row kernel other than a norm asks for a residual or a quantized copy, which only "
        "norms have.");
  }
  if (spec.op != RowOp::layer_norm && spec.bias) {
    fail("A row kernel other than layer_norm asks for a bias.");
  }
  if (norm && !spec.quantize && !spec.f32_out) {
    fail("A norm kernel has no output, expected a fp32 or a quantized row.");
  }
  if (spec.op == RowOp::rope &&
      (spec.rotary <= 0 || spec.rotary > spec.n || spec.rotary % 2 != 0)) {
    fail("A rope kernel rotates {} of {} dimensions, expected an even number up to {}.",
         spec.rotary, spec.n, spec.n);
  }
}

void row_reference(const RowSpec& spec, const RowArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    switch (spec.op) {
      case RowOp::rms_norm:
      case RowOp::layer_norm:
        norm_row(spec, args, row);
        break;
      case RowOp::quantize: {
        const float* x = args.x + row * args.x_stride;
        quantize_row(spec, args, row, [x](int64_t i) { return x[i]; });
        break;
      }
      case RowOp::rope:
        rope_row(spec, args, row);
        break;
      case RowOp::softmax:
        softmax_row(args, row);
        break;
      case RowOp::activation:
      case RowOp::gate:
      case RowOp::add:
        elementwise_row(spec, args, row);
        break;
      case RowOp::scale:
      case RowOp::softcap:
      case RowOp::clip:
        scale_row(spec, args, row);
        break;
    }
  }
}

}  // namespace nibble::jit
