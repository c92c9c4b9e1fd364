// Which projection columns the Q, K and V heads hold, and how Q and K are rotated.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "graph/attention_meaning.h"
#include "graph/probe.h"
#include "jit/float16.h"

namespace nibble::graph {
namespace {

constexpr double kTight = 1e-5;
constexpr double kFarTolerance = 2e-3;  // of values of about 1: fp32 angles at far positions

}  // namespace

Operands operands_at_start(const Graph& graph, const Interpreter& interpreter,
                           const AttentionRegion& region, std::span<const float> row) {
  Feeds feeds = decoder_feeds(graph, {.tokens = 1, .past = 0, .thin_cache = false});
  feed_projections(region, 1, row, feeds);
  const ValueId wanted[] = {region.q, region.k, region.v, region.scores};
  auto arrays = interpreter.run(feeds, wanted);
  return {arrays[0], arrays[1], arrays[2], arrays[3]};
}

namespace {

// column + 1 = iota / ones; `factor` is the uniform multiple that ones show. Where it may differ
// from column to column it becomes 1 then, and `uniform` false.
std::vector<int64_t> columns_of(const Array& ones, const Array& iota, int64_t total,
                                const char* what, double& factor, bool* uniform = nullptr) {
  const auto a = ones.floats(), b = iota.floats();
  if (a.size() != b.size()) {
    throw NotAttention(fmt::format("{} has {} elements for one input and {} for another", what,
                                   a.size(), b.size()));
  }
  std::vector<int64_t> columns(a.size());
  factor = a.empty() ? 1.0 : a[0];
  for (size_t i = 0; i < a.size(); ++i) {
    const bool alike = std::fabs(a[i] - factor) <= kTight * std::fabs(factor);
    if (uniform != nullptr && a[i] != 0 && !alike) {
      *uniform = false;
    } else if (!alike || factor == 0) {
      throw NotAttention(fmt::format(
          "{} is not a uniform multiple of projection columns ({} at element {}, {} at 0)", what,
          a[i], i, factor));
    }
    const double column = static_cast<double>(b[i]) / static_cast<double>(a[i]) - 1;
    columns[i] = std::llround(column);
    if (std::fabs(column - static_cast<double>(columns[i])) > 0.05 || columns[i] < 0 ||
        columns[i] >= total) {
      throw NotAttention(fmt::format("element {} of {} is no single projection column (found {})",
                                     i, what, column));
    }
  }
  return columns;
}

// Drops the repeats of KV heads that a graph makes for grouped queries; sets kv_heads.
std::vector<int64_t> distinct_heads(const std::vector<int64_t>& columns, int64_t heads,
                                    int64_t head_dim, int64_t& kv_heads) {
  const auto d = static_cast<size_t>(head_dim);
  if (columns.empty() || columns.size() % d != 0) {
    throw NotAttention(fmt::format("{} columns are no heads of {}", columns.size(), head_dim));
  }
  const int64_t present = static_cast<int64_t>(columns.size()) / head_dim;
  std::vector<int64_t> distinct;
  std::vector<int64_t> which;
  for (int64_t h = 0; h < present; ++h) {
    const auto head = columns.begin() + h * head_dim;
    int64_t found = -1;
    for (size_t j = 0; j < distinct.size() / d; ++j) {
      if (std::equal(head, head + head_dim, distinct.begin() + static_cast<int64_t>(j * d))) {
        found = static_cast<int64_t>(j);
      }
    }
    if (found < 0) {
      found = static_cast<int64_t>(distinct.size() / d);
      distinct.insert(distinct.end(), head, head + head_dim);
    }
    which.push_back(found);
  }
  kv_heads = static_cast<int64_t>(distinct.size() / d);
  for (int64_t h = 0; h < present; ++h) {
    if (which[static_cast<size_t>(h)] != h * kv_heads / present) {
      throw NotAttention(fmt::format("query head {} uses KV head {}, not {}", h,
                                     which[static_cast<size_t>(h)], h * kv_heads / present));
    }
  }
  if (heads % kv_heads != 0) {
    throw NotAttention(
        fmt::format("{} query heads do not divide over {} KV heads", heads, kv_heads));
  }
  return distinct;
}

// cos and sin of each pair's rotation, from what it makes of x.
struct Rotation {
  std::vector<double> cos, sin;
};

size_t pair_first(const AttentionMeaning& m, size_t i) { return m.interleaved ? 2 * i : i; }
size_t pair_second(const AttentionMeaning& m, size_t i) {
  return m.interleaved ? 2 * i + 1 : i + static_cast<size_t>(m.rotary) / 2;
}

Rotation solve_rotation(const AttentionMeaning& m, std::span<const float> x,
                        std::span<const float> y) {
  Rotation rotation;
  for (size_t i = 0; i < static_cast<size_t>(m.rotary) / 2; ++i) {
    const double xa = x[pair_first(m, i)], xb = x[pair_second(m, i)];
    const double ya = y[pair_first(m, i)], yb = y[pair_second(m, i)];
    const double norm = xa * xa + xb * xb;
    rotation.cos.push_back((ya * xa + yb * xb) / norm);
    rotation.sin.push_back((yb * xa - ya * xb) / norm);
  }
  return rotation;
}

double rotation_error(const AttentionMeaning& m, const Rotation& r, std::span<const float> x,
                      std::span<const float> y) {
  double worst = 0;
  for (size_t i = 0; i < r.cos.size(); ++i) {
    const double xa = x[pair_first(m, i)], xb = x[pair_second(m, i)];
    worst = std::max(worst, std::fabs(xa * r.cos[i] - xb * r.sin[i] - y[pair_first(m, i)]));
    worst = std::max(worst, std::fabs(xb * r.cos[i] + xa * r.sin[i] - y[pair_second(m, i)]));
    worst = std::max(worst, std::fabs(r.cos[i] * r.cos[i] + r.sin[i] * r.sin[i] - 1));
  }
  return worst;
}

// Head 0 of Q at a position, for two projection rows.
struct RotationProbe {
  const Graph& graph;
  const Interpreter& interpreter;
  const AttentionRegion& region;
  size_t head_dim;
  std::vector<float> rows[2];
  std::vector<float> base[2];  // at position 0: not rotated

