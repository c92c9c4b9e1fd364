#include "tools/cli/quantize_trials.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <utility>

#include "graph/lower.h"
#include "jit/error.h"
#include "jit/isa.h"
#include "quant/blocks/block_logits.h"
#include "quant/recipes/block_files.h"
#include "quant/scores/perplexity.h"
#include "runtime/atomic_file.h"
#include "runtime/session.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;

// Thrown out of the depths by Ctrl-C, and told as an Error where it is known what goes on.
struct Interrupted {};

void stop_when_interrupted() {
  if (interrupted()) throw Interrupted{};
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

quant::RecipeScore score_from(const Json& json) {
  quant::RecipeScore score;
  score.perplexity = json.at("perplexity");
  score.base_perplexity = json.at("base_perplexity");
  score.loss = json.at("loss");
  score.loss_interval = {json.at("loss_interval").at(0), json.at("loss_interval").at(1)};
  score.kl = json.at("kl");
  score.top1 = json.at("top1");
  score.bits = json.at("bits");
  score.seconds = json.at("seconds");
  return score;
}

class Trials {
 public:
  Trials(const TrialSetup& setup, const std::shared_ptr<runtime::ThreadPool>& pool)
      : setup_(setup), pool_(pool) {
    open_folder();
  }

  TrialOutcome run(const std::vector<quant::Recipe>& recipes, double max_loss) {
    TrialOutcome outcome;
    outcome.loop = quant::run_recipe_loop(
        recipes, max_loss,
        [&](const quant::Recipe& recipe, size_t trial) { return run_one(recipe, trial); });
    const size_t best = outcome.loop.best;
    if (best_trial_ != best || !best_model_) {
      best_model_ = quantize(outcome.loop.trials[best].recipe, best);
    }
    outcome.model = std::move(*best_model_);
    outcome.weights = std::move(weights_);
    return outcome;
  }

 private:
  std::string trial_folder(size_t trial) const {
    return fmt::format("{}/trial-{}", setup_.folder, trial);
  }
  std::string score_path(size_t trial) const { return trial_folder(trial) + "-score.json"; }

  void open_folder() {
    const std::string path = setup_.folder + "/identity";
    if (fs::exists(setup_.folder) && read_file(path) != setup_.identity) {
      warn(fmt::format("{} holds unfinished work on another model, text or options; it is emptied.",
                       setup_.folder));
      fs::remove_all(setup_.folder);
    }
    std::error_code error;
    fs::create_directories(setup_.folder, error);
    if (error) fail("{}: the folder cannot be made: {}.", setup_.folder, error.message());
    if (!fs::exists(path)) runtime::write_file(path, setup_.identity);
  }

  quant::RecipeScore run_one(const quant::Recipe& recipe, size_t trial) {
    weights_.resize(trial + 1);
    if (auto known = known_score(recipe, trial)) {
      note(fmt::format("{}: {} (as found)", quant::recipe_text(recipe), score_text(*known)));
      keep_if_best(*known, trial, nullptr);
      return *known;
    }
    const double start = now();
    quant::QuantizedModel model = quantize(recipe, trial);
    const double seconds = now() - start;
    quant::RecipeScore score = measure(model.graph);
    score.seconds = seconds;
    weights_[trial] = model.outcomes;
    const Json json = {{"recipe", quant::recipe_to_json(recipe)},
                       {"score", score_json(score)},
                       {"weights", outcomes_json(model.outcomes)}};
    runtime::write_file(score_path(trial), json.dump());
    note(fmt::format("{}: {}", quant::recipe_text(recipe), score_text(score)));
    keep_if_best(score, trial, &model);
    return score;
  }

  // What an earlier run found out about the same recipe.
  std::optional<quant::RecipeScore> known_score(const quant::Recipe& recipe, size_t trial) {
    if (!fs::exists(score_path(trial))) return std::nullopt;
    try {
      const Json json = Json::parse(read_file(score_path(trial)));
      if (json.at("recipe").get<std::string>() != quant::recipe_to_json(recipe)) {
        return std::nullopt;
      }
      for (const Json& w : json.at("weights")) {
        weights_[trial].push_back({.name = w.at("name"),
                                   .layer = w.at("layer"),
                                   .error = w.at("error"),
                                   .nearest_error = w.at("nearest_error"),
                                   .seconds = w.at("seconds")});
      }
      return score_from(json.at("score"));
    } catch (const Json::exception&) {
      return std::nullopt;
    }
  }

  // Of all trials only the best keeps its weights, in memory where it is known and in its folder.
  void keep_if_best(const quant::RecipeScore& score, size_t trial, quant::QuantizedModel* model) {
    if (best_trial_ && !quant::better(score, *best_score_)) {
      fs::remove_all(trial_folder(trial));
      return;
    }
    if (best_trial_) fs::remove_all(trial_folder(*best_trial_));
    best_trial_ = trial;
    best_score_ = score;
    best_model_.reset();
    if (model != nullptr) best_model_ = std::move(*model);
  }

  // Makes the folder of a trial's blocks this recipe's: what another one left there is removed.
  void claim_folder(const quant::Recipe& recipe, size_t trial) {
    const std::string folder = trial_folder(trial), path = folder + "/recipe.json";
    const std::string text = quant::recipe_to_json(recipe);
    if (fs::exists(folder) && read_file(path) != text) fs::remove_all(folder);
    if (fs::exists(folder)) return;
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) fail("{}: the folder cannot be made: {}.", folder, error.message());
    runtime::write_file(path, text);
  }

  quant::QuantizedModel quantize(const quant::Recipe& recipe, size_t trial) {
    std::optional<quant::BlockFiles> files;
    if (recipe.calibrates()) {
      claim_folder(recipe, trial);
      files.emplace(trial_folder(trial), *pool_);
    }
    const std::string method = quant::method_name(recipe);
    Progress progress(method, "M weights");
    const quant::QuantizeHooks hooks{
        .store = files ? &*files : nullptr,
        .progress = [&](int64_t done, int64_t total, const std::string&) {
          stop_when_interrupted();
          progress.update(done, total);
        }};
    quant::QuantizedModel model =
        quant::quantize_model(setup_.graph, recipe, setup_.calibration, *pool_, hooks);
    set_compute(model.graph, setup_.compute);
    return model;
  }

  quant::RecipeScore measure(const graph::Graph& graph) {
    if (!base_) {
      Progress progress("fp32 model", "nodes", 1);
      base_ = quant::block_logits(setup_.graph, setup_.held_out, setup_.protocol, *pool_,
                                  [&](int64_t done, int64_t total) {
                                    stop_when_interrupted();
                                    progress.update(done, total);
                                  });
    }
    const bool exact = setup_.compute == "f32";
    auto plan = graph::lower(graph, {.compute = *graph::parse_compute(setup_.compute),
                                     .isa = jit::selected_isa(),
                                     .threads = pool_->size()});
    runtime::Session session(
        std::move(plan), pool_,
        {.context = setup_.protocol.window, .kv = exact ? jit::KvType::f32 : jit::KvType::int16});
    Progress progress("scoring", "tokens", 1);
    const quant::Comparison compared = quant::compare(
        session, *base_, {.pool = pool_.get(), .progress = [&](int64_t done, int64_t total) {
                            stop_when_interrupted();
                            progress.update(done, total);
                          }});
    const quant::Interval ratio = compared.perplexity_ratio();
    return {.perplexity = compared.perplexity(),
            .base_perplexity = compared.base_perplexity(),
            .loss = compared.perplexity() / compared.base_perplexity() - 1,
            .loss_interval = {ratio.low - 1, ratio.high - 1},
            .kl = compared.mean_kl().value,
            .top1 = compared.top1(),
            .bits = quant::bits_per_weight(graph)};
  }

  const TrialSetup& setup_;
  std::shared_ptr<runtime::ThreadPool> pool_;
  std::optional<quant::BaseScores> base_;
  std::vector<std::vector<quant::WeightOutcome>> weights_;
  std::optional<size_t> best_trial_;
  std::optional<quant::RecipeScore> best_score_;
  std::optional<quant::QuantizedModel> best_model_;
};

}  // namespace

