// oneDNN's side of the comparison of one INT4 matmul: f32 activations times u4 weights with grouped
// f32 scales and a common zero point of 8. Copies of the weights, together far larger than the
// caches, are taken in turn, so that they come from memory. Prints one line of JSON for every
// number of rows: "ms" is the time of one matmul, the median over passes. Compiled and run by
// compare.sh inside the peers' root; needs oneDNN 3.5 or later, is no part of Nibble's build.
//
// usage: onednn_matmul SIZE GROUP ROWS(,ROWS)* POOL_MB SECONDS       threads: OMP_NUM_THREADS
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

using dnnl::memory;
using Arguments = std::unordered_map<int, memory>;

struct Sizes {
  int64_t size, group, copies;
};

memory filled(const memory::desc& desc, const dnnl::engine& engine, float value) {
  memory result(desc, engine);
  std::fill_n(static_cast<float*>(result.get_data_handle()), desc.get_size() / sizeof(float),
              value);
  return result;
}

dnnl::primitive_attr attributes(int64_t group) {
  constexpr int kGroupsAndColumns = 3;  // scales differ along both dimensions of the weights
  dnnl::primitive_attr attr;
  attr.set_fpmath_mode(dnnl::fpmath_mode::strict, true);  // integer weights become f32
  attr.set_scales(DNNL_ARG_WEIGHTS, kGroupsAndColumns, {group, 1}, memory::data_type::f32);
  attr.set_zero_points(DNNL_ARG_WEIGHTS, 0, {}, memory::data_type::s32);
  return attr;
}

// Random weights in whatever layout the primitive likes best.
memory random_weights(const memory::desc& wanted, const Sizes& s, std::mt19937_64& random,
                      const dnnl::engine& engine, dnnl::stream& stream) {
  memory plain({{s.size, s.size}, memory::data_type::u4, memory::format_tag::ab}, engine);
  auto* words = static_cast<uint64_t*>(plain.get_data_handle());
  std::generate_n(words, plain.get_desc().get_size() / sizeof(uint64_t), std::ref(random));
  if (wanted == plain.get_desc()) return plain;
  memory packed(wanted, engine);
  dnnl::reorder(plain, packed).execute(stream, plain, packed);
  stream.wait();
  return packed;
}

// Passes over all copies for `seconds`, at least one, after one to warm up; ms a matmul, ascending.
std::vector<double> measure(const Sizes& s, int64_t m, double seconds, const dnnl::engine& engine) {
  dnnl::stream stream(engine);
  const memory::desc activations({m, s.size}, memory::data_type::f32, memory::format_tag::ab);
  const memory::desc any({s.size, s.size}, memory::data_type::u4, memory::format_tag::any);
  const dnnl::matmul::primitive_desc desc(engine, activations, any, activations,
                                          attributes(s.group));
  const dnnl::matmul matmul(desc);
  const memory::desc scales({s.size / s.group, s.size}, memory::data_type::f32,
                            memory::format_tag::ab);
  memory zero({{1}, memory::data_type::s32, memory::format_tag::x}, engine);
  *static_cast<int32_t*>(zero.get_data_handle()) = 8;
  const float scale = 1 / std::sqrt(static_cast<float>(s.size) * 21.25F);
  const memory source = filled(activations, engine, 1.0F), result = filled(activations, engine, 0);
  std::mt19937_64 random(1);
  std::vector<Arguments> calls;
  for (int64_t i = 0; i < s.copies; ++i) {
    calls.push_back(
        {{DNNL_ARG_SRC, source},
         {DNNL_ARG_DST, result},
         {DNNL_ARG_WEIGHTS, random_weights(desc.weights_desc(), s, random, engine, stream)},
         {DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, filled(scales, engine, scale)},
         {DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_WEIGHTS, zero}});
  }
  std::vector<double> passes;
  double left = seconds;
  for (bool warm = false; left > 0 || passes.empty(); warm = true) {
    const auto start = std::chrono::steady_clock::now();
    for (const Arguments& call : calls) {
      matmul.execute(stream, call);
      stream.wait();
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (!warm) continue;
    passes.push_back(elapsed.count() * 1e3 / static_cast<double>(s.copies));
    left -= elapsed.count();
  }
  const auto* y = static_cast<const float*>(result.get_data_handle());
  if (!std::isfinite(y[0]) || y[0] == 0) {
    std::fprintf(stderr, "oneDNN's result is not finite, or zero.\n");
    std::exit(1);
  }
  std::sort(passes.begin(), passes.end());
  return passes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: onednn_matmul SIZE GROUP ROWS(,ROWS)* POOL_MB SECONDS\n");
    return 2;
  }
  Sizes s{std::atoll(argv[1]), std::atoll(argv[2]), 1};
  const int64_t bytes = s.size * s.size / 2 + s.size * s.size / s.group * 4;
  s.copies = std::max<int64_t>(1, (std::atoll(argv[4]) << 20) / bytes);
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  std::istringstream rows(argv[3]);
  for (std::string word; std::getline(rows, word, ',');) {
    const int64_t m = std::atoll(word.c_str());
    const std::vector<double> ms = measure(s, m, std::atof(argv[5]), engine);
    std::printf("{\"m\":%lld,\"copies\":%lld,\"ms\":%.5g,\"min_ms\":%.5g,\"max_ms\":%.5g}\n",
                static_cast<long long>(m), static_cast<long long>(s.copies), ms[ms.size() / 2],
                ms.front(), ms.back());
    std::fflush(stdout);
  }
  return 0;
}