  std::vector<float> at(int64_t position, int which) const {
    const ProbeCall call{.tokens = 1, .past = position, .thin_cache = true};
    Feeds feeds = decoder_feeds(graph, call);
    const int64_t tokens = rows_of_call(graph, call);
    std::vector<float> row;
    for (int64_t s = 0; s < tokens; ++s) {
      row.insert(row.end(), rows[which].begin(), rows[which].end());
    }
    feed_projections(region, tokens, row, feeds);
    const Array q = interpreter.run_one(feeds, region.q);
    if (q.size() < tokens * static_cast<int64_t>(head_dim)) {
      throw NotAttention(fmt::format("Q of {} tokens is {}", tokens, to_string(q.shape)));
    }
    const auto last = q.floats().begin() + (tokens - 1) * static_cast<int64_t>(head_dim);
    return {last, last + static_cast<int64_t>(head_dim)};
  }
};

int64_t changed_dimensions(const RotationProbe& probe, int64_t position) {
  size_t last = 0;
  for (int which = 0; which < 2; ++which) {
    const auto y = probe.at(position, which);
    for (size_t d = 0; d < y.size(); ++d) {
      if (std::fabs(y[d] - probe.base[which][d]) > 2e-6F * std::fabs(probe.base[which][d])) {
        last = std::max(last, d + 1);
      }
    }
  }
  return static_cast<int64_t>((last + 1) / 2 * 2);
}

float to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000U);
}

float to_f16(float value) { return jit::f16_to_f32(jit::f32_to_f16(value)); }

// How far off cosines and sines are that all are 16-bit floats; 0 when they are not.
double table_error(const Rotation& rotation) {
  const auto all = [&](float (*rounded)(float)) {
    const auto fits = [&](double x) {
      return std::fabs(x - rounded(static_cast<float>(x))) < 2e-6;
    };
    return std::all_of(rotation.cos.begin(), rotation.cos.end(), fits) &&
           std::all_of(rotation.sin.begin(), rotation.sin.end(), fits);
  };
  if (all(to_bf16)) return 0x1p-8;
  return all(to_f16) ? 0x1p-11 : 0;
}

void find_style(const RotationProbe& probe, AttentionMeaning& meaning) {
  const auto y0 = probe.at(1, 0), y1 = probe.at(1, 1);
  double best = 1e9;
  bool interleaved = false;
  for (bool style : {false, true}) {
    meaning.interleaved = style;
    const Rotation r = solve_rotation(meaning, probe.base[0], y0);
    const double error = std::max(rotation_error(meaning, r, probe.base[0], y0),
                                  rotation_error(meaning, r, probe.base[1], y1));
    if (error < best) {
      best = error;
      interleaved = style;
    }
  }
  meaning.interleaved = interleaved;
  meaning.table_error = table_error(solve_rotation(meaning, probe.base[0], y0));
  if (best > std::max(1e-4, 4 * meaning.table_error)) {
    throw NotAttention(fmt::format(
        "positions change Q, but not by rotating pairs of dimensions (error {:.2g})", best));
  }
}

