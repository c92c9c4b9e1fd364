// Google Benchmark of the generated matmuls: one case a kernel of the catalog, its name as the
// label. Weights rotate through a pool larger than any cache, so that one row runs at the speed of
// memory as in decoding. Every case first verifies its kernel against the reference. Kernel names
// as arguments are measured instead of the catalog: that is how tilings are compared.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "jit/code_cache.h"
#include "jit/float16.h"
#include "jit/kernel_catalog.h"
#include "perf/roof_share.h"
#include "runtime/machine_roofs.h"

namespace {

using namespace nibble::jit;  // NOLINT(google-build-using-namespace)

constexpr size_t kLine = 64;
constexpr int64_t kFewRows = 8;
constexpr int64_t kPrefillRows = 512;

struct FreeAligned {
  void operator()(void* memory) const { std::free(memory); }
};
using Bytes = std::unique_ptr<uint8_t[], FreeAligned>;

Bytes allocate(size_t bytes) {
  const size_t rounded = (bytes + kLine - 1) / kLine * kLine;
  return Bytes(static_cast<uint8_t*>(std::aligned_alloc(kLine, rounded)));
}

// Random bytes for quantized weights; as floats they are all in [1, 2).
const uint8_t* weight_pool(bool floats) {
  static const auto make = [](bool as_floats) {
    const auto bytes = static_cast<size_t>(nibble::runtime::beyond_caches_bytes());
    Bytes pool = allocate(bytes);
    std::mt19937_64 random(1);
    for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
      uint64_t bits = random();
      if (as_floats) bits = (bits & 0x007fffff007fffffULL) | 0x3f8000003f800000ULL;
      std::memcpy(pool.get() + i, &bits, sizeof(bits));
    }
    return pool;
  };
  if (floats) {
    static const Bytes pool = make(true);
    return pool.get();
  }
  static const Bytes pool = make(false);
  return pool.get();
}

// The operands of one kernel; weights and scales of `copies` matrices lie one behind another.
struct Operands {
  Operands(const GemmSpec& spec, const Tiling& tiling, int64_t rows)
      : shape(packed_shape(spec.weight, spec.n, spec.k)),
        w(weight_pool(spec.weight.type == WeightType::f32)),
        copies(std::max<int64_t>(1, nibble::runtime::beyond_caches_bytes() / shape.data_bytes)),
        scales(allocate(static_cast<size_t>(shape.scale_bytes * copies))),
        zeros(allocate(static_cast<size_t>(shape.zero_bytes * copies))),
        // A stride of a whole page would put every row into the same cache sets.
        a_stride(shape.kpad + 64),
        a_s8(static_cast<size_t>(rows * a_stride), 1),
        a_bf16(spec.act == ActType::bf16 ? static_cast<size_t>(rows * a_stride) : 0,
               bf16_activation(0.5F)),
        a_f32(spec.act == ActType::f32 ? static_cast<size_t>(rows * a_stride) : 0, 0.5F),
        a_scale(static_cast<size_t>(rows * shape.act_groups), 0.01F),
        a_sum(static_cast<size_t>(rows * shape.act_sum_bytes / 4), -8),
        bias(static_cast<size_t>(spec.n), 0.5F),
        residual(static_cast<size_t>(rows * spec.n), 0.5F),
        c(static_cast<size_t>(rows * spec.n)),
        scratch(allocate(static_cast<size_t>(gemm_scratch_bytes(spec, tiling)))) {
    const float scale = 0.01F;
    const uint16_t half = f32_to_f16(scale);
    const bool f16 = spec.weight.scale == ScaleType::f16;
    const size_t size = f16 ? sizeof(half) : sizeof(scale);
    const auto bytes = static_cast<size_t>(shape.scale_bytes * copies);
    for (size_t i = 0; i < bytes; i += size) {
      std::memcpy(scales.get() + i, f16 ? static_cast<const void*>(&half) : &scale, size);
    }
    std::fill_n(zeros.get(), shape.zero_bytes * copies, uint8_t{7});
  }

