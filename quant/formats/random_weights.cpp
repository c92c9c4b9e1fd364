#include "quant/formats/random_weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "jit/float16.h"

namespace nibble::quant {
namespace {

using jit::kColumnBlock;
using jit::PackedShape;
using jit::WeightFormat;
using jit::WeightType;

constexpr int64_t kLine = 64;

// Four xorshift64 streams side by side, which the compiler turns into vectors: several bytes a
// cycle. The quality is no matter here, only that no two blocks look alike.
class ByteStream {
 public:
  explicit ByteStream(uint64_t seed) {
    for (uint64_t& s : state_) s = mix(seed += 0x9e3779b97f4a7c15) | 1;
  }

  void fill(uint8_t* out, int64_t bytes) {  // a multiple of 64
    for (int64_t at = 0; at < bytes; at += kLine) {
      std::array<uint64_t, 8> line;
      for (size_t i = 0; i < line.size(); ++i) {
        uint64_t s = state_[i];
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        line[i] = state_[i] = s;
      }
      std::memcpy(out + at, line.data(), kLine);
    }
  }

  // In [0, 1).
  float uniform() {
    uint64_t& s = state_[0];
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    return static_cast<float>(s >> 40) * 0x1p-24F;
  }

 private:
  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }
  std::array<uint64_t, 8> state_;
};

// What the layout asks of columns past n and of k past the end.
void clear_padding(const WeightFormat& format, const PackedShape& shape, int64_t columns,
                   uint8_t* data, const std::vector<uint8_t>& zeros) {
  const int64_t unit = jit::weight_unit(format.type).k;
  const int64_t stored = (shape.kpad + unit - 1) / unit * unit;
  for (int64_t c = 0; c < kColumnBlock; ++c) {
    const bool real = c < columns;
    const uint8_t value = zeros[static_cast<size_t>((c + 1) * shape.groups - 1)];
    for (int64_t kk = real ? shape.k : 0; kk < stored; ++kk) {
      jit::set_unit_value(format.type, data, c, kk, value);
    }
  }
}

struct Target {
  WeightFormat format;
  PackedShape shape;
  const runtime::PackedBuffer* buffer;
  float scale;
};

// As jit::pack_scales takes them.
struct BlockScales {
  std::vector<float> scale, minimum, above, above_minimum;
  std::vector<uint8_t> zero;
};

BlockScales random_scales(const Target& t, int64_t columns, ByteStream& random) {
  const PackedShape& shape = t.shape;
  const int middle = jit::middle_value(t.format.type);
  const bool products = t.format.scale == jit::ScaleType::q8;
  constexpr float kByte = 64;  // of the middle scale
  BlockScales out;
  const auto count = static_cast<size_t>(shape.groups * kColumnBlock);
  out.scale.resize(count);
  out.minimum.resize(count);
  out.zero.resize(count, t.format.minimum ? uint8_t{0} : static_cast<uint8_t>(middle));
  const float above = jit::round_to(jit::ScaleType::f16, t.scale / kByte);
  out.above.resize(static_cast<size_t>(shape.supers * kColumnBlock), above);
  out.above_minimum.resize(out.above.size(), -static_cast<float>(middle) * above);
  for (int64_t g = 0; g < shape.groups; ++g) {
    for (int64_t c = 0; c < kColumnBlock; ++c) {
      const auto at = static_cast<size_t>(c * shape.groups + g);
      const float part = 0.75F + 0.5F * random.uniform();
      const float scale = products ? above * std::nearbyint(part * kByte) : t.scale * part;
      out.scale[at] = jit::round_to(t.format.scale, scale);
      out.minimum[at] = jit::round_to(t.format.scale, -static_cast<float>(middle) * scale);
      if (!t.format.asym || t.format.minimum || c >= columns) continue;
      out.zero[at] = static_cast<uint8_t>(middle + static_cast<int>(random.uniform() * 3.0F) - 1);
    }
  }
  return out;
}

void fill_quantized(const Target& t, int64_t nb, ByteStream& random) {
  const PackedShape& shape = t.shape;
  const int64_t columns = std::min(kColumnBlock, shape.n - nb * kColumnBlock);
  uint8_t* data = t.buffer->data + nb * shape.block_bytes;
  random.fill(data, shape.block_bytes);
  const BlockScales scales = random_scales(t, columns, random);
  jit::pack_scales(t.format, shape, nb, scales.scale.data(), scales.zero.data(),
                   scales.minimum.data(), {scales.above.data(), scales.above_minimum.data()},
                   t.buffer->scales, t.buffer->zeros);
  if (columns == kColumnBlock && shape.k % jit::weight_unit(t.format.type).k == 0) return;
  clear_padding(t.format, shape, columns, data, scales.zero);
}

void fill_floats(const Target& t, int64_t nb, ByteStream& random) {
  const int64_t columns = std::min(kColumnBlock, t.shape.n - nb * kColumnBlock);
  auto* data = reinterpret_cast<float*>(t.buffer->data + nb * t.shape.block_bytes);
  for (int64_t i = 0; i < t.shape.k * kColumnBlock; ++i) {
    const float value = (2.0F * random.uniform() - 1.0F) * t.scale;
    data[i] = i % kColumnBlock < columns ? value : 0.0F;
  }
}

// The standard deviation of a uniform value about its zero point.
float deviation(WeightType type) {
  switch (type) {
    case WeightType::u4:
      return 4.64F;
    case WeightType::u6:
      return 18.5F;
    case WeightType::u8:
      return 73.9F;
    case WeightType::f32:
      return 0.577F;
  }
  return 1.0F;
}

}  // namespace

runtime::PackedMatrix random_matrix(const WeightFormat& format, int64_t n, int64_t k, uint64_t seed,
                                    runtime::ThreadPool& pool) {
  const runtime::PackedBuffer buffer = runtime::allocate_packed(format, n, k, &pool.placement());
  Target target{format, jit::packed_shape(format, n, k), &buffer, 0};
  target.scale = 1.0F / (std::sqrt(static_cast<float>(k)) * deviation(format.type));
  pool.parallel_for(target.shape.nblocks, [&](int64_t begin, int64_t end, int) {
    for (int64_t nb = begin; nb < end; ++nb) {
      ByteStream random(seed * 0x2545f4914f6cdd1d + static_cast<uint64_t>(nb) * 8 + 1);
      if (format.type == WeightType::f32) {
        fill_floats(target, nb, random);
      } else {
        fill_quantized(target, nb, random);
      }
    }
  });
  return buffer.matrix;
}

}  // namespace nibble::quant