// Angles at growing positions refine the frequencies; each estimate resolves the next one's turns.
std::vector<double> estimate_frequencies(const RotationProbe& probe,
                                         const AttentionMeaning& meaning, int64_t furthest) {
  std::vector<double> frequency(static_cast<size_t>(meaning.rotary) / 2, 0.0);
  for (int64_t position = 1; position <= furthest; position *= 4) {
    const Rotation r = solve_rotation(meaning, probe.base[0], probe.at(position, 0));
    for (size_t i = 0; i < frequency.size(); ++i) {
      const double measured = std::atan2(r.sin[i], r.cos[i]);
      const double expected = frequency[i] * static_cast<double>(position);
      const double turns =
          position == 1 ? 0 : std::round((expected - measured) / (2 * std::numbers::pi));
      frequency[i] = (measured + turns * 2 * std::numbers::pi) / static_cast<double>(position);
    }
  }
  return frequency;
}

// Whether these frequencies rotate head 0 as the graph does, near and far: a model that scales
// positions beyond some length shows it there.
bool rotates_like(const RotationProbe& probe, const AttentionMeaning& meaning,
                  const std::vector<float>& inv_freq, int64_t furthest) {
  for (int64_t position : {int64_t{3}, furthest / 7, furthest / 3, furthest / 2 + 1, furthest}) {
    if (position < 1 || position > furthest) continue;
    const auto y = probe.at(position, 1);
    Rotation expected;
    for (float f : inv_freq) {
      const auto angle = static_cast<double>(static_cast<float>(position) * f);
      expected.cos.push_back(std::cos(angle));
      expected.sin.push_back(std::sin(angle));
    }
    const double tolerance = std::max(kFarTolerance, 4 * meaning.table_error);
    if (rotation_error(meaning, expected, probe.base[1], y) > tolerance) return false;
    for (size_t d = static_cast<size_t>(meaning.rotary); d < y.size(); ++d) {
      if (std::fabs(y[d] - probe.base[1][d]) > tolerance) return false;
    }
  }
  return true;
}

// The frequencies as the graph holds them, else as base^(-2i/rotary) for a round base, else as
// measured: the first that rotates as the graph does.
// `unsure`: how far off measured frequencies may be.
std::vector<std::vector<float>> frequency_candidates(const Graph& graph,
                                                     const AttentionRegion& region,
                                                     const std::vector<double>& measured,
                                                     double unsure) {
  const auto count = static_cast<int64_t>(measured.size());
  const auto close = [&](const std::vector<float>& values) {
    for (size_t i = 0; i < measured.size(); ++i) {
      if (std::fabs(values[i] - measured[i]) > 1e-4 * std::fabs(measured[i]) + 1e-8 + unsure)
        return false;
    }
    return true;
  };
  std::vector<std::vector<float>> candidates;
  for (int32_t index : region.nodes) {
    for (ValueId input : graph.nodes[static_cast<size_t>(index)].inputs) {
      const TensorData* tensor = input == kNoValue ? nullptr : graph.tensor(input);
      if (tensor == nullptr || tensor->dtype == DType::i64) continue;
      if (element_count(tensor->shape) != count) continue;
      std::vector<float> values = to_f32(*tensor);
      if (close(values)) candidates.push_back(std::move(values));
    }
  }
  if (count > 1) {
    const double pairs = static_cast<double>(count);
    // The slowest pair tells the base best, unless it is hardly measurable; then the fastest.
    for (const double base :
         {std::pow(measured.back(), -pairs / (pairs - 1)), std::pow(measured[1], -pairs)}) {
      const double digits = std::pow(10.0, std::floor(std::log10(base)) - 1);
      const double round_base = std::round(base / digits) * digits;
      std::vector<float> geometric(measured.size());
      for (size_t i = 0; i < geometric.size(); ++i) {  // in fp32, as models compute their tables
        const float exponent = static_cast<float>(i) / static_cast<float>(count);
        geometric[i] = 1.0F / std::pow(static_cast<float>(round_base), exponent);
      }
      if (close(geometric)) candidates.push_back(std::move(geometric));
    }
  }
  candidates.emplace_back(measured.begin(), measured.end());
  return candidates;
}

}  // namespace

