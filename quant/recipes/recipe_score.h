// What a recipe costs a model: how the quantized model compares with the same model in fp32, by
// several measures, each made into an estimate of the loss. The largest decides, so that a recipe
// passes only when nothing that was measured speaks against it.
//
//   perplexity   its relative rise on held-out text. Noise can lower the perplexity of a model that
//                is too sure of itself, so this alone can say "no loss" of a model that was
//                damaged.
//   KL           e^KL - 1, KL(base || model) over the same text: the rise of perplexity expected on
//                text that the base itself would write. Never negative, and far less noisy.
//   a task       the relative drop of accuracy, 1 - model / base, on the same questions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quant/scores/perplexity.h"
#include "quant/scores/statistics.h"

namespace nibble::quant {

struct LossEstimate {
  std::string by;     // "perplexity", "KL" or a task's name
  double loss = 0;    // 0.01 is 1%
  Interval interval;  // of 95% confidence, paired
};

struct TaskScore {
  std::string name;
  int64_t items = 0, right = 0, base_right = 0;
  PairedTest test;  // the model first

  double accuracy() const { return static_cast<double>(right) / static_cast<double>(items); }
  double base_accuracy() const {
    return static_cast<double>(base_right) / static_cast<double>(items);
  }
};

struct RecipeScore {
  double perplexity = 0, base_perplexity = 0;
  double kl = 0;    // mean KL(base || model), nats
  double top1 = 0;  // share of ids before which both have the same likeliest
  std::vector<TaskScore> tasks;
  std::vector<LossEstimate> estimates;  // perplexity, KL, then the tasks
  double bits = 0;     // stored bits of a quantized weight, scales and zero points included
  double seconds = 0;  // of quantizing

  // The largest estimate, the first of equals. Throws Error when there is none.
  const LossEstimate& deciding() const;
  double loss() const { return deciding().loss; }
};

// What the text says; bits and seconds are the caller's.
RecipeScore score_of(const Comparison& compared);
// Throws Error when the base answers none of the task's questions, so that there is no loss to
// measure.
void check_task(const std::string& name, std::span<const uint8_t> base);
// Adds a task: for every question whether the model and the base answer it right. Throws Error as
// check_task does.
void add_task(RecipeScore& score, const std::string& name, std::span<const uint8_t> model,
              std::span<const uint8_t> base);

}  // namespace nibble::quant
