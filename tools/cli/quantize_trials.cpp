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
#include "quant/blocks/block_continuations.h"
#include "quant/blocks/block_logits.h"
#include "quant/recipes/block_files.h"
#include "quant/recipes/mixed_recipe.h"
#include "quant/scores/perplexity.h"
#include "runtime/atomic_file.h"
#include "runtime/clock.h"
#include "runtime/json_text.h"
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
  score.kl = json.at("kl");
  score.top1 = json.at("top1");
  for (const Json& task : json.at("tasks")) {
    score.tasks.push_back({.name = task.at("name"),
                           .items = task.at("items"),
                           .right = task.at("right"),
                           .base_right = task.at("base_right"),
                           .test = {task.at("only_model"), task.at("only_base"), task.at("p")}});
  }
  for (const Json& one : json.at("estimates")) {
    const Json& interval = one.at("interval");
    score.estimates.push_back({one.at("by"), one.at("loss"), {interval.at(0), interval.at(1)}});
  }
  score.bits = json.at("bits");
  score.seconds = json.at("seconds");
  return score;
}

// A folder in which nothing was finished is of no use to a later run.
void remove_if_empty(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename() != "identity") return;
  }
  if (!error) fs::remove_all(folder, error);
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
        [&](const quant::Recipe& recipe, size_t trial) -> std::optional<quant::Trial> {
          const std::optional<quant::Recipe> concrete = resolve(recipe, trial, recipes.size() == 1);
          if (!concrete) return std::nullopt;
          return quant::Trial{*concrete, run_one(*concrete, trial)};
        });
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

  // The recipe with formats in place of a budget of bits, which are found once and kept. One recipe
  // among several is passed over when there is nothing to be mixed; the only one is carried out
  // without, or refused where the budget cannot be kept.
  std::optional<quant::Recipe> resolve(const quant::Recipe& recipe, size_t trial, bool only) {
    if (recipe.bits == 0) return recipe;
    const std::string path = trial_folder(trial) + "-formats.json";
    const std::string asked = quant::recipe_to_json(recipe);
    if (fs::exists(path)) {
      try {
        const Json json = runtime::parse_ordered_json(read_file(path), path);
        if (json.at("recipe").get<std::string>() == asked) {
          quant::Recipe concrete = recipe;
          concrete.bits = 0;
          return quant::recipe_from_json(json.at("mixed").get<std::string>(), path, concrete);
        }
      } catch (const std::exception&) {  // then they are found again
      }
    }
    quant::MixedRecipe mixed = [&] {
      Progress progress("sensitivity", "M weights");
      return quant::mix_formats(setup_.graph, recipe, setup_.calibration, *pool_,
                                [&](int64_t done, int64_t total) {
                                  stop_when_interrupted();
                                  progress.update(done, total);
                                });
    }();
    if (!mixed.recipe) {
      const std::string why = fmt::format(
          "{}: no weight gets another format within {:.4g} bits a weight; the smallest "
          "formats take {:.4f}.",
          quant::recipe_text(recipe), recipe.bits, mixed.least_bits);
      if (only && recipe.bits < mixed.least_bits) fail("{}", why);
      note(why);
      if (!only) return std::nullopt;
      mixed.recipe = recipe;
      mixed.recipe->bits = 0;
    }
    const Json json = {{"recipe", asked}, {"mixed", quant::recipe_to_json(*mixed.recipe)}};
    runtime::write_file(path, json.dump());
    return mixed.recipe;
  }

  quant::RecipeScore run_one(const quant::Recipe& recipe, size_t trial) {
    weights_.resize(trial + 1);
    if (auto known = known_score(recipe, trial)) {
      note(fmt::format("{}: {} (as found)", quant::recipe_text(recipe), score_text(*known)));
      keep_if_best(*known, trial, nullptr);
      return *known;
    }
    answer_in_fp32();
    const double start = runtime::seconds_now();
    quant::QuantizedModel model = quantize(recipe, trial);
    const double seconds = runtime::seconds_now() - start;
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
      const Json json =
          runtime::parse_ordered_json(read_file(score_path(trial)), score_path(trial));
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
    } catch (const std::exception&) {
      weights_[trial].clear();
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

  // What the model answers in fp32, once for all trials, and before the first of them: it may be
  // that no task can be measured by its answers.
  void answer_in_fp32() {
    for (const Task& task : std::span(setup_.tasks).subspan(base_answers_.size())) {
      const std::string what = task.name + " in fp32";
      Progress progress(what, "tokens", 1);
      base_answers_.push_back(task.right(quant::block_continuations(
          setup_.graph, task.items, *pool_, [&](int64_t done, int64_t total) {
            stop_when_interrupted();
            progress.update(done, total);
          })));
      quant::check_task(task.name, base_answers_.back());
    }
  }

  // What the model says of the text in fp32, once for all trials.
  const quant::BaseScores& base() {
    if (!base_) {
      Progress progress("fp32 model", "nodes", 1);
      base_ = quant::block_logits(setup_.graph, setup_.held_out, setup_.protocol, *pool_,
                                  [&](int64_t done, int64_t total) {
                                    stop_when_interrupted();
                                    progress.update(done, total);
                                  });
    }
    return *base_;
  }

  quant::RecipeScore measure(const graph::Graph& graph) {
    const quant::BaseScores& in_fp32 = base();
    const bool exact = setup_.compute == "f32";
    auto plan = graph::lower(graph, {.compute = *graph::parse_compute(setup_.compute),
                                     .isa = jit::selected_isa(),
                                     .threads = pool_->size()});
    runtime::Session session(
        std::move(plan), pool_,
        {.context = std::max(setup_.protocol.window, longest_item(setup_.tasks)),
         .kv = exact ? jit::KvType::f32 : jit::KvType::int16});
    quant::RecipeScore score;
    {
      Progress progress("scoring", "tokens", 1);
      score = quant::score_of(quant::compare(
          session, in_fp32, {.pool = pool_.get(), .progress = [&](int64_t done, int64_t total) {
                               stop_when_interrupted();
                               progress.update(done, total);
                             }}));
    }
    for (size_t t = 0; t < setup_.tasks.size(); ++t) {
      const Task& task = setup_.tasks[t];
      Progress progress(task.name, "answers", 1);
      const auto answers = answer(task, session, [&](int64_t done, int64_t total) {
        stop_when_interrupted();
        progress.update(done, total);
      });
      quant::add_task(score, task.name, answers, base_answers_[t]);
    }
    score.bits = quant::bits_per_weight(graph);
    return score;
  }

  const TrialSetup& setup_;
  std::shared_ptr<runtime::ThreadPool> pool_;
  std::optional<quant::BaseScores> base_;
  std::vector<std::vector<uint8_t>> base_answers_;  // of each task
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
  } catch (const Error&) {
    remove_if_empty(setup.folder);
    throw;
  }
}

