// Heat maps of tile shapes, each with the fastest candidates and how sure their times are.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>
#include <set>

#include "jit/error.h"
#include "tools/report/report.h"
#include "tools/report/svg.h"

namespace nibble::report {
namespace {

constexpr double kCellWidth = 52, kCellHeight = 24;
constexpr double kMapLeft = 52, kMapTop = 44;
constexpr double kNames = 150, kBars = 330, kBarLeft = 10, kLine = 21;
constexpr size_t kFastest = 12;  // candidates with error bars
constexpr double kWorst = 2;     // the heat map's pale end

struct Shape {
  int mr = 0, columns = 0;
  auto operator<=>(const Shape&) const = default;
};

// "8x16x4f2048" is 8 rows by 16 columns.
std::optional<Shape> shape_of(const std::string& tiling) {
  Shape shape;
  if (std::sscanf(tiling.c_str(), "%dx%d", &shape.mr, &shape.columns) != 2) return std::nullopt;
  return shape;
}

// From deep teal (the best) to nearly white (kWorst times it, or more).
std::string heat(double ratio) {
  const double t = std::clamp(std::log(ratio) / std::log(kWorst), 0.0, 1.0);
  const auto mix = [t](double from, double to) { return static_cast<int>(from + (to - from) * t); };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(15, 240), mix(118, 250), mix(110, 248));
}

std::string milliseconds(double seconds) {
  return seconds < 1e-3 ? fmt::format("{:.1f} µs", seconds * 1e6)
                        : fmt::format("{:.3f} ms", seconds * 1e3);
}

std::string describe(const TilingTime& time, double best) {
  return fmt::format("{}: {} ({:.2f} times the best), p20 {}, p80 {}, {} samples", time.tiling,
                     milliseconds(time.median), time.median / best, milliseconds(time.p20),
                     milliseconds(time.p80), time.samples);
}

std::string heat_map(const TilingChoice& choice, const std::vector<TilingTime>& sorted) {
  std::map<Shape, const TilingTime*> cells;  // the fastest of each shape: `sorted` begins with it
  std::set<int> rows, columns;
  for (const TilingTime& time : sorted) {
    if (const auto shape = shape_of(time.tiling)) {
      cells.emplace(*shape, &time);
      rows.insert(shape->mr);
      columns.insert(shape->columns);
    }
  }
  if (cells.empty()) return "";
  const double width = kMapLeft + kCellWidth * static_cast<double>(columns.size()) + 30;
  const double height = kMapTop + kCellHeight * static_cast<double>(rows.size()) + 16;
  Svg svg(std::max(width, 170.0), height, "Time of each tile shape of " + choice.spec);
  svg.text({kMapLeft + kCellWidth * static_cast<double>(columns.size()) / 2, 14}, Anchor::middle,
           "columns");
  svg.vertical_text({14, kMapTop + kCellHeight * static_cast<double>(rows.size()) / 2}, "rows");
  const auto winner = shape_of(choice.winner);
  double y = kMapTop;
  for (const int mr : rows) {
    svg.text({kMapLeft - 7, y + 16}, Anchor::end, std::to_string(mr), kGrey);
    double x = kMapLeft;
    for (const int column : columns) {
      if (mr == *rows.begin()) {
        svg.text({x + kCellWidth / 2, kMapTop - 8}, Anchor::middle, std::to_string(column), kGrey);
      }
      const auto cell = cells.find({mr, column});
      if (cell != cells.end()) {
        const double ratio = cell->second->median / sorted.front().median;
        const bool won = winner && *winner == cell->first;
        svg.rect({x + 1, y + 1}, kCellWidth - 2, kCellHeight - 2, heat(ratio),
                 won ? kOrange : "#ffffff", describe(*cell->second, sorted.front().median));
        svg.text({x + kCellWidth / 2, y + 16}, Anchor::middle, fmt::format("{:.2f}", ratio),
                 ratio < 1.35 ? "#ffffff" : "#1f2937", won);
      }
      x += kCellWidth;
    }
    y += kCellHeight;
  }
  return svg.finish();
}

// The first kFastest, and the default and the winner wherever they are.
std::vector<const TilingTime*> shown(const TilingChoice& choice,
                                     const std::vector<TilingTime>& sorted) {
  std::vector<const TilingTime*> list;
  for (size_t i = 0; i < sorted.size(); ++i) {
    const TilingTime& time = sorted[i];
    if (i < kFastest || time.tiling == choice.winner || time.tiling == choice.default_tiling) {
      list.push_back(&time);
    }
  }
  return list;
}

std::string error_bars(const TilingChoice& choice, const std::vector<TilingTime>& sorted) {
  const auto list = shown(choice, sorted);
  double low = sorted.front().median, high = low;
  for (const TilingTime* time : list) {
    low = std::min({low, time->median, time->p20});
    high = std::max({high, time->median, time->p80});
  }
  const double best = sorted.front().median;
  const double room = std::max((high - low) * 0.06, best * 0.01);
  const double bottom = kMapTop - 6 + kLine * static_cast<double>(list.size());
  const Axis x{.low = (low - room) / best,
               .high = (high + room) / best,
               .from = kNames + kBarLeft,
               .to = kNames + kBarLeft + kBars};
  Svg svg(kNames + kBarLeft + kBars + 90, bottom + 44, "The fastest tilings of " + choice.spec);
  for (const double tick : x.ticks()) {
    svg.line({x.at(tick), kMapTop - 12}, {x.at(tick), bottom}, kGrid);
    svg.text({x.at(tick), bottom + 17}, Anchor::middle, number(tick), kGrey);
  }
  svg.text({(x.from + x.to) / 2, bottom + 36}, Anchor::middle, "time, the best = 1");
  double y = kMapTop;
  for (const TilingTime* time : list) {
    const bool won = time->tiling == choice.winner;
    const char* colour = won ? kOrange : kBlue;
    std::string name = time->tiling;
    if (name == choice.default_tiling) name += " (default)";
    svg.text({kNames, y + 4}, Anchor::end, name, won ? kOrange : kInk, won);
    const double from = x.at(time->p20 / best), to = x.at(time->p80 / best);
    svg.line({from, y}, {to, y}, colour, 1.5);
    svg.line({from, y - 4}, {from, y + 4}, colour, 1.5);
    svg.line({to, y - 4}, {to, y + 4}, colour, 1.5);
    svg.dot({x.at(time->median / best), y}, 4, colour, describe(*time, best));
    svg.text({x.to + 10, y + 4}, Anchor::start, milliseconds(time->median), kGrey);
    y += kLine;
  }
  return svg.finish();
}

}  // namespace

std::string render_tilings(const ReportData& data) {
  std::string html;
  for (const TilingChoice& choice : data.tilings) {
    std::vector<TilingTime> sorted;
    for (const TilingTime& time : choice.candidates) {
      if (time.median > 0) sorted.push_back(time);
    }
    if (sorted.empty()) continue;
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const TilingTime& a, const TilingTime& b) { return a.median < b.median; });
    html += fmt::format(
        "<h3>{}</h3>\n<p>{}, m = {}, {} threads, {} candidates{}</p>\n<div "
        "class=\"tiles\">\n{}{}</div>\n",
        escape(choice.spec), escape(choice.isa), choice.m, choice.threads, sorted.size(),
        choice.winner.empty() ? "" : "; the winner is " + escape(choice.winner),
        heat_map(choice, sorted), error_bars(choice, sorted));
  }
  return html;
}

}  // namespace nibble::report