int64_t total_width(const AttentionRegion& region) {
  int64_t total = 0;
  for (int64_t width : region.widths) total += width;
  return total;
}

void feed_projections(const AttentionRegion& region, int64_t tokens, std::span<const float> values,
                      Feeds& feeds) {
  const int64_t total = total_width(region);
  int64_t first = 0;
  for (size_t p = 0; p < region.projections.size(); ++p) {
    const int64_t width = region.widths[p];
    std::vector<float> rows;
    for (int64_t s = 0; s < tokens; ++s) {
      const auto begin = values.begin() + s * total + first;
      rows.insert(rows.end(), begin, begin + width);
    }
    feeds[region.projections[p]] = Array::of({1, tokens, width}, std::move(rows));
    first += width;
  }
}

void find_columns(const Graph& graph, const Interpreter& interpreter, const AttentionRegion& region,
                  AttentionMeaning& meaning) {
  const int64_t total = total_width(region);
  const std::vector<float> ones(static_cast<size_t>(total), 1.0F);
  std::vector<float> iota(ones.size());
  for (size_t i = 0; i < iota.size(); ++i) iota[i] = static_cast<float>(i + 1);
  const Operands a = operands_at_start(graph, interpreter, region, ones);
  const Operands b = operands_at_start(graph, interpreter, region, iota);
  meaning.heads = a.scores.size();
  if (meaning.heads == 0 || a.q.size() == 0 || a.q.size() % meaning.heads != 0) {
    throw NotAttention(
        fmt::format("Q has {} elements for {} score rows", a.q.size(), meaning.heads));
  }
  meaning.head_dim = a.q.size() / meaning.heads;
  double v_factor = 1;
  bool* const uniform = region.q_norms.empty() ? nullptr : &meaning.uniform;
  meaning.q_columns = columns_of(a.q, b.q, total, "Q", meaning.q_factor, uniform);
  meaning.k_elements = columns_of(a.k, b.k, total, "K", meaning.k_factor, uniform);
  const auto v = columns_of(a.v, b.v, total, "V", v_factor);
  if (!meaning.uniform) meaning.q_factor = meaning.k_factor = 1;
  int64_t v_heads = 0;
  meaning.k_columns =
      distinct_heads(meaning.k_elements, meaning.heads, meaning.head_dim, meaning.kv_heads);
  meaning.v_columns = distinct_heads(v, meaning.heads, meaning.head_dim, v_heads);
  if (v_heads != meaning.kv_heads || std::fabs(v_factor - 1) > kTight) {
    throw NotAttention(fmt::format("{} key heads but {} value heads (values times {})",
                                   meaning.kv_heads, v_heads, v_factor));
  }
  meaning.scale = static_cast<float>(meaning.q_factor * meaning.k_factor);
}

void find_rotation(const Graph& graph, const Interpreter& interpreter,
                   const AttentionRegion& region, AttentionMeaning& meaning) {
  RotationProbe probe{graph, interpreter, region, static_cast<size_t>(meaning.head_dim), {}, {}};
  for (int which = 0; which < 2; ++which) {
    auto row =
        probe_values(static_cast<size_t>(total_width(region)), 11 + static_cast<uint32_t>(which));
    for (float& value : row) value = value < 0 ? value * 0.5F - 0.5F : value * 0.5F + 0.5F;
    probe.rows[which] = std::move(row);
    probe.base[which] = probe.at(0, which);
  }
  const int64_t furthest = furthest_position(graph);
  meaning.rotary = std::max(changed_dimensions(probe, std::min<int64_t>(furthest, 512)),
                            changed_dimensions(probe, 1));
  if (meaning.rotary == 0) return;
  if (meaning.rotary > meaning.head_dim) {
    throw NotAttention(fmt::format("the last of {} head dimensions changes with the position alone",
                                   meaning.head_dim));
  }
  find_style(probe, meaning);
  const auto measured = estimate_frequencies(probe, meaning, furthest);
  const double unsure =
      4 * meaning.table_error / static_cast<double>(std::max<int64_t>(1, furthest));
  for (std::vector<float>& candidate : frequency_candidates(graph, region, measured, unsure)) {
    if (!rotates_like(probe, meaning, candidate, furthest)) continue;
    meaning.inv_freq = std::move(candidate);
    return;
  }
  throw NotAttention(
      fmt::format("no constant frequencies rotate Q alike at all positions up to {}", furthest));
}

}  // namespace nibble::graph
