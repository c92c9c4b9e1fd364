// Relative output errors layer by layer: a picture a kind of weight, a line a trial, and a table of
// how they compare with rounding to nearest.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "jit/error.h"
#include "tools/report/quantize_report.h"
#include "tools/report/svg.h"
#include "tools/report/trial_looks.h"
#include "tools/report/weight_kinds.h"

namespace nibble::report {
namespace {

using Trial = QuantizeReport::Trial;
using Weight = QuantizeReport::Weight;

constexpr double kErrorsWidth = 480, kErrorsHeight = 280;
constexpr double kErrorsLeft = 70, kErrorsRight = 12, kErrorsTop = 26, kErrorsBottom = 46;
constexpr size_t kMostDots = 48;    // layers that still get a dot each
constexpr size_t kMostMarks = 10;   // layers that still get a tick each
constexpr size_t kMostColumns = 8;  // kinds that still get a column each

bool visible(double error) { return std::isfinite(error) && error > 0; }

// One trial's weights of one kind, in the order of their layers.
struct Series {
  size_t trial = 0;
  std::vector<const Weight*> weights;
};

struct Facet {
  std::string label;
  std::vector<Series> series;
  bool in_layers = false;
};

WeightKinds kinds_of(const QuantizeReport& report) {
  std::vector<LayerWeight> all;
  for (const Trial& trial : report.trials) {
    for (const Weight& weight : trial.weights) all.push_back({weight.name, weight.layer});
  }
  return weight_kinds(all);
}

std::vector<Facet> facets_of(const QuantizeReport& report, const WeightKinds& kinds) {
  std::vector<Facet> facets(kinds.labels.size());
  for (size_t i = 0; i < facets.size(); ++i) facets[i].label = kinds.labels[i];
  for (size_t trial = 0; trial < report.trials.size(); ++trial) {
    for (const Weight& weight : report.trials[trial].weights) {
      Facet& facet = facets[kinds.kind_of.at({weight.layer, weight.name})];
      if (facet.series.empty() || facet.series.back().trial != trial) {
        facet.series.push_back({trial, {}});
      }
      facet.series.back().weights.push_back(&weight);
      facet.in_layers |= weight.layer >= 0;
    }
  }
  for (Facet& facet : facets) {
    for (Series& series : facet.series) {
      std::stable_sort(series.weights.begin(), series.weights.end(),
                       [](const Weight* a, const Weight* b) { return a->layer < b->layer; });
    }
  }
  return facets;
}

// What all pictures share, so that they can be compared.
struct Axes {
  Axis x, y;
  size_t layers = 0;
};

Axes axes_of(const QuantizeReport& report, const std::vector<double>& errors) {
  std::set<int64_t> layers;
  for (const Trial& trial : report.trials) {
    for (const Weight& weight : trial.weights) {
      if (weight.layer >= 0) layers.insert(weight.layer);
    }
  }
  Axes axes;
  axes.layers = layers.size();
  const double first = layers.empty() ? 0 : static_cast<double>(*layers.begin());
  const double last = layers.empty() ? 0 : static_cast<double>(*layers.rbegin());
  const double room = std::max((last - first) * 0.02, 0.5);
  axes.x = {.low = first - room,
            .high = last + room,
            .from = kErrorsLeft,
            .to = kErrorsWidth - kErrorsRight};
  if (layers.size() <= kMostMarks) axes.x.marks.assign(layers.begin(), layers.end());
  axes.y = axis_over(errors, true, kErrorsHeight - kErrorsBottom, kErrorsTop);
  return axes;
}

// Where a format's nearest errors come from: the first trial that has it.
std::string format_of(const Trial& trial) {
  return trial.text.starts_with(trial.method + " ") ? trial.text.substr(trial.method.size() + 1)
                                                    : trial.text;
}

class FacetPicture {
 public:
  FacetPicture(const QuantizeReport& report, const std::vector<TrialLook>& looks, const Axes& axes,
               const Facet& facet)
      : report_(report),
        looks_(looks),
        axes_(axes),
        facet_(facet),
        svg_(kErrorsWidth, kErrorsHeight, "Error of each layer's " + facet.label) {}

  std::string draw() {
    svg_.text({kErrorsLeft, 15}, Anchor::start, facet_.label, kInk, true);
    return facet_.in_layers ? draw_layers() : draw_trials();
  }