void forget_trials(const TrialSetup& setup) {
  std::error_code error;
  fs::remove_all(setup.folder, error);
  if (error) warn(fmt::format("{} cannot be removed: {}.", setup.folder, error.message()));
}

Json score_json(const quant::RecipeScore& score) {
  const quant::LossEstimate& deciding = score.deciding();
  Json tasks = Json::array(), estimates = Json::array();
  for (const quant::TaskScore& task : score.tasks) {
    tasks.push_back({{"name", task.name},
                     {"items", task.items},
                     {"right", task.right},
                     {"base_right", task.base_right},
                     {"accuracy", task.accuracy()},
                     {"base_accuracy", task.base_accuracy()},
                     {"only_model", task.test.only_first},
                     {"only_base", task.test.only_second},
                     {"p", task.test.p_value}});
  }
  for (const quant::LossEstimate& one : score.estimates) {
    estimates.push_back(
        {{"by", one.by}, {"loss", one.loss}, {"interval", {one.interval.low, one.interval.high}}});
  }
  return {{"loss", deciding.loss},
          {"loss_interval", {deciding.interval.low, deciding.interval.high}},
          {"decided_by", deciding.by},
          {"perplexity", score.perplexity},
          {"base_perplexity", score.base_perplexity},
          {"kl", score.kl},
          {"top1", score.top1},
          {"tasks", tasks},
          {"estimates", estimates},
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
  const quant::LossEstimate& deciding = score.deciding();
  std::string text = fmt::format(
      "loss {:.2f}% by {} (95% within {:.2f}..{:.2f}%): perplexity {:.3f} ({:+.2f}%), KL {:.5f} "
      "({:+.2f}%), top-1 {:.2f}%",
      deciding.loss * 100, deciding.by, deciding.interval.low * 100, deciding.interval.high * 100,
      score.perplexity, score.estimates.at(0).loss * 100, score.kl,
      score.estimates.at(1).loss * 100, score.top1 * 100);
  for (const quant::TaskScore& task : score.tasks) {
    text += fmt::format(", {} {} of {} ({} in fp32)", task.name, task.right, task.items,
                        task.base_right);
  }
  return text + fmt::format(", {:.2f} bits, {:.1f} s", score.bits, score.seconds);
}

}  // namespace nibble::cli
