#include "quant/scores/perplexity.h"

#include <algorithm>
#include <cmath>

#include "jit/error.h"
#include "runtime/clock.h"

namespace nibble::quant {
namespace {

void check(const runtime::Decoder& decoder, std::span<const int32_t> ids,
           const Protocol& protocol) {
  if (protocol.window > decoder.context_length()) {
    fail("Windows of {} positions were asked for, but the model's context holds {}.",
         protocol.window, decoder.context_length());
  }
  // The decoder looks at what it is fed; a window's last target is not.
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < decoder.vocab_size()) continue;
    fail("The text's id {} at index {} is outside this model's vocabulary of {} ids.", ids[i], i,
         decoder.vocab_size());
  }
}

// Feeds a decoder chunk by chunk and keeps a chunk's logits.
class Reader {
 public:
  explicit Reader(runtime::Decoder& decoder)
      : decoder_(decoder), vocabulary_(static_cast<size_t>(decoder.vocab_size())) {}

  void read(const Chunk& chunk) {
    const double start = runtime::seconds_now();
    if (chunk.begins_window) decoder_.reset();
    if (chunk.targets.empty()) {
      decoder_.forward(chunk.fed);
    } else {
      logits_.resize(chunk.fed.size() * vocabulary_);
      decoder_.forward_all(chunk.fed, logits_);
    }
    seconds_ += runtime::seconds_now() - start;
  }
  std::span<const float> row(int64_t row) const {
    return std::span(logits_).subspan(static_cast<size_t>(row) * vocabulary_, vocabulary_);
  }
  double seconds() const { return seconds_; }

 private:
  runtime::Decoder& decoder_;
  size_t vocabulary_;
  std::vector<float> logits_;
  double seconds_ = 0;
};

template <typename Body>
void for_rows(runtime::ThreadPool* pool, int64_t count, Body&& body) {
  const auto rows = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  };
  if (pool == nullptr) return rows(0, count);
  pool->parallel_for(count, [&](int64_t begin, int64_t end, int) { rows(begin, end); });
}

// NaN is how summarize() says that logits are damaged.
void check_finite(std::span<const double> nll, const Chunk& chunk, const char* whose) {
  for (size_t i = 0; i < nll.size(); ++i) {
    if (!std::isnan(nll[i])) continue;
    fail("The {} logits before the text's id at index {} hold NaN or an infinity.", whose,
         chunk.first_target + static_cast<int64_t>(i));
  }
}

// The scored chunks of a text, each with its place in the results.
template <typename Visit>
void for_each_scored(std::span<const int32_t> ids, const Protocol& protocol, int64_t vocabulary,
                     const Scoring& scoring, Visit&& visit) {
  const int64_t total = scored_count(plan_windows(static_cast<int64_t>(ids.size()), protocol));
  for_each_chunk(ids, protocol, rows_at_a_time(vocabulary), [&](const Chunk& chunk) {
    visit(chunk);
    if (scoring.progress) {
      scoring.progress(chunk.scored_before + static_cast<int64_t>(chunk.targets.size()), total);
    }
  });
}

double nll_of(const RowSummary& summary, std::span<const float> logits, int32_t id) {
  return -summary.log_prob(logits[static_cast<size_t>(id)]);
}

// What a base says before one scored id.
struct BaseRow {
  std::span<const float> logits;
  RowSummary summary;
};

