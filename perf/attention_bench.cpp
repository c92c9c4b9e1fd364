// Google Benchmark of the attention kernels: one case a kernel of the catalog and a context length,
// the kernel's name as the label. Every call takes another KV head of a pool: "decode" of one
// larger than any cache, "prefill" of one head again and again, the last of its positions the
// causal rows. Every case first verifies its kernel against the reference.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "jit/code_cache.h"
#include "jit/error.h"
#include "jit/kernel_catalog.h"
#include "jit/kv_layout.h"
#include "perf/roof_share.h"
#include "runtime/machine_roofs.h"
#include "runtime/pages.h"

namespace {

using namespace nibble::jit;  // NOLINT(google-build-using-namespace)

using Bytes = std::shared_ptr<std::byte>;

// In huge pages, as the runtime keeps its cache.
Bytes allocate(int64_t bytes) {
  Bytes memory = nibble::runtime::map_pages(static_cast<size_t>(bytes));
  if (!memory) nibble::fail("The benchmark needs {} bytes, and the system refused them.", bytes);
  return memory;
}

struct Operands {
  Operands(const AttentionSpec& spec, int64_t context, bool decode)
      : attention(spec),
        page(kv_page_bytes(spec.kv, spec.head_dim)),
        stride((context + kKvPage - 1) / kKvPage * page),
        heads(decode ? nibble::runtime::beyond_caches_bytes() / stride : 1),
        cache(allocate(stride * heads)),
        q(static_cast<size_t>(spec.rows * spec.head_dim), 0.1F),
        out(q.size()),
        lo(static_cast<size_t>(spec.rows), 0),
        hi(lo.size(), context),
        slope(lo.size(), 0.01F),
        scratch(allocate(attention_scratch_bytes(spec))) {
    if (!decode) {
      for (int64_t r = 0; r < spec.rows; ++r) hi[static_cast<size_t>(r)] -= spec.rows - 1 - r;
    }
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> key(static_cast<size_t>(spec.head_dim)), value(key.size());
    for (int64_t t = 0; t < context; ++t) {
      for (float& x : key) x = normal(random);
      for (float& x : value) x = normal(random);
      kv_append(spec.kv, spec.head_dim, t, key.data(), value.data(), head(0));
    }
    for (int64_t at = 0; at < stride; at += page) {
      const std::byte* first = cache.get() + at * heads;
      for (int64_t h = 1; h < heads; ++h) {
        std::memcpy(cache.get() + at * heads + h * page, first, static_cast<size_t>(page));
      }
    }
    args = {.q = q.data(),
            .q_stride = spec.head_dim,
            .cache = head(0),
            .lo = lo.data(),
            .hi = hi.data(),
            .slope = slope.data(),
            .scale = 0.09F,
            .softcap = 30.0F,
            .out = out.data(),
            .out_stride = spec.head_dim,
            .rows = spec.rows,
            .scratch = scratch.get()};
  }
  // As in a session: the first page of every head, then the second.
  KvHead head(int64_t h) const { return {cache.get() + h * page, heads * page}; }
  void use(int64_t h) { args.cache = head(h); }

  AttentionSpec attention;
  int64_t page, stride, heads;  // bytes of a page, of a head; heads
  Bytes cache;
  std::vector<float> q, out;
  std::vector<int64_t> lo, hi;
  std::vector<float> slope;
  Bytes scratch;
  AttentionArgs args;
};

void run_kernel(benchmark::State& state, const KernelKey& key, int64_t context, bool decode) {
  const auto& spec = std::get<AttentionSpec>(key.spec);
  const std::string difference = check_kernel(key, 1);
  if (!difference.empty()) return state.SkipWithError(difference.c_str());
  nibble::perf::roofs_of(state.threads());
  const Kernel& kernel = CodeCache::instance().get(key);
  Operands operands(spec, context, decode);
  int64_t head = 0;
  for (auto _ : state) {
    operands.use(head);
    kernel.run(operands.args);
    benchmark::ClobberMemory();
    head = (head + 1) % operands.heads;
  }
  const auto bytes = static_cast<double>(operands.stride);
  const double operations = 4.0 * static_cast<double>(spec.rows * spec.head_dim * context);
  nibble::perf::count_work(state, {.bytes = bytes, .operations = operations});
}

const bool kRegistered = [] {
  for (const Isa isa : supported_isas()) {
    for (const KernelKey& key : kernel_catalog(isa)) {
      const auto* spec = std::get_if<AttentionSpec>(&key.spec);
      if (spec == nullptr) continue;
      for (const bool decode : {true, false}) {
        for (const int64_t context : {int64_t{128}, int64_t{2048}, int64_t{4096}}) {
          benchmark::RegisterBenchmark(
              fmt::format("{}/{}/t{}", name(key), decode ? "decode" : "prefill", context).c_str(),
              [=](benchmark::State& state) { run_kernel(state, key, context, decode); });
        }
      }
    }
  }
  return true;
}();

}  // namespace
