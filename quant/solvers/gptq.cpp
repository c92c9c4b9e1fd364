#include "quant/solvers/gptq.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "jit/error.h"
#include "quant/formats/group_grid.h"
#include "quant/products/dense_matmul.h"
#include "quant/products/parallel_rows.h"

namespace nibble::quant {
namespace {

constexpr int64_t kBatch = 128;  // positions whose errors reach those after them in one product
constexpr int64_t kTile = 8;     // rows that share a row of U in the cache

struct PositionBatch {
  int64_t begin, end;  // positions
};

// One matrix on its way. Everything is by positions but `solved` and what says otherwise.
struct GptqJob {
  const GroupShape& shape;
  const GptqOptions& options;
  const GptqFactor& factor;
  SolvedMatrix& solved;
  std::vector<float> w;        // [n][k], what is still to be rounded
  std::vector<float> errors;   // [n][kBatch], -e of the batch
  std::vector<float> weights;  // [k], for a search of ranges

  int64_t group_at(int64_t p) const { return factor.order[static_cast<size_t>(p)] / shape.group; }
  // Only for orders that keep groups together.
  bool starts_group(int64_t p) const { return p == 0 || group_at(p) != group_at(p - 1); }
  int64_t end_of_group(int64_t p) const {
    const int64_t g = group_at(p);
    return p + shape.end(g) - shape.begin(g);
  }
};

void cut(int64_t begin, int64_t end, std::vector<PositionBatch>& batches) {
  for (; begin < end; begin += kBatch) batches.push_back({begin, std::min(end, begin + kBatch)});
}

// As many whole groups as fit, or a longer one in parts: a group begins with its batch unless it
// ends with it too, so that all of its weights are up to date when it begins.
std::vector<PositionBatch> make_batches(const GptqJob& job) {
  const int64_t k = job.shape.k;
  std::vector<PositionBatch> batches;
  if (job.options.order == ChannelOrder::full) {
    cut(0, k, batches);
    return batches;
  }
  int64_t begin = 0;
  for (int64_t p = 0; p < k; p = job.end_of_group(p)) {
    const int64_t end = job.end_of_group(p);
    if (end - begin <= kBatch) continue;
    cut(begin, p, batches);
    begin = p;
    if (end - begin <= kBatch) continue;
    cut(begin, end, batches);
    begin = end;
  }
  cut(begin, k, batches);
  return batches;
}

void set_grid(GptqJob& job, int64_t row, int64_t g, std::span<const float> w,
              std::span<const float> weight) {
  try {
    const GroupResult grid = choose_range(w, job.solved.format, job.options.range, weight);
    const auto at = static_cast<size_t>(row * job.shape.groups + g);
    job.solved.scales[at] = grid.scale;
    job.solved.zeros[at] = grid.zero;
  } catch (const Error& error) {
    fail("Column {} cannot be quantized, k from {} to {}. {}", row, job.shape.begin(g),
         job.shape.end(g) - 1, error.what());
  }
}

std::span<const float> weights_of(const std::vector<float>& weights, int64_t begin, int64_t end) {
  if (weights.empty()) return {};
  return std::span(weights).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
}

// All grids from the weights as they were, dead channels left out.
void set_static_grids(GptqJob& job, std::span<const float> w, const InputStats& stats,
                      runtime::ThreadPool& pool) {
  const std::vector<float> weights = diagonal_weights(stats);
  for_each_row(pool, job.solved.n, [&](int64_t row, int) {
    std::vector<float> group;
    for (int64_t g = 0; g < job.shape.groups; ++g) {
      const int64_t begin = job.shape.begin(g), end = job.shape.end(g);
      const float* from = w.data() + row * job.shape.k;
      group.assign(from + begin, from + end);
      for (int64_t i = begin; i < end; ++i) {
        if (job.options.zero_dead && job.factor.dead[static_cast<size_t>(i)]) {
          group[static_cast<size_t>(i - begin)] = 0;
        }
      }
      set_grid(job, row, g, group, weights_of(weights, begin, end));
    }
  });
}

// One position of one row: rounds it and takes its error off the rest of the batch.
void round_position(GptqJob& job, int64_t row, int64_t p, const PositionBatch& batch) {
  const int64_t k = job.shape.k, g = job.group_at(p);
  float* w = job.w.data() + row * k;
  if (!job.options.static_groups && job.starts_group(p)) {
    const int64_t end = job.end_of_group(p);
    set_grid(job, row, g, {w + p, static_cast<size_t>(end - p)}, weights_of(job.weights, p, end));
  }
  const auto at = static_cast<size_t>(row * job.shape.groups + g);
  const float scale = job.solved.scales[at];
  const uint8_t zero = job.solved.zeros[at];
  const int q = round_to_grid(w[p], scale, grid_limits(job.solved.format, zero));
  job.solved.q[static_cast<size_t>(row * k + job.factor.order[static_cast<size_t>(p)])] =
      static_cast<uint8_t>(q + zero);
  const float* u = job.factor.u.data() + p * k;
  const float error = (w[p] - static_cast<float>(q) * scale) / u[p];
  job.errors[static_cast<size_t>(row * kBatch + p - batch.begin)] = -error;
  for (int64_t j = p + 1; j < batch.end; ++j) w[j] -= error * u[j];
}

void solve_batch(GptqJob& job, const PositionBatch& batch, runtime::ThreadPool& pool) {
  const int64_t n = job.solved.n, k = job.shape.k;
  for_each_row(pool, (n + kTile - 1) / kTile, [&](int64_t tile, int) {
    for (int64_t p = batch.begin; p < batch.end; ++p) {
      for (int64_t row = tile * kTile; row < std::min(n, (tile + 1) * kTile); ++row) {
        round_position(job, row, p, batch);
      }
    }
  });
  const int64_t length = batch.end - batch.begin, rest = k - batch.end;
  if (rest == 0) return;
  matmul(pool, {job.errors.data(), n, length, kBatch}, false,
         {job.factor.u.data() + batch.begin * k + batch.end, length, rest, k}, false,
         {job.w.data() + batch.end, n, rest, k}, true);
}

// The weights by positions.
void take_weights(GptqJob& job, std::span<const float> w, runtime::ThreadPool& pool) {
  const int64_t k = job.shape.k;
  job.w.resize(w.size());
  for_each_row(pool, job.solved.n, [&](int64_t row, int) {
    for (int64_t p = 0; p < k; ++p) {
      const int64_t channel = job.factor.order[static_cast<size_t>(p)];
      const bool dropped = job.options.zero_dead && job.factor.dead[static_cast<size_t>(channel)];
      job.w[static_cast<size_t>(row * k + p)] =
          dropped ? 0.0F : w[static_cast<size_t>(row * k + channel)];
    }
  });
}

// What an error at each position costs, over the largest of them.
std::vector<float> cost_of_errors(const GptqFactor& factor, int64_t k) {
  std::vector<float> costs(static_cast<size_t>(k));
  for (int64_t p = 0; p < k; ++p) {
    const float u = factor.u[static_cast<size_t>(p * (k + 1))];
    costs[static_cast<size_t>(p)] = 1 / (u * u);
  }
  const float largest = *std::max_element(costs.begin(), costs.end());
  for (float& cost : costs) cost /= largest;
  return costs;
}

}  // namespace

GptqResult solve_gptq(std::span<const float> w, int64_t n, int64_t k,
                      const jit::WeightFormat& format, const GptqOptions& options,
                      const InputStats& stats, runtime::ThreadPool& pool) {
  const GroupShape shape = group_shape(format, n, k);
  if (options.order == ChannelOrder::full && !options.static_groups) {
    fail("Channels in full order leave their groups, which then must be static.");
  }
  check_weights(w, n, k, pool);
  // Cubes of k for the factor, at about half the speed of the n k^2 that follow.
  const double factored = 1.5 * static_cast<double>(k) / static_cast<double>(3 * k / 2 + n);
  const GptqFactor factor = factor_inputs(stats, shape, options.order, options.damping, pool,
                                          part_of(options.steps, 0, factored));
  GptqResult result{.matrix = make_solved(format, n, k),
                    .damping = factor.damping,
                    .retries = factor.retries,
                    .floored = factor.floored,
                    .dead = std::count(factor.dead.begin(), factor.dead.end(), true)};
  GptqJob job{.shape = shape,
              .options = options,
              .factor = factor,
              .solved = result.matrix,
              .w = {},
              .errors = {},
              .weights = cost_of_errors(factor, k)};
  take_weights(job, w, pool);
  job.errors.resize(static_cast<size_t>(n * kBatch));
  if (options.static_groups) set_static_grids(job, w, stats, pool);
  for (const PositionBatch& batch : make_batches(job)) {
    const double left = 1 - static_cast<double>(batch.begin) / static_cast<double>(k);
    tell(options.steps, factored + (1 - factored) * (1 - left * left));
    solve_batch(job, batch, pool);
  }
  return result;
}

}  // namespace nibble::quant
