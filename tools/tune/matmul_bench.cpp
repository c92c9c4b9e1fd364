#include "tools/tune/matmul_bench.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <unordered_map>
#include <utility>

#include "jit/error.h"
#include "jit/float16.h"
#include "jit/gemm.h"
#include "quant/formats/random_weights.h"
#include "runtime/matmul_sharing.h"
#include "tools/tune/candidates.h"

namespace nibble::tune {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostCopies = 4096;
constexpr double kPartSeconds = 3e-3;      // long matmuls are sampled by parts of about this length
constexpr double kRepeatSeconds = 200e-6;  // short ones are repeated for as long
constexpr int64_t kMostRepeats = 64;
constexpr int64_t kReferenceRows = 3;  // the reference is slow
constexpr size_t kLine = 64;

// Activations, and where results go.
struct Operands {
  Operands(const jit::GemmSpec& spec, int64_t m)
      : shape(jit::packed_shape(spec.weight, spec.n, spec.k)),
        columns(spec.gate ? spec.n / 2 : spec.n),
        bias(static_cast<size_t>(shape.nblocks * jit::kColumnBlock)),
        residual(static_cast<size_t>(spec.residual ? m * columns : 0)),
        c(static_cast<size_t>(m * columns)) {
    std::mt19937_64 random(7);
    const auto uniform = [&random](float low, float high) {
      return low + (high - low) * static_cast<float>(random() >> 40) * 0x1p-24F;
    };
    for (float& value : bias) value = uniform(-1, 1);
    for (float& value : residual) value = uniform(-1, 1);
    if (spec.act == jit::ActType::f32) {
      a_f32.resize(static_cast<size_t>(m * spec.k));
      for (float& value : a_f32) value = uniform(-1, 1);
      return;
    }
    if (spec.act == jit::ActType::bf16) {
      a_bf16.resize(static_cast<size_t>(m * shape.kpad));
      for (int64_t i = 0; i < m * shape.kpad; ++i) {
        const float value = i % shape.kpad < spec.k ? uniform(-1, 1) : 0;
        a_bf16[static_cast<size_t>(i)] = jit::bf16_activation(value);
      }
      return;
    }
    a_s8.resize(static_cast<size_t>(m * shape.kpad));
    a_scale.resize(static_cast<size_t>(m * shape.act_groups));
    a_sum.resize(static_cast<size_t>(m * shape.act_sum_bytes / 4));
    for (float& value : a_scale) value = uniform(0.001F, 0.02F);
    const int zero = spec.weight.asym ? 1 : jit::middle_value(spec.weight.type);
    for (int64_t row = 0; row < m; ++row) {
      int8_t* a = a_s8.data() + row * shape.kpad;
      std::vector<int32_t> sums(static_cast<size_t>(shape.groups));
      for (int64_t kk = 0; kk < spec.k; ++kk) {
        a[kk] = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
        sums[static_cast<size_t>(kk / shape.group)] -= zero * a[kk];
      }
      int32_t* stored = a_sum.data() + row * shape.act_sum_bytes / 4;
      for (int64_t g = 0; g < shape.groups; ++g) {
        jit::store_activation_sum(shape, stored, g, sums[static_cast<size_t>(g)]);
      }
    }
  }

  // A call for rows [row, row + m).
  jit::GemmArgs args(const jit::GemmSpec& spec, int64_t row, int64_t m, const jit::PackedView& w) {
    const int64_t first = row * columns;
    const void* a = a_f32.data() + row * spec.k;
    if (spec.act == jit::ActType::s8) a = a_s8.data() + row * shape.kpad;
    if (spec.act == jit::ActType::bf16) a = a_bf16.data() + row * shape.kpad;
    return {.a = a,
            .a_stride = spec.act == jit::ActType::f32 ? spec.k : shape.kpad,
            .a_scale = a_scale.data() + row * shape.act_groups,
            .a_sum = a_sum.data() + row * shape.act_sum_bytes / 4,
            .w = w.data,
            .w_scale = w.scales,
            .w_zero = w.zeros,
            .bias = spec.bias ? bias.data() : nullptr,
            .residual = spec.residual ? residual.data() + first : nullptr,
            .residual_stride = columns,
            .c = c.data() + first,
            .c_stride = columns,
            .c_columns = columns,
            .m = m};
  }

  jit::PackedShape shape;
  int64_t columns;
  std::vector<int8_t> a_s8;
  std::vector<uint16_t> a_bf16;
  std::vector<float> a_f32, a_scale;
  std::vector<int32_t> a_sum;  // room for the sums, whatever their type
  std::vector<float> bias, residual, c;
};

// Column blocks [begin, end) of one copy of the weights.
struct Part {
  int64_t copy = 0, begin = 0, end = 0;
};

}  // namespace

RotatingWeights::RotatingWeights(const jit::GemmSpec& spec, runtime::ThreadPool& pool,
                                 int64_t least_bytes) {
  const int64_t wanted = least_bytes > 0 ? least_bytes : runtime::beyond_caches_bytes();
  const auto bytes = static_cast<int64_t>(weight_bytes(spec));
  const int64_t count = std::clamp<int64_t>(wanted / bytes + 1, 1, kMostCopies);
  for (int64_t i = 0; i < count; ++i) {
    copies_.push_back(
        quant::random_matrix(spec.weight, spec.n, spec.k, static_cast<uint64_t>(i) + 1, pool));
  }
}

