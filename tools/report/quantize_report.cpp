#include "tools/report/quantize_report.h"

#include <algorithm>
#include <cmath>

#include "jit/error.h"
#include "tools/report/page.h"
#include "tools/report/svg.h"
#include "tools/report/trial_looks.h"

namespace nibble::report {
namespace {

using Trial = QuantizeReport::Trial;

std::string count_text(int64_t count, const char* one, const char* several) {
  return fmt::format("{} {}", count, count == 1 ? one : several);
}

std::string named(const Trial& trial) {
  return escape(trial.text.empty() ? trial.method : trial.text);
}

std::string outcome(const QuantizeReport& report, const Trial& best) {
  const auto trials = static_cast<int64_t>(report.trials.size());
  const std::string number = std::to_string(report.best + 1);
  const std::string loss = percent(best.loss, report.max_loss);
  if (report.met) {
    const std::string why =
        trials == 1 ? fmt::format(
                          "It was the first to be tried and loses {}, no more than the "
                          "mark of {}.",
                          loss, mark_text(report))
                    : fmt::format(
                          "Trial {} of {} is the first that loses no more than the mark "
                          "of {}: {}.",
                          number, trials, mark_text(report), loss);
    return fmt::format("Chosen: <b>{}</b>. {}", named(best), why);
  }
  if (trials == 1) {
    return fmt::format(
        "Chosen for want of another: <b>{}</b>. It loses {} and misses the mark of "
        "{}.",
        named(best), loss, mark_text(report));
  }
  return fmt::format(
      "None of {} trials met the mark of {}. Chosen: <b>{}</b>, trial {}, which loses least: {}.",
      trials, mark_text(report), named(best), number, loss);
}

// What the interval says against or for the outcome.
std::string doubt(const QuantizeReport& report, const Trial& best) {
  if (!has_interval(best)) return "";
  if (report.met && best.loss_high > report.max_loss) {
    return fmt::format(
        " The 95% interval, {}, reaches beyond the mark: more held-out text would "
        "tell.",
        interval_text(best));
  }
  if (!report.met && best.loss_low <= report.max_loss) {
    return fmt::format(" The 95% interval, {}, holds the mark: more held-out text would tell.",
                       interval_text(best));
  }
  return "";
}

std::string about_the_mark(const QuantizeReport& report, const Trial& best) {
  std::string text = fmt::format(
      "Loss is the largest of what was measured beside the model before quantizing: by how much "
      "perplexity exceeds its{}{}; e^KL &minus; 1, which is by how much it would on text that the "
      "model writes itself, and unlike that is never below 0; and by what share fewer questions of "
      "a task are answered right. The mark of {} is the most that it may be, and trials, in order "
      "of cost, end with the first that meets it.",
      best.base_perplexity > 0 ? fmt::format(", {:.3f}", best.base_perplexity) : "",
      report.held_out_tokens > 0
          ? ", on the same " + count_text(report.held_out_tokens, "token", "tokens") +
                " of held-out text"
          : "",
      mark_text(report));
  if (report.calibration_tokens > 0) {
    text += fmt::format(" Calibrated on {}{}.",
                        count_text(report.calibration_tokens, "token", "tokens"),
                        report.calibration.empty() ? "" : " of " + escape(report.calibration));
  }
  return text;
}

// Which measure decides.
std::string by_text(const Trial& trial) {
  return trial.decided_by.empty() ? "" : " by " + escape(trial.decided_by);
}

std::string key_figures(const QuantizeReport& report) {
  const Trial* best = best_of(report);
  if (best == nullptr) return "";
  return figures(figure(best->method, "chosen") +
                 figure(percent(best->loss, report.max_loss),
                        fmt::format("loss{}; the mark is {}", by_text(*best), mark_text(report))) +
                 figure(fmt::format("{:.2f}", best->bits), "bits a weight") +
                 figure(fmt::format("{:.1f}%", best->top1 * 100), "same likeliest token") +
                 figure(duration(best->seconds), "to quantize"));
}

std::string finite(double value, int decimals) {
  return std::isfinite(value) ? fmt::format("{:.{}f}", value, decimals) : "not finite";
}

// What each measure says of each trial; nothing where no trial has estimates.
std::string render_estimates(const QuantizeReport& report) {
  std::vector<std::string> names;
  for (const Trial& trial : report.trials) {
    for (const auto& one : trial.estimates) {
      if (std::find(names.begin(), names.end(), one.by) == names.end()) names.push_back(one.by);
    }
  }
  if (names.empty()) return "";
  std::string head, rows;
  for (const std::string& name : names) {
    head += fmt::format("<th>loss by {}</th><th>95% interval</th>", escape(name));
  }
  for (size_t i = 0; i < report.trials.size(); ++i) {
    const Trial& trial = report.trials[i];
    rows += fmt::format("<tr{}><td>{}</td><td class=\"wrapped\">{}</td>",
                        i == report.best ? " class=\"chosen\"" : "", i + 1, named(trial));
    for (const std::string& name : names) {
      const auto one = std::find_if(trial.estimates.begin(), trial.estimates.end(),
                                    [&](const auto& estimate) { return estimate.by == name; });
      if (one == trial.estimates.end()) {
        rows += "<td>–</td><td>–</td>";
        continue;
      }
      Trial alone;
      alone.loss = one->loss, alone.loss_low = one->low, alone.loss_high = one->high;
      const std::string loss = percent(one->loss, report.max_loss);
      rows += fmt::format("<td>{}</td><td>{}</td>",
                          name == trial.decided_by ? "<b>" + loss + "</b>" : loss,
                          interval_text(alone));
    }
    rows += "</tr>\n";
  }
  return "<table>\n<thead><tr><th></th><th class=\"wrapped\">method</th>" + head +
         "</tr></thead>\n<tbody>\n" + rows + "</tbody>\n</table>\n";
}

}  // namespace

std::string render_choice(const QuantizeReport& report) {
  const Trial* best = best_of(report);
  if (best == nullptr) return "";
  return fmt::format("{}{}</p>\n<p>{}", outcome(report, *best), doubt(report, *best),
                     about_the_mark(report, *best));
}

std::string render_trials(const QuantizeReport& report) {
  if (report.trials.empty()) return "";
  std::string rows;
  for (size_t i = 0; i < report.trials.size(); ++i) {
    const Trial& trial = report.trials[i];
    const bool chosen = i == report.best;
    rows += fmt::format(
        "<tr{}><td>{}</td><td class=\"wrapped\">{}{}</td><td>{}</td><td>{}</td><td>{}</td>"
        "<td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
        chosen ? " class=\"chosen\"" : "", i + 1, named(trial),
        chosen ? " <span class=\"badge\">chosen</span>" : "", finite(trial.perplexity, 3),
        percent(trial.loss, report.max_loss), interval_text(trial), finite(trial.kl, 4),
        finite(trial.top1 * 100, 1), finite(trial.bits, 2), duration(trial.seconds));
  }
  return "<table>\n<thead><tr><th></th><th class=\"wrapped\">method</th><th>perplexity</th>"
         "<th>loss</th><th>95% interval</th><th>KL, nats</th><th>same top, %</th><th>bits</th>"
         "<th>time</th></tr></thead>\n<tbody>\n" +
         rows + "</tbody>\n</table>\n" + render_estimates(report);
}

std::string render_seconds(const QuantizeReport& report) {
  constexpr double kNames = 250, kBars = 600, kLine = 24, kTop = 6;
  double longest = 0;
  for (const Trial& trial : report.trials) {
    if (std::isfinite(trial.seconds)) longest = std::max(longest, trial.seconds);
  }
  if (longest <= 0) return "";
  const std::vector<TrialLook> looks = looks_of(report);
  const double height = kTop * 2 + kLine * static_cast<double>(report.trials.size());
  Svg svg(980, height, "Time of quantizing in each trial");
  double y = kTop;
  for (size_t i = 0; i < report.trials.size(); ++i) {
    const Trial& trial = report.trials[i];
    const bool chosen = i == report.best;
    const double seconds = std::isfinite(trial.seconds) ? std::max(trial.seconds, 0.0) : 0;
    svg.text({kNames, y + 16}, Anchor::end, looks[i].label, kInk, chosen);
    svg.rect({kNames + 10, y + 4}, std::max(1.0, kBars * seconds / longest), kLine - 8,
             looks[i].colour, "none", looks[i].label + ": " + duration(trial.seconds));
    svg.text({kNames + 18 + kBars * seconds / longest, y + 16}, Anchor::start,
             duration(trial.seconds), kInk, chosen);
    y += kLine;
  }
  return svg.finish();
}

std::string quantize_page(const QuantizeReport& report) {
  const std::string model = report.model.empty() ? "Nibble" : report.model;
  double seconds = 0;
  for (const Trial& trial : report.trials) {
    if (std::isfinite(trial.seconds)) seconds += trial.seconds;
  }
  const auto trials = static_cast<int64_t>(report.trials.size());
  std::string content =
      fmt::format("<h1>{}</h1>\n<p>Quantized in {}, {} in all.</p>\n{}", escape(model),
                  count_text(trials, "trial", "trials"), duration(seconds), key_figures(report));
  content += section("What was chosen, and why", render_choice(report), render_trials(report),
                     "No trials were made.");
  content +=
      section("Loss against bits",
              "A dot is a trial, with the 95% interval of its loss; the ring is around the "
              "chosen one. Bits count scales and zero points. Trials of the same bits stand side "
              "by side, on a bar.",
              render_loss(report), "No trial has a loss.");
  content += section("Error of each layer",
                     "By how much a weight's output differs from what it was, relative to it. "
                     "Grey and dashed: the same weight rounded to nearest, a line a format.",
                     render_errors(report), "No trial measured the errors of weights.");
  content += section("Time", "Of quantizing, without scoring.", render_seconds(report),
                     "No times were measured.");
  return page(model + ": quantized by Nibble", content);
}

}  // namespace nibble::report
