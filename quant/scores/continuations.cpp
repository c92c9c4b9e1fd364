#include "quant/scores/continuations.h"

#include <algorithm>
#include <cmath>

#include "jit/error.h"
#include "quant/scores/log_probs.h"

namespace nibble::quant {

// Makes the decoder hold `ids` but for the last `rows`, keeping what it holds already.
void ContinuationScorer::hold(std::span<const int32_t> ids, int64_t rows) {
  const auto wanted = ids.first(ids.size() - static_cast<size_t>(rows));
  const auto [end, other] = std::mismatch(held_.begin(), held_.end(), wanted.begin(), wanted.end());
  auto common = static_cast<size_t>(end - held_.begin());
  if (static_cast<int64_t>(held_.size()) != decoder_.position() ||
      !decoder_.rewind(static_cast<int64_t>(common))) {
    decoder_.reset();
    common = 0;
  }
  held_.resize(common);
  const auto rest = wanted.subspan(common);
  if (rest.empty()) return;
  decoder_.forward(rest);
  held_.insert(held_.end(), rest.begin(), rest.end());
  ids_run_ += static_cast<int64_t>(rest.size());
}

// The row after the context's last id predicts the first id of the continuation, so as many rows
// are looked at as the continuation has ids; its own last id is not fed.
ContinuationScore ContinuationScorer::score(std::span<const int32_t> context,
                                            std::span<const int32_t> continuation) {
  if (context.empty() || continuation.empty()) {
    fail("A continuation is scored after at least one id and has at least one, found {} and {}.",
         context.size(), continuation.size());
  }
  const auto most = static_cast<size_t>(decoder_.context_length());
  if (continuation.size() > most) {
    fail("A continuation of {} ids does not fit the context, which holds {}.", continuation.size(),
         most);
  }
  const size_t room = most - continuation.size() + 1;  // for the context
  ContinuationScore out;
  out.truncated = context.size() > room;
  if (out.truncated) context = context.last(room);

  std::vector<int32_t> ids(context.begin(), context.end());
  ids.insert(ids.end(), continuation.begin(), continuation.end() - 1);
  const int64_t vocabulary = decoder_.vocab_size(), most_rows = rows_at_a_time(vocabulary);
  const auto width = static_cast<size_t>(vocabulary);
  hold(ids, static_cast<int64_t>(continuation.size()));
  for (size_t done = 0; done < continuation.size();) {
    const size_t rows = std::min(continuation.size() - done, static_cast<size_t>(most_rows));
    const auto fed = std::span(ids).subspan(context.size() - 1 + done, rows);
    logits_.resize(rows * width);
    decoder_.forward_all(fed, logits_);
    held_.insert(held_.end(), fed.begin(), fed.end());
    ids_run_ += static_cast<int64_t>(rows);
    for (size_t row = 0; row < rows; ++row, ++done) {
      const int32_t id = continuation[done];
      if (id < 0 || id >= vocabulary) {
        fail("The id {} of a continuation is outside this model's vocabulary of {} ids.", id,
             vocabulary);
      }
      const auto logits = std::span(logits_).subspan(row * width, width);
      const RowSummary summary = summarize(logits);
      if (std::isnan(summary.log_sum)) fail("The model's logits hold NaN or an infinity.");
      out.log_prob += summary.log_prob(logits[static_cast<size_t>(id)]);
      out.greedy = out.greedy && summary.best == id;
    }
  }
  return out;
}

}  // namespace nibble::quant
