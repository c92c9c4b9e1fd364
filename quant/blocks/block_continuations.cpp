#include "quant/blocks/block_continuations.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "jit/error.h"
#include "quant/blocks/block_split.h"
#include "quant/blocks/node_forward.h"
#include "quant/scores/log_probs.h"

namespace nibble::quant {
namespace {

// Ids that are fed: the continuation's last predicts nothing that is asked for.
int64_t fed_length(const Continuation& item) {
  return std::ssize(item.context) + std::ssize(item.continuation) - 1;
}

// Items by length, so that batches have little padding; among equals in their own order.
std::vector<size_t> by_length(std::span<const Continuation> items) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return fed_length(items[a]) < fed_length(items[b]); });
  return order;
}

// Rows of activations, in any order.
Activations rows_of(const Activations& values, std::span<const int64_t> rows) {
  Activations part;
  for (const auto& [id, activation] : values) {
    Activation chosen{.width = activation->width, .data = {}};
    chosen.data.reserve(rows.size() * static_cast<size_t>(activation->width));
    for (const int64_t row : rows) {
      const float* first = activation->data.data() + row * activation->width;
      chosen.data.insert(chosen.data.end(), first, first + activation->width);
    }
    part.emplace(id, std::make_shared<const Activation>(std::move(chosen)));
  }
  return part;
}

// A row of a batch whose logits are wanted: what it predicts, and of which item.
struct Wanted {
  int64_t row = 0;
  int32_t id = 0;
  size_t item = 0;
};

class Scorer {
 public:
  Scorer(const graph::Graph& graph, std::span<const Continuation> items, runtime::ThreadPool& pool,
         const std::function<void(int64_t, int64_t)>& progress)
      : graph_(graph),
        items_(items),
        progress_(progress),
        blocks_(split_blocks(graph)),
        forward_(graph, pool),
        scores_(items.size()) {
    for (const Continuation& item : items) {
      if (item.context.empty() || item.continuation.empty()) {
        fail(
            "A continuation is scored after at least one id and has at least one, found {} and {}.",
            item.context.size(), item.continuation.size());
      }
      total_ += fed_length(item);
    }
  }

  std::vector<ContinuationScore> run() {
    const std::vector<size_t> order = by_length(items_);
    for (size_t begin = 0; begin < order.size();) {
      size_t end = begin + 1;
      while (end < order.size() &&
             fed_length(items_[order[end]]) * static_cast<int64_t>(end - begin + 1) <=
                 kContinuationIds) {
        ++end;
      }
      run_batch(std::span(order).subspan(begin, end - begin));
      begin = end;
    }
    if (progress_) progress_(total_, total_);
    return std::move(scores_);
  }

 private:
  void run_batch(std::span<const size_t> chosen) {
    // Behind an item's own ids stand zeros, which nothing before them can see.
    const int64_t length = fed_length(items_[chosen.back()]);
    std::vector<int32_t> ids(chosen.size() * static_cast<size_t>(length), 0);
    std::vector<Wanted> wanted;
    int64_t own = 0;
    for (size_t s = 0; s < chosen.size(); ++s) {
      const auto& [context, continuation] = items_[chosen[s]];
      const int64_t first = static_cast<int64_t>(s) * length;
      const auto behind = std::copy(context.begin(), context.end(), ids.begin() + first);
      std::copy(continuation.begin(), continuation.end() - 1, behind);
      for (int64_t i = 0; i < std::ssize(continuation); ++i) {
        wanted.push_back(
            {first + std::ssize(context) - 1 + i, continuation[static_cast<size_t>(i)], chosen[s]});
      }
      own += fed_length(items_[chosen[s]]);
    }
    const Batch batch{static_cast<int64_t>(chosen.size()), length, ids};
    const auto step = static_cast<double>(own) / static_cast<double>(blocks_.size());
    const auto told = [&](double share) {
      if (progress_) progress_(done_ + static_cast<int64_t>(share * step), total_);
    };
    Activations values;
    for (size_t b = 0; b + 1 < blocks_.size(); ++b) {
      forward_.run(blocks_[b], batch, values, {}, Keep::outputs,
                   [&](double share) { told(static_cast<double>(b) + share); });
    }
    run_tail(values, wanted);
    done_ += own;
  }

  // The tail sees each row by itself.
  void run_tail(const Activations& values, std::span<const Wanted> wanted) {
    int64_t most = 16;  // until it is known how wide logits are
    for (size_t done = 0; done < wanted.size();) {
      const auto part =
          wanted.subspan(done, std::min(wanted.size() - done, static_cast<size_t>(most)));
      std::vector<int64_t> rows;
      for (const Wanted& w : part) rows.push_back(w.row);
      Activations chosen = rows_of(values, rows);
      const std::vector<int32_t> no_ids(part.size(), 0);
      forward_.run(blocks_.back(), {std::ssize(part), 1, no_ids}, chosen);
      const Activation& logits = *chosen.at(graph_.io.logits);
      const auto width = static_cast<size_t>(logits.width);
      for (size_t i = 0; i < part.size(); ++i) {
        scores_[part[i].item].add(std::span(logits.data).subspan(i * width, width), part[i].id);
      }
      done += part.size();
      most = rows_at_a_time(logits.width);
    }
  }

  const graph::Graph& graph_;
  std::span<const Continuation> items_;
  const std::function<void(int64_t, int64_t)>& progress_;
  std::vector<Block> blocks_;
  NodeForward forward_;
  std::vector<ContinuationScore> scores_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

std::vector<ContinuationScore> block_continuations(
    const graph::Graph& graph, std::span<const Continuation> items, runtime::ThreadPool& pool,
    const std::function<void(int64_t, int64_t)>& progress) {
  return Scorer(graph, items, pool, progress).run();
}

}  // namespace nibble::quant
