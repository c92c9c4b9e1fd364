// Tok/s against context, and the cost of a pass against its rows.
#include <algorithm>
#include <cmath>

#include "jit/error.h"
#include "tools/report/report.h"
#include "tools/report/svg.h"

namespace nibble::report {
namespace {

constexpr double kCurveWidth = 980, kCurveHeight = 330;
constexpr double kCurveLeft = 70, kCurveRight = 24, kCurveTop = 20, kCurveBottom = 52;
constexpr const char* kRoofColour = kStrong;

}  // namespace

std::string render_contexts(const ReportData& data) {
  if (data.contexts.empty()) return "";
  std::vector<double> contexts, rates;
  for (const ContextSpeed& speed : data.contexts) {
    contexts.push_back(static_cast<double>(speed.context));
    rates.push_back(speed.tok_s);
    rates.push_back(speed.roof_tok_s);
  }
  const Axis x = axis_over(contexts, false, kCurveLeft, kCurveWidth - kCurveRight);
  const Axis y = axis_over(rates, false, kCurveHeight - kCurveBottom, kCurveTop);
  Svg svg(kCurveWidth, kCurveHeight, "Tokens a second against positions held");
  draw_axes(svg, x, y, "positions held", "tok/s");
  std::vector<Point> measured, roof;
  for (const ContextSpeed& speed : data.contexts) {
    const double at = x.at(static_cast<double>(speed.context));
    measured.push_back({at, y.at(speed.tok_s)});
    if (speed.roof_tok_s > 0) roof.push_back({at, y.at(speed.roof_tok_s)});
  }
  svg.polyline(roof, kRoofColour, 2, true);
  svg.polyline(measured, kBlue);
  for (size_t i = 0; i < measured.size(); ++i) {
    const ContextSpeed& speed = data.contexts[i];
    const std::string share =
        speed.roof_tok_s > 0
            ? fmt::format(", {:.0f}% of the roof", speed.tok_s / speed.roof_tok_s * 100)
            : "";
    svg.dot(measured[i], 4.5, kBlue,
            fmt::format("{} positions: {:.2f} tok/s{}", speed.context, speed.tok_s, share));
    svg.text({measured[i].x, measured[i].y + 19}, i == 0 ? Anchor::start : Anchor::middle,
             fmt::format("{:.1f}", speed.tok_s));
  }
  const LegendEntry legend[] = {
      {"measured", kBlue, true},
      {"the read roof: weights and cache once a token", kRoofColour, true, true}};
  draw_legend(svg, {kCurveLeft + 20, y.from - 50}, legend);
  return svg.finish();
}

std::string render_rows(const ReportData& data) {
  if (data.rows.empty()) return "";
  std::vector<double> rows, ratios;
  for (const RowsCost& cost : data.rows) {
    rows.push_back(static_cast<double>(cost.m));
    ratios.push_back(cost.ratio);
  }
  Axis x = axis_over(rows, true, kCurveLeft, kCurveWidth - kCurveRight);
  x.marks = rows;
  ratios.push_back(1.5);
  const Axis y = axis_over(ratios, false, kCurveHeight - kCurveBottom, kCurveTop);
  Svg svg(kCurveWidth, kCurveHeight, "Time of a pass over that of one row, against its rows");
  draw_axes(svg, x, y, "rows of the pass (m)", "times the cost of one row");
  svg.line({x.from, y.at(1)}, {x.to, y.at(1)}, kRoofColour, 1.5, true);
  std::vector<Point> one_by_one;
  for (double m = 1; m <= std::min(x.high, y.high); m += 0.05) {
    one_by_one.push_back({x.at(m), y.at(m)});
  }
  svg.polyline(one_by_one, kGrey, 1.5, true);
  std::vector<Point> points;
  for (const RowsCost& cost : data.rows) {
    points.push_back({x.at(static_cast<double>(cost.m)), y.at(cost.ratio)});
  }
  svg.polyline(points, kBlue);
  for (size_t i = 0; i < points.size(); ++i) {
    const RowsCost& cost = data.rows[i];
    svg.dot(points[i], 4.5, kBlue,
            fmt::format("m = {}: {:.2f} ms, {:.2f} times one row", cost.m, cost.seconds * 1e3,
                        cost.ratio));
    svg.text({points[i].x, points[i].y - 10}, Anchor::middle, fmt::format("{:.2f}", cost.ratio));
  }
  const LegendEntry legend[] = {{"measured", kBlue, true},
                                {"free: all rows for the price of one", kRoofColour, true, true},
                                {"one by one", kGrey, true, true}};
  draw_legend(svg, {x.to - 250, y.from - 66}, legend);
  return svg.finish();
}

}  // namespace nibble::report