  GemmArgs args(const GemmSpec& spec, int64_t m, int64_t copy) {
    const void* a = a_f32.data();
    if (spec.act == ActType::s8) a = a_s8.data();
    if (spec.act == ActType::bf16) a = a_bf16.data();
    return {.a = a,
            .a_stride = a_stride,
            .a_scale = a_scale.data(),
            .a_sum = a_sum.data(),
            .w = w + copy * shape.data_bytes,
            .w_scale = scales.get() + copy * shape.scale_bytes,
            .w_zero = zeros.get() + copy * shape.zero_bytes,
            .bias = bias.data(),
            .residual = residual.data(),
            .residual_stride = spec.n,
            .c = c.data(),
            .c_stride = spec.n,
            .c_columns = spec.gate ? spec.n / 2 : spec.n,
            .m = m,
            .nb_begin = 0,
            .nb_end = shape.nblocks,
            .scratch = scratch.get()};
  }

  PackedShape shape;
  const uint8_t* w;
  int64_t copies;
  Bytes scales, zeros;
  int64_t a_stride;
  std::vector<int8_t> a_s8;
  std::vector<uint16_t> a_bf16;
  std::vector<float> a_f32, a_scale;
  std::vector<int32_t> a_sum;
  std::vector<float> bias, residual, c;
  Bytes scratch;
};

// check_kernel's answer, asked once a kernel: the library runs a case several times.
std::string verify_once(const KernelKey& key) {
  static std::mutex mutex;
  static std::map<std::string, std::string> differences;
  const std::lock_guard lock(mutex);
  const auto [entry, is_new] = differences.try_emplace(name(key));
  if (is_new) entry->second = check_kernel(key, 1);
  return entry->second;
}

void run_kernel(benchmark::State& state, const KernelKey& key, int64_t m) {
  const auto& spec = std::get<GemmSpec>(key.spec);
  const std::string difference = verify_once(key);
  if (!difference.empty()) return state.SkipWithError(difference.c_str());
  nibble::perf::roofs_of(state.threads());
  const Kernel& kernel = CodeCache::instance().get(key);
  Operands operands(spec, key.tiling, m);
  // Threads start apart, so that none finds what another has just read.
  int64_t copy = operands.copies * state.thread_index() / state.threads();
  for (auto _ : state) {
    kernel.run(operands.args(spec, m, copy));
    copy = (copy + 1) % operands.copies;
    benchmark::ClobberMemory();
  }
  const PackedShape& shape = operands.shape;
  const auto bytes = static_cast<double>(shape.data_bytes + shape.scale_bytes + shape.zero_bytes);
  const double operations = 2.0 * static_cast<double>(m) * static_cast<double>(spec.n * spec.k);
  nibble::perf::count_work(state, {bytes, operations, spec.act == ActType::s8});
}

void register_case(const KernelKey& key, int64_t m, int threads) {
  benchmark::RegisterBenchmark(fmt::format("{}/m{}", name(key), m).c_str(),
                               [key, m](benchmark::State& state) { run_kernel(state, key, m); })
      ->Threads(threads)
      ->UseRealTime();
}

void register_kernel(const KernelKey& key) {
  if (!std::holds_alternative<GemmSpec>(key.spec)) return;
  for (const int threads : {1, 2}) register_case(key, 1, threads);
  for (const int64_t m : {kFewRows, kPrefillRows}) register_case(key, m, 1);
}

// The catalog's decode kernels with one row, the others with few and with many.
void register_isa(Isa isa) {
  for (const KernelKey& key : kernel_catalog(isa)) {
    if (!std::holds_alternative<GemmSpec>(key.spec)) continue;
    if (key.tiling.mr == 1) {
      for (const int threads : {1, 2}) register_case(key, 1, threads);
      continue;
    }
    for (const int64_t m : {kFewRows, kPrefillRows}) register_case(key, m, 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::optional<KernelKey> key = parse_kernel_name(argv[i]);
    if (!key) {
      fmt::print(stderr, "'{}' is neither an option nor a kernel's name.\n", argv[i]);
      return 2;
    }
    register_kernel(*key);
  }
  if (argc == 1) {
    for (const Isa isa : supported_isas()) register_isa(isa);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
