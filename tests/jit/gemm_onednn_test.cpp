// oneDNN agrees with the generated f32 x f32 and s8 x s8 matmuls: a second opinion that shares no
// code with us, unlike gemm_reference.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <unordered_map>
#include <vector>

#include "jit/gemm_generator.h"
#include "tests/support/generated_code.h"
#include "tests/support/guarded_buffer.h"

namespace nibble::test {
namespace {

using namespace jit;                   // NOLINT(google-build-using-namespace)
using Shape = std::array<int64_t, 3>;  // m, n, k

constexpr Shape kShapes[] = {{1, 64, 256}, {5, 37, 96}, {33, 48, 203}, {16, 5, 7}};

// c[m][n] = a[m][k] * w[n][k]^T, all of them as they lie in memory.
template <typename In, typename Out>
std::vector<Out> onednn_matmul(const Shape& shape, std::vector<In>& a, std::vector<In>& w,
                               dnnl::memory::data_type in, dnnl::memory::data_type out) {
  const auto [m, n, k] = shape;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const dnnl::memory::desc a_desc({m, k}, in, dnnl::memory::format_tag::ab);
  const dnnl::memory::desc w_desc({k, n}, in, dnnl::memory::format_tag::ba);
  const dnnl::memory::desc c_desc({m, n}, out, dnnl::memory::format_tag::ab);
  std::vector<Out> c(static_cast<size_t>(m * n));
  const dnnl::matmul::desc desc(a_desc, w_desc, c_desc);
  const dnnl::matmul matmul(dnnl::matmul::primitive_desc(desc, engine));
  matmul.execute(stream, {{DNNL_ARG_SRC, dnnl::memory(a_desc, engine, a.data())},
                          {DNNL_ARG_WEIGHTS, dnnl::memory(w_desc, engine, w.data())},
                          {DNNL_ARG_DST, dnnl::memory(c_desc, engine, c.data())}});
  stream.wait();
  return c;
}

// A packed matrix and its result under one generated kernel.
struct Packed {
  Packed(const GemmSpec& s)
      : spec(s),
        shape(packed_shape(s.weight, s.n, s.k)),
        data(static_cast<size_t>(shape.data_bytes)),
        scales(static_cast<size_t>(shape.scale_bytes)) {}

  std::vector<float> run(Isa isa, int64_t m, GemmArgs args) const {
    const Tiling tiling = default_tiling(spec, isa, m);
    const GeneratedCode<GemmFn> kernel(generate_gemm(spec, isa, tiling));
    GuardedBuffer<uint8_t> scratch(static_cast<size_t>(gemm_scratch_bytes(spec, tiling)));
    std::vector<float> c(static_cast<size_t>(m * spec.n));
    args.w = data.data();
    args.w_scale = scales.data();
    args.c = c.data();
    args.c_stride = args.c_columns = spec.n;
    args.m = m;
    args.nb_end = shape.nblocks;
    args.scratch = scratch.data();
    kernel(args);
    return c;
  }

  GemmSpec spec;
  PackedShape shape;
  GuardedBuffer<uint8_t> data, scales;
};

TEST(GemmOneDnn, AgreesInF32) {
  for (const Shape& shape : kShapes) {
    const auto [m, n, k] = shape;
    std::mt19937 random(7);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> a(static_cast<size_t>(m * k)), w(static_cast<size_t>(n * k));
    for (float& x : a) x = uniform(random);
    for (float& x : w) x = uniform(random);
    using enum dnnl::memory::data_type;
    const std::vector<float> expected = onednn_matmul<float, float>(shape, a, w, f32, f32);
    Packed packed({.weight = {.type = WeightType::f32}, .act = ActType::f32, .n = n, .k = k});
    std::vector<float> padded(static_cast<size_t>(packed.shape.nblocks * kColumnBlock * k));
    std::copy(w.begin(), w.end(), padded.begin());
    for (int64_t nb = 0; nb < packed.shape.nblocks; ++nb) {
      pack_block_f32(n, k, nb, padded.data() + nb * kColumnBlock * k, packed.data.data());
    }
    for (const Isa isa : supported_isas()) {
      const std::vector<float> found = packed.run(isa, m, {.a = a.data(), .a_stride = k});
      const float tolerance = 1e-6F * static_cast<float>(k);
      for (size_t i = 0; i < found.size(); ++i) {
        ASSERT_NEAR(found[i], expected[i], tolerance) << isa_name(isa) << " element " << i;
      }
    }
  }
}

TEST(GemmOneDnn, AgreesExactlyInS8) {
  for (const Shape& shape : kShapes) {
    const auto [m, n, k] = shape;
    std::mt19937 random(8);
    std::vector<int8_t> a(static_cast<size_t>(m * k)), w(static_cast<size_t>(n * k));
    for (int8_t& x : a) x = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
    // Below 64, so that oneDNN does not saturate on machines without VNNI.
    for (int8_t& x : w) x = static_cast<int8_t>(static_cast<int>(random() % 127) - 63);
    using enum dnnl::memory::data_type;
    const std::vector<int32_t> expected = onednn_matmul<int8_t, int32_t>(shape, a, w, s8, s32);
    Packed packed(
        {.weight = {.type = WeightType::u8, .group = 0, .scale = ScaleType::f32}, .n = n, .k = k});
    const int64_t kpad = packed.shape.kpad;
    const std::vector<float> ones(kColumnBlock, 1.0F);
    for (int64_t nb = 0; nb < packed.shape.nblocks; ++nb) {
      std::vector<uint8_t> q(static_cast<size_t>(kColumnBlock * kpad), 128);
      for (int64_t i = 0; i < kColumnBlock * kpad; ++i) {
        const int64_t column = nb * kColumnBlock + i / kpad;
        if (column >= n || i % kpad >= k) continue;
        q[static_cast<size_t>(i)] =
            static_cast<uint8_t>(w[static_cast<size_t>(column * k + i % kpad)] + 128);
      }
      pack_block(packed.spec.weight, n, k, nb, q.data(), ones.data(), nullptr, packed.data.data(),
                 packed.scales.data(), nullptr);
    }
    std::vector<int8_t> a_padded(static_cast<size_t>(m * kpad));
    std::vector<int32_t> a_sum(static_cast<size_t>(m));
    const std::vector<float> a_scale(static_cast<size_t>(m), 1.0F);
    for (int64_t i = 0; i < m * k; ++i) {
      a_padded[static_cast<size_t>(i / k * kpad + i % k)] = a[static_cast<size_t>(i)];
      a_sum[static_cast<size_t>(i / k)] -= 128 * a[static_cast<size_t>(i)];
    }
    for (const Isa isa : supported_isas()) {
      const std::vector<float> found = packed.run(isa, m,
                                                  {.a = a_padded.data(),
                                                   .a_stride = kpad,
                                                   .a_scale = a_scale.data(),
                                                   .a_sum = a_sum.data()});
      for (size_t i = 0; i < found.size(); ++i) {
        ASSERT_EQ(found[i], static_cast<float>(expected[i])) << isa_name(isa) << " element " << i;
      }
    }
  }
}

}  // namespace
}  // namespace nibble::test
