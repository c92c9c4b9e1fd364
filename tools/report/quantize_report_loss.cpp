// Loss against bits: a dot a trial, the interval as its error bar, the mark as a line.
#include <algorithm>
#include <cmath>

#include "jit/error.h"
#include "tools/report/quantize_report.h"
#include "tools/report/svg.h"
#include "tools/report/trial_looks.h"

namespace nibble::report {
namespace {

using Trial = QuantizeReport::Trial;

constexpr double kLossWidth = 980, kLossHeight = 420;
constexpr double kLossLeft = 70, kLossRight = 660, kLossTop = 30, kLossBottom = 52;
constexpr double kGap = 22;       // pixels between trials of the same bits
constexpr double kSame = 0.005;   // bits that differ by no more read the same
constexpr double kMarkGap = 40;   // pixels between numbers below the axis
constexpr double kKey = 735;      // where the key of the numbers begins
constexpr double kKeyLine = 18;   // pixels
constexpr double kLeastSpan = 1;  // bits that the picture shows at least

bool drawable(const Trial& trial) { return std::isfinite(trial.loss) && std::isfinite(trial.bits); }

// Holds all bits, and at both ends room for those who stand beside a trial of the same bits.
Axis bits_axis(const std::vector<double>& bits) {
  const auto [least, most] = std::minmax_element(bits.begin(), bits.end());
  const auto room = [&](double value) {
    const auto same = static_cast<double>(std::count(bits.begin(), bits.end(), value));
    return std::min(kGap * same / 2 + 14, (kLossRight - kLossLeft) / 3);
  };
  const double left = room(*least), right = room(*most);
  const double span = std::max(*most - *least, kLeastSpan);
  const double middle = (*least + *most) / 2;
  const double a_pixel = span / (kLossRight - kLossLeft - left - right);
  return {.low = middle - span / 2 - left * a_pixel,
          .high = middle + span / 2 + right * a_pixel,
          .from = kLossLeft,
          .to = kLossRight};
}

// Up to where the axis is linear: the mark, or what an interval leaves open where that is more, so
// that a tiny mark does not blow up what is noise.
double linear_part(const QuantizeReport& report, const std::vector<const Trial*>& trials) {
  double unit = std::isfinite(report.max_loss) ? std::max(report.max_loss, 0.0) : 0;
  std::vector<double> halves;
  for (const Trial* trial : trials) {
    if (has_interval(*trial)) halves.push_back((trial->loss_high - trial->loss_low) / 2);
  }
  if (!halves.empty()) {
    const auto middle = halves.begin() + static_cast<std::ptrdiff_t>(halves.size() / 2);
    std::nth_element(halves.begin(), middle, halves.end());
    unit = std::max(unit, *middle);
  }
  return unit > 0 ? unit : 0.01;
}

// In percent. Losses may be of any size and sign: small ones stay apart, and large ones on the
// page.
Axis loss_axis(const QuantizeReport& report, const std::vector<const Trial*>& trials) {
  const double unit = linear_part(report, trials);
  double low = 0, high = unit;
  for (const Trial* trial : trials) {
    const bool interval = has_interval(*trial);
    low = std::min(low, interval ? trial->loss_low : trial->loss);
    high = std::max(high, interval ? trial->loss_high : trial->loss);
  }
  return {.low = (low * 1.2 - unit * 0.1) * 100,
          .high = high * 125,
          .from = kLossHeight - kLossBottom,
          .to = kLossTop,
          .linear_to = unit * 100};
}

// Trials of the same bits, and where they stand.
struct Group {
  double bits = 0;
  double from = 0, to = 0;  // pixels
};

std::vector<Group> groups_of(const std::vector<double>& bits, const std::vector<double>& places) {
  std::vector<Group> groups;
  for (size_t i = 0; i < bits.size(); ++i) groups.push_back({bits[i], places[i], places[i]});
  std::sort(groups.begin(), groups.end(),
            [](const Group& a, const Group& b) { return a.bits < b.bits; });
  std::vector<Group> merged;
  for (const Group& group : groups) {
    if (merged.empty() || group.bits > merged.back().bits + kSame) {
      merged.push_back(group);
    } else {
      merged.back().from = std::min(merged.back().from, group.from);
      merged.back().to = std::max(merged.back().to, group.to);
    }
  }
  return merged;
}

// Ticks where trials are, and at each a bar as wide as those who share it: beside the tick nobody
// has other bits.
void draw_bits(Svg& svg, Axis x, const Axis& y, const std::vector<Group>& groups) {
  for (const Group& group : groups) {
    if (x.marks.empty() || x.at(group.bits) - x.at(x.marks.back()) >= kMarkGap) {
      x.marks.push_back(group.bits);
    }
  }
  draw_axes(svg, x, y, "bits a weight", "loss, %, logarithmic far from 0");
  for (const Group& group : groups) {
    svg.line({group.from - 7, y.from}, {group.to + 7, y.from}, kGrey, 4);
  }
}

std::string describe(const std::string& label, const Trial& trial, double mark) {
  return fmt::format("{}: {} bits, loss {}{}, KL {:.4f}, same likeliest token {:.1f}%", label,
                     number(trial.bits), percent(trial.loss, mark),
                     has_interval(trial) ? " (" + interval_text(trial) + ")" : "", trial.kl,
                     trial.top1 * 100);
}

// Returns how high it reaches.
double draw_interval(Svg& svg, const Axis& y, double x, const Trial& trial, const char* colour) {
  if (!has_interval(trial)) return y.at(trial.loss * 100);
  const double low = y.at(trial.loss_low * 100), high = y.at(trial.loss_high * 100);
  svg.line({x, low}, {x, high}, colour, 1.5);
  svg.line({x - 4, low}, {x + 4, low}, colour, 1.5);
  svg.line({x - 4, high}, {x + 4, high}, colour, 1.5);
  return high;
}

void draw_key(Svg& svg, const QuantizeReport& report, const std::vector<TrialLook>& looks) {
  double y = kLossTop + 6;
  for (size_t i = 0; i < looks.size(); ++i) {
    svg.rect({kKey, y - 5}, 10, 10, looks[i].colour, "none");
    if (i == report.best) svg.ring({kKey + 5, y}, 9, kStrong);
    svg.text({kKey + 21, y + 4}, Anchor::start, looks[i].label, kInk, i == report.best);
    y += kKeyLine;
  }
}

}  // namespace

std::string render_loss(const QuantizeReport& report) {
  std::vector<const Trial*> shown;
  std::vector<size_t> numbers;
  std::vector<double> bits;
  for (size_t i = 0; i < report.trials.size(); ++i) {
    if (!drawable(report.trials[i])) continue;
    shown.push_back(&report.trials[i]);
    numbers.push_back(i);
    bits.push_back(report.trials[i].bits);
  }
  if (shown.empty()) return "";
  const std::vector<TrialLook> looks = looks_of(report);
  const Axis x = bits_axis(bits);
  const Axis y = loss_axis(report, shown);
  const double key_height = kLossTop + 12 + kKeyLine * static_cast<double>(looks.size());
  const Trial* best = best_of(report);
  Svg svg(
      kLossWidth, std::max(kLossHeight, key_height), "Loss of each trial against its bits a weight",
      best == nullptr ? ""
                      : "Chosen: " + describe(looks[report.best].label, *best, report.max_loss));
  std::vector<double> wanted;
  for (const double value : bits) wanted.push_back(x.at(value));
  const std::vector<double> places = spread(wanted, kGap, x.from + 14, x.to - 14);
  draw_bits(svg, x, y, groups_of(bits, places));
  svg.line({x.from, y.at(0)}, {x.to, y.at(0)}, kFrame);
  const double mark = y.at(report.max_loss * 100);
  svg.line({x.from, mark}, {x.to, mark}, kStrong, 1.5, true);
  svg.text({x.to + 6, mark + 4}, Anchor::start, "mark " + mark_text(report), kStrong, true);

  for (size_t i = 0; i < shown.size(); ++i) {
    const Trial& trial = *shown[i];
    const TrialLook& look = looks[numbers[i]];
    const bool chosen = numbers[i] == report.best;
    const Point at{places[i], y.at(trial.loss * 100)};
    const double top = draw_interval(svg, y, at.x, trial, look.colour);
    if (chosen) svg.ring(at, 9, kStrong);
    svg.dot(at, 5, look.colour, describe(look.label, trial, report.max_loss));
    svg.text({at.x, std::min(top - 6, at.y - (chosen ? 13 : 9))}, Anchor::middle,
             std::to_string(numbers[i] + 1), kInk, chosen);
  }
  draw_key(svg, report, looks);
  std::string html = svg.finish();
  if (shown.size() < report.trials.size()) {
    html += "<p>Trials whose loss is not finite are not drawn.</p>\n";
  }
  return html;
}

}  // namespace nibble::report