 private:
  std::string draw_layers() {
    draw_axes(svg_, axes_.x, axes_.y, "layer", "relative error");
    std::set<std::string> formats;
    for (const Series& series : facet_.series) {
      const std::string format = format_of(report_.trials[series.trial]);
      if (formats.insert(format).second) {
        line(series, &Weight::nearest_error, {"nearest, " + format, kGrey, true}, 1.5, false);
      }
    }
    for (const bool chosen : {false, true}) {  // the chosen one on top
      for (const Series& series : facet_.series) {
        if ((series.trial == report_.best) != chosen) continue;
        line(series, &Weight::error, looks_[series.trial], chosen ? 3 : 1.5, true);
      }
    }
    return svg_.finish();
  }

  // Outside of the layers a weight is alone: its errors stand side by side.
  std::string draw_trials() {
    Axis x{.low = 0.5,
           .high = static_cast<double>(report_.trials.size()) + 0.5,
           .from = axes_.x.from,
           .to = axes_.x.to};
    for (const Series& series : facet_.series) {
      if (facet_.series.size() > kMostMarks) break;
      x.marks.push_back(static_cast<double>(series.trial + 1));
    }
    draw_axes(svg_, x, axes_.y, "trial", "relative error");
    for (const Series& series : facet_.series) {
      const double at = x.at(static_cast<double>(series.trial + 1));
      for (const Weight* weight : series.weights) {
        if (visible(weight->nearest_error)) {
          const double y = axes_.y.at(weight->nearest_error);
          svg_.line({at - 9, y}, {at + 9, y}, kGrey, 2);
        }
        if (visible(weight->error)) {
          svg_.dot({at, axes_.y.at(weight->error)}, series.trial == report_.best ? 5 : 3.5,
                   looks_[series.trial].colour, describe(looks_[series.trial].label, *weight));
        }
      }
    }
    return svg_.finish();
  }

  static std::string describe(const std::string& label, const Weight& weight) {
    std::string text = fmt::format("{}, {}: {}", label, weight.name, number(weight.error));
    if (visible(weight.nearest_error)) {
      text += fmt::format(", nearest {}", number(weight.nearest_error));
    }
    if (weight.seconds > 0) text += fmt::format(", {:.1f} s", weight.seconds);
    return text;
  }

  std::string note(const Series& series, double Weight::*error, const std::string& label) const {
    const Weight* worst = nullptr;
    double sum = 0;
    int64_t count = 0;
    for (const Weight* weight : series.weights) {
      if (!visible(weight->*error)) continue;
      if (worst == nullptr || weight->*error > worst->*error) worst = weight;
      sum += std::log(weight->*error);
      ++count;
    }
    if (worst == nullptr) return label;
    return fmt::format("{}, {}: {} in the geometric mean, {} at most ({})", label, facet_.label,
                       number(std::exp(sum / static_cast<double>(count))), number(worst->*error),
                       worst->name);
  }

  // Broken where an error has no place on a logarithmic scale.
  void line(const Series& series, double Weight::*error, const TrialLook& look, double width,
            bool dots) {
    const std::string text = note(series, error, look.label);
    std::vector<Point> run;
    const bool all = axes_.layers <= kMostDots && dots;
    const auto end_run = [&] {
      if (run.size() > 1) svg_.polyline(run, look.colour, width, look.dashed, text);
      if (run.size() == 1 && !all) svg_.dot(run[0], 3, look.colour, text);
      run.clear();
    };
    for (const Weight* weight : series.weights) {
      if (!visible(weight->*error)) {
        end_run();
        continue;
      }
      run.push_back({axes_.x.at(static_cast<double>(weight->layer)), axes_.y.at(weight->*error)});
    }
    end_run();
    if (!all) return;
    for (const Weight* weight : series.weights) {
      if (!visible(weight->*error)) continue;
      svg_.dot({axes_.x.at(static_cast<double>(weight->layer)), axes_.y.at(weight->*error)}, 2.6,
               look.colour, describe(look.label, *weight));
    }
  }

