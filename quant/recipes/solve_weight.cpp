#include "quant/recipes/solve_weight.h"

#include <cmath>
#include <vector>

#include "jit/error.h"
#include "quant/solvers/awq_clip.h"
#include "quant/solvers/gptq.h"
#include "quant/solvers/range_search.h"
#include "quant/solvers/sign_round_gram.h"

namespace nibble::quant {
namespace {

RangeOptions plain_range(RtnRange range) {
  return {.method = range == RtnRange::full ? RangeMethod::full : RangeMethod::plain};
}

// Rounded to nearest, within the ranges that AWQ clips to.
SolvedMatrix solve_clipped(const Recipe& recipe, const WeightProblem& p,
                           runtime::ThreadPool& pool) {
  const auto shares = search_clips(p.w, p.n, p.k, p.format, recipe.formats.range, p.inputs, pool);
  std::vector<float> clipped(p.w.begin(), p.w.end());
  clip_weights(clipped, p.n, p.k, p.format, shares, pool);
  return solve_rtn(clipped, p.n, p.k, p.format, plain_range(recipe.formats.range), nullptr, pool);
}

double error_sum(const WeightProblem& p, const SolvedMatrix& solved, runtime::ThreadPool& pool,
                 const Steps& steps) {
  const std::vector<float> values = dequantize(solved, pool);
  return output_error_sum(p.w, values, p.n, p.k, p.inputs.gram, pool, steps);
}

}  // namespace

SolvedMatrix solve_weight(const Recipe& recipe, const WeightProblem& p, runtime::ThreadPool& pool,
                          const Steps& steps) {
  switch (recipe.rounding) {
    case Rounding::nearest:
      if (recipe.clip) return solve_clipped(recipe, p, pool);
      return solve_rtn(p.w, p.n, p.k, p.format, plain_range(recipe.formats.range), nullptr, pool);
    case Rounding::search:
      return solve_rtn(p.w, p.n, p.k, p.format, {.method = RangeMethod::search}, &p.inputs, pool);
    case Rounding::gptq: {
      const GptqOptions options{
          .order = recipe.act_order ? ChannelOrder::hybrid : ChannelOrder::natural,
          .static_groups = recipe.static_groups,
          .range = {.method = RangeMethod::search},
          .damping = recipe.damping,
          // A channel that was silent in a short text need not be so for ever.
          .zero_dead = false,
          .steps = steps};
      return solve_gptq(p.w, p.n, p.k, p.format, options, p.inputs, pool).matrix;
    }
    case Rounding::sign_round:
      return solve_sign_round(p.w, p.n, p.k, p.format,
                              {.iterations = recipe.iterations, .steps = steps}, p.inputs, {}, pool)
          .matrix;
    case Rounding::sign_round_blocks:
      break;
  }
  fail("The method {} does not round one weight by itself.", method_name(recipe));
}

WeightErrors weight_errors(const WeightProblem& p, const SolvedMatrix& solved, RtnRange range,
                           runtime::ThreadPool& pool, const Steps& steps) {
  constexpr double kThird = 1.0 / 3;
  const double all = output_square(p.w, p.n, p.k, p.inputs.gram, pool, part_of(steps, 0, kThird));
  const auto relative = [&](double sum) { return sum == 0 ? 0 : std::sqrt(sum / all); };
  WeightErrors errors;
  errors.error = relative(error_sum(p, solved, pool, part_of(steps, kThird, 2 * kThird)));
  const SolvedMatrix nearest =
      solve_rtn(p.w, p.n, p.k, p.format, plain_range(range), nullptr, pool);
  errors.nearest = relative(error_sum(p, nearest, pool, part_of(steps, 2 * kThird, 1)));
  return errors;
}

}  // namespace nibble::quant
