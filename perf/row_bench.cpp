// Google Benchmark of the row kernels: one case a kernel of the catalog, its name as the label,
// over rows that stay in the caches, as they do between two matmuls. Every case first verifies its
// kernel against the reference.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "jit/code_cache.h"
#include "jit/kernel_catalog.h"
#include "perf/roof_share.h"

namespace {

using namespace nibble::jit;  // NOLINT(google-build-using-namespace)

constexpr int64_t kRows = 8;
constexpr int64_t kSoftmaxLength = 2048;
constexpr int64_t kHeads = 32;

// Bytes of a quantized row.
int64_t q_stride(const RowSpec& spec, int64_t width) {
  return (width + 7) / 8 * 8 * (spec.bf16 ? 2 : 1);
}

struct Operands {
  explicit Operands(const RowSpec& spec)
      : n(length_at_run_time(spec.op) ? kSoftmaxLength : spec.n),
        width(spec.op == RowOp::rope ? n * kHeads : n),
        x(size(kRows * width), 0.5F),
        x2(x),
        x3(x),
        weight(size(width), 1.0F),
        bias(size(width), 0.25F),
        y(size(kRows * width), 0.5F),
        sum(y.size()),
        q(size(kRows * q_stride(spec, width))),
        q_scale(size(kRows * row_scales(spec))),
        q_sum(size(kRows * row_sum_words(spec))) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 1000) * 0.01F - 5.0F;
    args = {.x = x.data(),
            .x_stride = width,
            .x2 = x2.data(),
            .x2_stride = width,
            .x3 = x3.data(),
            .weight = weight.data(),
            .bias = bias.data(),
            .eps = 1e-5F,
            .n = n,
            .y = y.data(),
            .y_stride = width,
            .sum = sum.data(),
            .sum_stride = width,
            .q = q.data(),
            .q_stride = q_stride(spec, width),
            .q_scale = q_scale.data(),
            .q_sum = q_sum.data(),
            .q_groups = row_scales(spec),
            .q_sum_words = row_sum_words(spec),
            .rows = kRows,
            .heads = kHeads};
    if (spec.op == RowOp::rope) {
      // A true rotation: the rows keep their length however often they are turned.
      x2.assign(x2.size(), 0.6F);
      x3.assign(x3.size(), 0.8F);
    }
  }
  static size_t size(int64_t count) { return static_cast<size_t>(count); }
  int64_t n, width;
  std::vector<float> x, x2, x3, weight, bias, y, sum;
  std::vector<int8_t> q;
  std::vector<float> q_scale;
  std::vector<int32_t> q_sum;
  RowArgs args;
};

// What the kernel must read and write once, per element of a row.
double bytes_an_element(const RowSpec& spec) {
  switch (spec.op) {
    case RowOp::rms_norm:
    case RowOp::layer_norm:
      return 8 + (spec.residual ? 8 : 0) + (spec.f32_out ? 4 : 0) + (spec.quantize ? 1 : 0);
    case RowOp::quantize:
      return 5;
    case RowOp::gate:
    case RowOp::add:
      return 12;
    case RowOp::rope:
    case RowOp::softmax:
    case RowOp::activation:
    case RowOp::scale:
    case RowOp::softcap:
    case RowOp::clip:
      return 8;
  }
  return 0;
}

void run_kernel(benchmark::State& state, const KernelKey& key) {
  const auto& spec = std::get<RowSpec>(key.spec);
  const std::string difference = check_kernel(key, 1);
  if (!difference.empty()) return state.SkipWithError(difference.c_str());
  nibble::perf::roofs_of(state.threads());
  const Kernel& kernel = CodeCache::instance().get(key);
  const Operands operands(spec);
  for (auto _ : state) {
    kernel.run(operands.args);
    benchmark::ClobberMemory();
  }
  const auto elements = static_cast<double>(kRows * operands.width);
  // Operations are counted as elements: what one takes depends on the kernel.
  nibble::perf::count_work(state,
                           {.bytes = elements * bytes_an_element(spec), .operations = elements});
}

const bool kRegistered = [] {
  for (const Isa isa : supported_isas()) {
    for (const KernelKey& key : kernel_catalog(isa)) {
      const auto* spec = std::get_if<RowSpec>(&key.spec);
      if (spec == nullptr) continue;
      benchmark::RegisterBenchmark(name(key).c_str(),
                                   [key](benchmark::State& state) { run_kernel(state, key); });
    }
  }
  return true;
}();

}  // namespace