  const QuantizeReport& report_;
  const std::vector<TrialLook>& looks_;
  const Axes& axes_;
  const Facet& facet_;
  Svg svg_;
};

std::string legend(const QuantizeReport& report, const std::vector<TrialLook>& looks) {
  constexpr size_t kColumns = 3;
  std::vector<LegendEntry> entries;
  for (size_t i = 0; i < looks.size(); ++i) {
    if (report.trials[i].weights.empty()) continue;
    entries.push_back({looks[i].label + (i == report.best ? " (chosen)" : ""), looks[i].colour,
                       true, looks[i].dashed});
  }
  entries.push_back({"rounding to nearest", kGrey, true, true});
  const size_t lines = (entries.size() + kColumns - 1) / kColumns;
  Svg svg(980, 18 * static_cast<double>(lines) + 8, "The lines of the pictures below");
  for (size_t column = 0; column * lines < entries.size(); ++column) {
    const size_t from = column * lines;
    draw_legend(svg, {14 + 320 * static_cast<double>(column), 2},
                std::span(entries).subspan(from, std::min(lines, entries.size() - from)));
  }
  return svg.finish();
}

// The geometric mean of error / nearest error over these weights, as percent; "–" without any.
std::string against_nearest(std::span<const Weight* const> weights) {
  double sum = 0;
  int64_t count = 0;
  for (const Weight* weight : weights) {
    if (!visible(weight->error) || !visible(weight->nearest_error)) continue;
    sum += std::log(weight->error / weight->nearest_error);
    ++count;
  }
  return count == 0 ? "–"
                    : fmt::format("{:.1f}%", std::exp(sum / static_cast<double>(count)) * 100);
}

std::string table(const QuantizeReport& report, const std::vector<TrialLook>& looks,
                  const std::vector<Facet>& facets) {
  const bool columns = facets.size() > 1 && facets.size() <= kMostColumns;
  std::string head, rows;
  for (size_t i = 0; i < (columns ? facets.size() : 0); ++i) {
    head += "<th>" + escape(facets[i].label) + "</th>";
  }
  for (size_t trial = 0; trial < report.trials.size(); ++trial) {
    if (report.trials[trial].weights.empty()) continue;
    std::vector<const Weight*> all;
    for (const Weight& weight : report.trials[trial].weights) all.push_back(&weight);
    rows += fmt::format("<tr{}><td class=\"name\">{}</td><td>{}</td>",
                        trial == report.best ? " class=\"chosen\"" : "", escape(looks[trial].label),
                        against_nearest(all));
    for (size_t i = 0; i < (columns ? facets.size() : 0); ++i) {
      const auto series = std::find_if(facets[i].series.begin(), facets[i].series.end(),
                                       [&](const Series& s) { return s.trial == trial; });
      const bool there = series != facets[i].series.end();
      rows += "<td>" + (there ? against_nearest(series->weights) : "–") + "</td>";
    }
    rows += "</tr>\n";
  }
  return fmt::format(
      "<h3>Error against that of rounding to nearest, the geometric mean over weights</h3>\n"
      "<table>\n<thead><tr><th class=\"name\">trial</th><th>all</th>{}</tr></thead>\n<tbody>\n"
      "{}</tbody>\n</table>\n",
      head, rows);
}

}  // namespace

std::string render_errors(const QuantizeReport& report) {
  const WeightKinds kinds = kinds_of(report);
  const std::vector<Facet> facets = facets_of(report, kinds);
  if (facets.empty()) return "";
  std::vector<double> errors;
  int64_t hidden = 0;
  for (const Trial& trial : report.trials) {
    for (const Weight& weight : trial.weights) {
      if (visible(weight.error)) errors.push_back(weight.error);
      if (visible(weight.nearest_error)) errors.push_back(weight.nearest_error);
      hidden += visible(weight.error) ? 0 : 1;
    }
  }
  const std::vector<TrialLook> looks = looks_of(report);
  std::string html;
  if (!errors.empty()) {
    const Axes axes = axes_of(report, errors);
    html += legend(report, looks) + "<div class=\"facets\">\n";
    for (const Facet& facet : facets) html += FacetPicture(report, looks, axes, facet).draw();
    html += "</div>\n";
  }
  if (kinds.counted) {
    html +=
        "<p>Weights whose names do not say where they are in their layer are counted in the order "
        "in which they were quantized.</p>\n";
  }
  if (hidden > 0) {
    html += fmt::format("<p>{} of 0 {} no place on the logarithmic scale.</p>\n",
                        hidden == 1 ? "An error" : fmt::format("{} errors", hidden),
                        hidden == 1 ? "has" : "have");
  }
  return html + table(report, looks, facets);
}

}  // namespace nibble::report