struct MatmulBench::Impl {
  jit::GemmSpec spec;
  jit::Isa isa;
  int64_t m;
  const RotatingWeights& weights;
  runtime::ThreadPool& pool;
  Operands operands;
  jit::CodeCache cache;  // of its own: hundreds of kernels that nobody needs afterwards
  std::unordered_map<std::string, const jit::Kernel*> checked;
  std::vector<std::vector<std::byte>> scratch;
  std::vector<runtime::WorkCounter> counters;  // of each part in turn, one a thread
  std::vector<float> expected;
  int64_t part_blocks = 0, repeats = 1, turn = 0;
  bool spoil = false;

  Impl(const jit::GemmSpec& s, jit::Isa i, int64_t rows, const RotatingWeights& w,
       runtime::ThreadPool& p, const runtime::Roofs& roofs)
      : spec(s),
        isa(i),
        m(rows),
        weights(w),
        pool(p),
        operands(s, rows),
        scratch(static_cast<size_t>(p.size())),
        counters(static_cast<size_t>(kMostRepeats * p.size())) {
    const double memory = weight_bytes(spec) / (roofs.read_gbs * 1e9);
    const double likely = std::max(memory, operations(spec, m) / (roofs.int8_gops * 1e9));
    const int64_t blocks = operands.shape.nblocks, even = spec.gate ? 2 : 1;
    // Parts that all threads still share evenly.
    const int64_t least = std::min(blocks, runtime::kPiecesPerThread * 4 * pool.size());
    const auto wanted = static_cast<int64_t>(std::ceil(blocks * kPartSeconds / likely));
    part_blocks = std::clamp(wanted, least, blocks) / even * even;
    repeats = std::clamp<int64_t>(std::llround(kRepeatSeconds / likely), 1, kMostRepeats);
  }

  // Parts take turns within and across the copies, so that each comes from memory.
  Part next_part(bool whole) {
    const int64_t blocks = operands.shape.nblocks;
    const int64_t length = whole ? blocks : part_blocks, parts = blocks / length;
    const int64_t at = turn++;
    const int64_t begin = at / weights.copies() % parts * length;
    return {at % weights.copies(), begin, begin + length};
  }

  std::byte* scratch_of(int thread, size_t bytes) {
    auto& own = scratch[static_cast<size_t>(thread)];
    if (own.size() < bytes + kLine) own.resize(bytes + kLine);
    const auto over = reinterpret_cast<uintptr_t>(own.data()) % kLine;
    return own.data() + (over == 0 ? 0 : kLine - over);
  }

  // This thread's share of part i, as the executor shares a matmul.
  void work(const jit::Kernel& kernel, std::byte* own_scratch, const Part& part, size_t i,
            int thread) noexcept {
    const int64_t count = part.end - part.begin;
    const double bytes = weight_bytes(spec) * static_cast<double>(count) /
                         static_cast<double>(operands.shape.nblocks);
    const auto threads = static_cast<size_t>(pool.size());
    const runtime::WorkShare share{thread, &pool.placement(), counters.data() + i * threads};
    runtime::share_matmul(share, kernel, m, count, static_cast<int64_t>(bytes),
                          [&](const runtime::MatmulPiece& piece) {
                            jit::GemmArgs args =
                                operands.args(spec, piece.row, piece.rows, weights.view(part.copy));
                            args.nb_begin = part.begin + piece.nb_begin;
                            args.nb_end = part.begin + piece.nb_end;
                            args.scratch = own_scratch;
                            kernel.run(args);
                          });
  }

  // Runs the parts one after another on all threads. Seconds from when all have begun until all
  // have ended.
  double run(const jit::Kernel& kernel, std::span<const Part> parts) {
    const auto bytes = static_cast<size_t>(jit::gemm_scratch_bytes(spec, kernel.key.tiling));
    std::vector<std::byte*> places;
    for (int t = 0; t < pool.size(); ++t) places.push_back(scratch_of(t, bytes));
    for (auto& counter : counters) counter.taken.store(0, std::memory_order_relaxed);
    struct Call {
      Impl* self;
      const jit::Kernel* kernel;
      std::span<const Part> parts;
      std::byte* const* places;
      Clock::time_point begin, end;
    } call{this, &kernel, parts, places.data(), {}, {}};
    pool.run(
        [](void* arg, int thread) noexcept {
          auto& c = *static_cast<Call*>(arg);
          Impl& self = *c.self;
          self.pool.barrier();
          if (thread == 0) c.begin = Clock::now();
          for (size_t i = 0; i < c.parts.size(); ++i) {
            const Part& part = c.parts[i];
            self.work(*c.kernel, c.places[thread], part, i, thread);
            self.pool.barrier();
          }
          if (thread == 0) c.end = Clock::now();
        },
        &call);
    return std::chrono::duration<double>(call.end - call.begin).count();
  }

