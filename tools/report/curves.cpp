#include "tools/report/curves.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "jit/error.h"
#include "runtime/clock.h"

namespace nibble::report {
namespace {

constexpr size_t kTokensARound = 3;

void need_room(const runtime::Decoder& decoder, int64_t positions) {
  if (positions > decoder.context_length()) {
    fail("Measuring this needs {} positions, but the context holds {}.", positions,
         decoder.context_length());
  }
}

// The roof beside a round: the mean of what was measured before and after it.
template <typename Measure>
class RoofBeside {
 public:
  explicit RoofBeside(Measure measure) : measure_(std::move(measure)), before_(measure_()) {}
  double end_round() {
    const double after = measure_();
    return (std::exchange(before_, after) + after) / 2;
  }

 private:
  Measure measure_;
  double before_;
};

}  // namespace

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> ids;
  uint64_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    ids.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocabulary)));
  }
  return ids;
}

void fill(runtime::Decoder& decoder, int64_t context) {
  const int64_t missing = context - decoder.position();
  if (missing > 0) decoder.forward(random_ids(missing, decoder.vocab_size()));
}

namespace {

// Seconds of each of `ids`, decoded one by one.
std::vector<double> token_seconds(runtime::Decoder& decoder, std::span<const int32_t> ids,
                                  const Pause& pause) {
  std::vector<double> seconds;
  for (const int32_t id : ids) {
    pause();
    const double start = runtime::seconds_now();
    decoder.forward(std::span(&id, 1));
    seconds.push_back(runtime::seconds_now() - start);
  }
  return seconds;
}

}  // namespace

double decode_seconds(runtime::Decoder& decoder, int64_t steps, const Pause& pause) {
  return median(token_seconds(decoder, random_ids(steps, decoder.vocab_size()), pause));
}

DecodeRounds decode_rounds(runtime::Decoder& decoder, int64_t steps, int64_t bytes_per_token,
                           runtime::ReadRoof& roof, const Pause& pause) {
  const auto ids = random_ids(steps, decoder.vocab_size());
  std::span<const int32_t> left(ids);
  std::vector<double> seconds, roofs, shares;
  RoofBeside beside([&] { return roof.pass(); });
  while (!left.empty()) {
    const auto round = left.first(std::min(left.size(), kTokensARound));
    left = left.subspan(round.size());
    const auto times = token_seconds(decoder, round, pause);
    roofs.push_back(beside.end_round());
    shares.push_back(static_cast<double>(bytes_per_token) / median(times) / roofs.back() * 1e-9);
    seconds.insert(seconds.end(), times.begin(), times.end());
  }
  return {median(std::move(seconds)), median(std::move(roofs)), median(std::move(shares))};
}

PrefillRounds prefill_rounds(runtime::Decoder& decoder, std::span<const int32_t> ids,
                             double operations_per_id, runtime::ThreadPool& pool, double seconds,
                             const Pause& pause) {
  std::vector<double> rates, roofs, shares;
  RoofBeside beside([&] { return runtime::dot_roof(pool); });
  double left = seconds;
  for (int round = 0; round == 0 || (round < kPromptRounds && left > 0); ++round) {
    pause();
    decoder.reset();
    const double start = runtime::seconds_now();
    decoder.forward(ids);
    const double took = runtime::seconds_now() - start;
    roofs.push_back(beside.end_round());
    rates.push_back(static_cast<double>(ids.size()) / took);
    shares.push_back(operations_per_id * rates.back() / roofs.back() * 1e-9);
    left -= took;
  }
  return {median(std::move(rates)), median(std::move(roofs)), median(std::move(shares))};
}

std::vector<ContextPoint> context_curve(runtime::Decoder& decoder,
                                        std::span<const int64_t> contexts, int64_t steps,
                                        const Pause& pause) {
  std::vector<ContextPoint> points;
  decoder.reset();
  for (const int64_t context : contexts) {
    need_room(decoder, context + steps);
    pause();
    fill(decoder, context);
    const int64_t middle = decoder.position() + steps / 2;
    points.push_back({middle, decode_seconds(decoder, steps, pause)});
  }
  return points;
}

std::vector<RowsPoint> rows_curve(runtime::Decoder& decoder, std::span<const int64_t> rows,
                                  int64_t rounds, const Pause& pause) {
  if (rows.empty()) return {};
  need_room(decoder, decoder.position() + rows_needed(rows, rounds));
  const int64_t most = *std::max_element(rows.begin(), rows.end());
  const auto ids = random_ids(most, decoder.vocab_size());
  std::vector<float> logits(static_cast<size_t>(most * decoder.vocab_size()));
  std::vector<std::vector<double>> seconds(rows.size());
  for (int64_t round = 0; round <= rounds; ++round) {
    for (size_t i = 0; i < rows.size(); ++i) {
      pause();
      const auto m = static_cast<size_t>(rows[i]);
      const auto out = std::span(logits).first(m * static_cast<size_t>(decoder.vocab_size()));
      const double start = runtime::seconds_now();
      decoder.forward_all(std::span(ids).first(m), out);
      if (round > 0)
        seconds[i].push_back(runtime::seconds_now() - start);  // the first round warms up
    }
  }
  std::vector<RowsPoint> points;
  for (size_t i = 0; i < rows.size(); ++i) {
    std::vector<double> ratios;
    for (size_t r = 0; r < seconds[i].size(); ++r) ratios.push_back(seconds[i][r] / seconds[0][r]);
    points.push_back({rows[i], median(seconds[i]), median(std::move(ratios))});
  }
  return points;
}

int64_t rows_needed(std::span<const int64_t> rows, int64_t rounds) {
  return (rounds + 1) * std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

}  // namespace nibble::report