TrialOutcome run_trials(const TrialSetup& setup, const std::vector<quant::Recipe>& recipes,
                        double max_loss, const std::shared_ptr<runtime::ThreadPool>& pool) {
  try {
    return Trials(setup, pool).run(recipes, max_loss);
  } catch (const Interrupted&) {
    fail("Interrupted; the same command goes on where it was ({} holds what is finished).",
         setup.folder);
  }
}

void forget_trials(const TrialSetup& setup) {
  std::error_code error;
  fs::remove_all(setup.folder, error);
  if (error) warn(fmt::format("{} cannot be removed: {}.", setup.folder, error.message()));
}

Json score_json(const quant::RecipeScore& score) {
  return {{"perplexity", score.perplexity},
          {"base_perplexity", score.base_perplexity},
          {"loss", score.loss},
          {"loss_interval", {score.loss_interval.low, score.loss_interval.high}},
          {"kl", score.kl},
          {"top1", score.top1},
          {"bits", score.bits},
          {"seconds", score.seconds}};
}

Json outcomes_json(const std::vector<quant::WeightOutcome>& weights) {
  Json json = Json::array();
  for (const quant::WeightOutcome& weight : weights) {
    json.push_back({{"name", weight.name},
                    {"layer", weight.layer},
                    {"error", weight.error},
                    {"nearest_error", weight.nearest_error},
                    {"seconds", weight.seconds}});
  }
  return json;
}

std::string score_text(const quant::RecipeScore& score) {
  return fmt::format(
      "perplexity {:.3f} ({:+.2f}%, 95% within {:+.2f}..{:+.2f}%), KL {:.5f}, top-1 {:.2f}%, "
      "{:.2f} bits, {:.1f} s",
      score.perplexity, score.loss * 100, score.loss_interval.low * 100,
      score.loss_interval.high * 100, score.kl, score.top1 * 100, score.bits, score.seconds);
}

}  // namespace nibble::cli