  std::string kernel_name(const jit::Tiling& tiling) const {
    return jit::name(jit::KernelKey{spec, isa, tiling});
  }

  // Output columns of the first part.
  int64_t part_columns() const {
    const int64_t columns = part_blocks * jit::kColumnBlock / (spec.gate ? 2 : 1);
    return std::min(columns, operands.columns);
  }

  // Of the first part of the first copy, into operands.c.
  void compute_result(const jit::Kernel& kernel) {
    for (int64_t row = 0; row < m; ++row) {
      std::fill_n(operands.c.data() + row * operands.columns, part_columns(), 0.0F);
    }
    const Part part{0, 0, part_blocks};
    run(kernel, {&part, 1});
  }

  // A few rows of the first and the last column blocks of the part.
  void check_with_reference(const jit::Kernel& kernel, const std::vector<float>& found) {
    const int64_t edge = spec.gate ? 2 : 1, rows = std::min(m, kReferenceRows);
    for (const int64_t begin : {int64_t{0}, part_blocks - edge}) {
      std::swap(operands.c, expected);
      operands.c.assign(found.size(), 0.0F);
      jit::GemmArgs args = operands.args(spec, 0, rows, weights.view(0));
      args.nb_begin = begin;
      args.nb_end = begin + edge;
      jit::gemm_reference(spec, args);
      std::swap(operands.c, expected);  // expected: the reference's
      const int64_t first = begin * jit::kColumnBlock / edge;
      const int64_t last = std::min(first + jit::kColumnBlock, operands.columns);
      for (int64_t row = 0; row < rows; ++row) {
        compare(kernel, "the reference", row, first, last);
      }
    }
  }

  void compare(const jit::Kernel& kernel, const std::string& with, int64_t row, int64_t first,
               int64_t last) {
    for (int64_t column = first; column < last; ++column) {
      const auto at = static_cast<size_t>(row * operands.columns + column);
      const float found = operands.c[at], wanted = expected[at];
      if (std::bit_cast<uint32_t>(found) == std::bit_cast<uint32_t>(wanted)) continue;
      fail("The kernel {} gives {} in row {}, column {} of {} rows, and {} gives {}.",
           jit::name(kernel.key), found, row, column, m, with, wanted);
    }
  }

  const jit::Kernel& make(const jit::Tiling& tiling) {
    const jit::Kernel& kernel = cache.get({spec, isa, tiling});
    if (kernel.code == nullptr) {
      fail("The kernel {} cannot be measured: it runs as its reference. {}", jit::name(kernel.key),
           cache.fallback_reason());
    }
    return kernel;
  }

  // Made, and checked once.
  const jit::Kernel& kernel(const jit::Tiling& tiling) {
    const std::string name = kernel_name(tiling);
    if (const auto known = checked.find(name); known != checked.end()) return *known->second;
    if (checked.empty()) check_default();
    const jit::Kernel& made = make(tiling);
    compute_result(made);
    if (std::exchange(spoil, false)) operands.c[0] += 1;
    const std::string with = kernel_name(jit::default_tiling(spec, isa, m));
    for (int64_t row = 0; row < m; ++row) {
      const int64_t at = row * operands.columns;
      const size_t bytes = static_cast<size_t>(part_columns()) * sizeof(float);
      if (std::memcmp(operands.c.data() + at, expected.data() + at, bytes) == 0) continue;
      compare(made, with, row, 0, part_columns());
    }
    checked.emplace(name, &made);
    return made;
  }

  void check_default() {
    const jit::Tiling tiling = jit::default_tiling(spec, isa, m);
    const jit::Kernel& made = make(tiling);
    compute_result(made);
    std::vector<float> found = operands.c;
    check_with_reference(made, found);
    expected = std::move(found);
    checked.emplace(kernel_name(tiling), &made);
  }

  double sample(const jit::Tiling& tiling, bool whole) {
    const jit::Kernel& chosen = kernel(tiling);
    std::vector<Part> parts;
    for (int64_t i = 0; i < repeats; ++i) parts.push_back(next_part(whole));
    const double share = static_cast<double>(parts[0].end - parts[0].begin) /
                         static_cast<double>(operands.shape.nblocks);
    return run(chosen, parts) / share / static_cast<double>(repeats);
  }
};

MatmulBench::MatmulBench(const jit::GemmSpec& spec, jit::Isa isa, int64_t m,
                         const RotatingWeights& weights, runtime::ThreadPool& pool,
                         const runtime::Roofs& roofs) {
  if (!jit::supports(isa)) {
    fail("Kernels for {} cannot be measured here: this machine lacks {}.", jit::isa_name(isa),
         jit::missing_features(jit::cpu(), isa));
  }
  impl_ = std::make_unique<Impl>(spec, isa, m, weights, pool, roofs);
}

MatmulBench::~MatmulBench() = default;

double MatmulBench::sample(const jit::Tiling& tiling, bool whole) {
  return impl_->sample(tiling, whole);
}

void MatmulBench::spoil_next_result() { impl_->spoil = true; }

}  // namespace nibble::tune
