#include "quant/solvers/awq_clip.h"

#include <algorithm>

#include "jit/error.h"
#include "quant/products/dense_matmul.h"
#include "quant/products/parallel_rows.h"
#include "quant/solvers/solved_matrix.h"

namespace nibble::quant {
namespace {

constexpr int64_t kClipRows = 128;

float share_of(int step) { return 1.0F - 0.05F * static_cast<float>(step); }

void clip(std::span<float> w, const Extremes& extremes, float share) {
  const float low = extremes.low * share, high = extremes.high * share;
  for (float& value : w) value = std::clamp(value, low, high);
}

double dot_in_order(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// d = Q(clip(w)) - w for each share: [kClipSteps][length].
void rounding_errors(std::span<const float> w, const jit::WeightFormat& format, RtnRange range,
                     float* d) {
  const Extremes extremes = find_extremes(w);
  std::vector<float> clipped(w.size());
  std::vector<uint8_t> q(w.size());
  for (int step = 0; step < kClipSteps; ++step) {
    std::copy(w.begin(), w.end(), clipped.begin());
    clip(clipped, extremes, share_of(step));
    const GroupResult grid = rtn_group(clipped, format, range, q);
    for (size_t i = 0; i < w.size(); ++i) {
      *d++ = static_cast<float>(q[i] - grid.zero) * grid.scale - w[i];
    }
  }
}

}  // namespace

std::vector<float> search_clips(std::span<const float> w, int64_t n, int64_t k,
                                const jit::WeightFormat& format, RtnRange range,
                                const InputStats& stats, runtime::ThreadPool& pool) {
  const GroupShape shape = group_shape(format, n, k);
  check_weights(w, n, k, pool);
  check_stats(stats, k);
  std::vector<float> shares(static_cast<size_t>(n * shape.groups));
  std::vector<float> d(static_cast<size_t>(std::min(n, kClipRows) * kClipSteps * shape.end(0)));
  std::vector<float> product(d.size());
  for (int64_t g = 0; g < shape.groups; ++g) {
    const int64_t begin = shape.begin(g), length = shape.end(g) - begin;
    const ConstMatrix block{stats.gram.data() + begin * k + begin, length, length, k};
    for (int64_t first = 0; first < n; first += kClipRows) {
      const int64_t rows = std::min(kClipRows, n - first);
      for_each_row(pool, rows, [&](int64_t row, int) {
        const float* from = w.data() + (first + row) * k + begin;
        try {
          rounding_errors({from, static_cast<size_t>(length)}, format, range,
                          d.data() + row * kClipSteps * length);
        } catch (const Error& error) {
          fail("Column {} cannot be quantized, k from {} to {}. {}", first + row, begin,
               begin + length - 1, error.what());
        }
      });
      matmul(pool, {d.data(), rows * kClipSteps, length, length}, false, block, false,
             {product.data(), rows * kClipSteps, length, length}, false);
      for_each_row(pool, rows, [&](int64_t row, int) {
        double best = 0;
        int best_step = 0;
        for (int step = 0; step < kClipSteps; ++step) {
          const int64_t at = (row * kClipSteps + step) * length;
          const double loss = dot_in_order(d.data() + at, product.data() + at, length);
          if (step > 0 && !(loss < best)) continue;
          best = loss;
          best_step = step;
        }
        shares[static_cast<size_t>((first + row) * shape.groups + g)] = share_of(best_step);
      });
    }
  }
  return shares;
}

void clip_weights(std::span<float> w, int64_t n, int64_t k, const jit::WeightFormat& format,
                  std::span<const float> shares, runtime::ThreadPool& pool) {
  const GroupShape shape = group_shape(format, n, k);
  check_weights(w, n, k, pool);
  if (shares.size() != static_cast<size_t>(n * shape.groups)) {
    fail("{} shares do not fit a matrix of {} columns in {} groups.", shares.size(), n,
         shape.groups);
  }
  for_each_row(pool, n, [&](int64_t row, int) {
    for (int64_t g = 0; g < shape.groups; ++g) {
      const auto length = static_cast<size_t>(shape.end(g) - shape.begin(g));
      const std::span<float> part(w.data() + row * k + shape.begin(g), length);
      clip(part, find_extremes(part), shares[static_cast<size_t>(row * shape.groups + g)]);
    }
  });
}

}  // namespace nibble::quant
