#include "quant/blocks/norm_gradient.h"

#include <cmath>

namespace nibble::quant {

// With u = (x - mean) r, r = 1 / sqrt(mean of squares + epsilon) and g = weight dy:
// dx = r (g - mean(g) - u mean(u g)), without the means of x and g where nothing is centred.
void norm_gradient(const float* x, const float* weight, const float* dy, int64_t n, float epsilon,
                   bool centre, float* dx) noexcept {
  const auto count = static_cast<double>(n);
  double mean = 0, squares = 0, sum = 0, along = 0;
  if (centre) {
    for (int64_t i = 0; i < n; ++i) mean += x[i];
    mean /= count;
  }
  for (int64_t i = 0; i < n; ++i) {
    const double d = x[i] - mean, g = static_cast<double>(weight[i]) * dy[i];
    squares += d * d;
    along += d * g;
    sum += g;
  }
  const double r = 1 / std::sqrt(squares / count + epsilon);
  const double share = along * r * r / count, mean_g = centre ? sum / count : 0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = x[i] - mean, g = static_cast<double>(weight[i]) * dy[i];
    dx[i] += static_cast<float>(r * (g - mean_g - d * share));
  }
}

}  // namespace nibble::quant