// read(chunk) makes ready what row(chunk, i) then answers on any thread.
template <typename ReadBase, typename BaseRowOf>
Comparison compare_by(runtime::Decoder& decoder, std::span<const int32_t> ids,
                      const Protocol& protocol, const Scoring& scoring, ReadBase&& read_base,
                      BaseRowOf&& base_row) {
  const double start = runtime::seconds_now();
  check(decoder, ids, protocol);
  Comparison out;
  Reader reader(decoder);
  std::vector<uint8_t> same;
  for_each_scored(ids, protocol, decoder.vocab_size(), scoring, [&](const Chunk& chunk) {
    reader.read(chunk);
    read_base(chunk);
    const auto count = static_cast<int64_t>(chunk.targets.size());
    const auto end = static_cast<size_t>(chunk.scored_before + count);
    out.model.nll.resize(end);
    out.base_nll.resize(end);
    out.kl.resize(end);
    same.resize(end);
    for_rows(scoring.pool, count, [&](int64_t i) {
      const auto at = static_cast<size_t>(chunk.scored_before + i);
      const int32_t target = chunk.targets[static_cast<size_t>(i)];
      const auto logits = reader.row(i);
      const RowSummary summary = summarize(logits);
      const BaseRow base = base_row(chunk, i);
      out.model.nll[at] = nll_of(summary, logits, target);
      out.base_nll[at] = nll_of(base.summary, base.logits, target);
      out.kl[at] = kl_divergence(base.logits, base.summary, logits, summary);
      same[at] = summary.best == base.summary.best ? 1 : 0;
    });
    const auto before = static_cast<size_t>(chunk.scored_before);
    check_finite(std::span(out.model.nll).subspan(before), chunk, "model's");
    check_finite(std::span(out.base_nll).subspan(before), chunk, "base's");
  });
  out.same_best = std::count(same.begin(), same.end(), uint8_t{1});
  out.model.decoder_seconds = reader.seconds();
  out.model.seconds = runtime::seconds_now() - start;
  return out;
}

}  // namespace

Scores score(runtime::Decoder& decoder, std::span<const int32_t> ids, const Protocol& protocol,
             const Scoring& scoring) {
  const double start = runtime::seconds_now();
  check(decoder, ids, protocol);
  Scores out;
  Reader reader(decoder);
  for_each_scored(ids, protocol, decoder.vocab_size(), scoring, [&](const Chunk& chunk) {
    reader.read(chunk);
    const auto before = static_cast<size_t>(chunk.scored_before);
    out.nll.resize(before + chunk.targets.size());
    for_rows(scoring.pool, static_cast<int64_t>(chunk.targets.size()), [&](int64_t i) {
      const auto row = reader.row(i);
      out.nll[before + static_cast<size_t>(i)] =
          nll_of(summarize(row), row, chunk.targets[static_cast<size_t>(i)]);
    });
    check_finite(std::span(out.nll).subspan(before), chunk, "model's");
  });
  out.decoder_seconds = reader.seconds();
  out.seconds = runtime::seconds_now() - start;
  return out;
}

Comparison compare(runtime::Decoder& model, runtime::Decoder& base, std::span<const int32_t> ids,
                   const Protocol& protocol, const Scoring& scoring) {
  if (model.vocab_size() != base.vocab_size()) {
    fail("The model knows {} ids and the base {}; only models of one vocabulary can be compared.",
         model.vocab_size(), base.vocab_size());
  }
  check(base, ids, protocol);
  Reader reader(base);
  Comparison out = compare_by(
      model, ids, protocol, scoring, [&](const Chunk& chunk) { reader.read(chunk); },
      [&](const Chunk&, int64_t i) {
        const auto logits = reader.row(i);
        return BaseRow{logits, summarize(logits)};
      });
  out.model.decoder_seconds += reader.seconds();
  return out;
}

BaseScores score_base(runtime::Decoder& base, std::span<const int32_t> ids,
                      const Protocol& protocol, const Scoring& scoring) {
  check(base, ids, protocol);
  BaseScores out(ids, protocol, base.vocab_size());
  Reader reader(base);
  for_each_scored(ids, protocol, base.vocab_size(), scoring, [&](const Chunk& chunk) {
    reader.read(chunk);
    for (size_t i = 0; i < chunk.targets.size(); ++i) {
      out.add_row(reader.row(static_cast<int64_t>(i)));
    }
  });
  return out;
}

Comparison compare(runtime::Decoder& model, const BaseScores& base, const Scoring& scoring) {
  if (!base.complete()) {
    fail("Of the base's {} rows of logits only {} are there.", base.rows(), base.rows_added());
  }
  if (model.vocab_size() != base.vocabulary()) {
    fail("The model knows {} ids and the base {}; only models of one vocabulary can be compared.",
         model.vocab_size(), base.vocabulary());
  }
  return compare_by(
      model, base.ids(), base.protocol(), scoring, [](const Chunk&) {},
      [&](const Chunk& chunk, int64_t i) {
        const int64_t row = chunk.scored_before + i;
        return BaseRow{base.logits(row), base.summary(row)};
      });
}

}  // namespace nibble::quant
