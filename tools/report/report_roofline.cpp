// The roofline: dots on logarithmic axes under the two roofs, and a table of the same steps.
#include <algorithm>
#include <cmath>

#include "jit/error.h"
#include "tools/report/op_profile.h"
#include "tools/report/report.h"
#include "tools/report/svg.h"

namespace nibble::report {
namespace {

constexpr double kRooflineWidth = 980, kRooflineHeight = 460;
constexpr double kRooflineLeft = 70, kRooflineRight = 24, kRooflineTop = 34, kRooflineBottom = 52;
constexpr double kLabelHeight = 13, kLabelWidth = 22;  // pixels that a dot's number takes

struct Dot {
  size_t number = 0;  // of the table's row, from 1
  const ReportOp* op = nullptr;
  double intensity = 0, gops = 0;
  Point at, label;
};

const char* colour_of(const std::string& phase) {
  if (phase == "decode") return kBlue;
  return phase == "prefill" ? kOrange : kGrey;
}

double gops_of(const ReportOp& op) {
  return op.seconds > 0 ? static_cast<double>(op.operations) / op.seconds * 1e-9 : 0;
}

double gbs_of(const ReportOp& op) {
  return op.seconds > 0 ? static_cast<double>(op.bytes) / op.seconds * 1e-9 : 0;
}

// Steps that only move or only touch activations have no place under the roofs.
std::vector<Dot> dots_of(const ReportData& data) {
  std::vector<Dot> dots;
  for (size_t i = 0; i < data.ops.size(); ++i) {
    const ReportOp& op = data.ops[i];
    if (op.bytes <= 0 || op.operations <= 0 || op.seconds <= 0) continue;
    const double intensity = static_cast<double>(op.operations) / static_cast<double>(op.bytes);
    dots.push_back({i + 1, &op, intensity, gops_of(op), {}, {}});
  }
  return dots;
}

// Half a pixel is no overlap, so that a label moved by kLabelHeight is past, however it rounds.
bool overlaps(Point a, Point b) {
  return std::abs(a.x - b.x) < kLabelWidth && std::abs(a.y - b.y) < kLabelHeight - 0.5;
}

// Numbers stand right of their dots, and move down past those that are already there.
void place_labels(std::vector<Dot>& dots) {
  std::sort(dots.begin(), dots.end(), [](const Dot& a, const Dot& b) { return a.at.y < b.at.y; });
  for (auto dot = dots.begin(); dot != dots.end(); ++dot) {
    dot->label = {dot->at.x + 20, dot->at.y};
    const auto blocking = [&] {
      return std::find_if(dots.begin(), dot,
                          [&](const Dot& placed) { return overlaps(placed.label, dot->label); });
    };
    for (auto it = blocking(); it != dot; it = blocking())
      dot->label.y = it->label.y + kLabelHeight;
  }
}

void draw_roofs(Svg& svg, const Axis& x, const Axis& y, const runtime::Roofs& roofs) {
  const double ridge = roofs.int8_gops / roofs.read_gbs;
  const double from = std::max(x.low, y.low / roofs.read_gbs);
  if (from < std::min(ridge, x.high)) {
    const double to = std::min(ridge, x.high);
    svg.line({x.at(from), y.at(from * roofs.read_gbs)}, {x.at(to), y.at(to * roofs.read_gbs)},
             kStrong, 2);
    const double middle = std::sqrt(from * to);
    svg.text({x.at(middle) - 12, y.at(middle * roofs.read_gbs) - 6}, Anchor::end,
             fmt::format("read {:.1f} GB/s", roofs.read_gbs), kStrong, true);
  }
  if (ridge < x.high) {
    svg.line({x.at(std::max(ridge, x.low)), y.at(roofs.int8_gops)}, {x.to, y.at(roofs.int8_gops)},
             kStrong, 2);
    svg.text({x.to - 4, y.at(roofs.int8_gops) - 7}, Anchor::end,
             fmt::format("int8 {:.0f} GOP/s", roofs.int8_gops), kStrong, true);
  }
}

std::string picture(const ReportData& data, std::vector<Dot> dots) {
  const runtime::Roofs& roofs = data.roofs;
  std::vector<double> intensities, rates;
  for (const Dot& dot : dots) {
    intensities.push_back(dot.intensity);
    rates.push_back(dot.gops);
  }
  const bool roofed = roofs.read_gbs > 0 && roofs.int8_gops > 0;
  if (roofed) {
    intensities.push_back(roofs.int8_gops / roofs.read_gbs * 2);
    rates.push_back(roofs.int8_gops);
  }
  const Axis x = axis_over(intensities, true, kRooflineLeft, kRooflineWidth - kRooflineRight);
  const Axis y = axis_over(rates, true, kRooflineHeight - kRooflineBottom, kRooflineTop);
  Svg svg(kRooflineWidth, kRooflineHeight, "Roofline of the model's steps");
  draw_axes(svg, x, y, "operations a byte", "GOP/s");
  if (roofed) draw_roofs(svg, x, y, roofs);
  double longest = 0;
  for (Dot& dot : dots) {
    dot.at = {x.at(dot.intensity), y.at(dot.gops)};
    longest = std::max(longest, dot.op->seconds);
  }
  place_labels(dots);
  for (const Dot& dot : dots) {
    svg.line(dot.at, {dot.label.x - 5, dot.label.y}, kFrame);
    svg.text({dot.label.x - 3, dot.label.y + 4}, Anchor::start, std::to_string(dot.number));
  }
  for (const Dot& dot : dots) {
    svg.dot(dot.at, 5, colour_of(dot.op->phase),
            fmt::format("{}: {} ({}), {:.1f} GOP/s, {:.1f} GB/s", dot.number, dot.op->name,
                        dot.op->phase, dot.gops, gbs_of(*dot.op)));
  }
  const LegendEntry legend[] = {{"a decoded token", kBlue}, {"a prompt", kOrange}};
  draw_legend(svg, {x.to - 130, y.from - 46}, legend);
  return svg.finish();
}

std::string cell(double value) { return value > 0 ? fmt::format("{:.1f}", value) : "–"; }

std::string share_cell(const ReportOp& op, const runtime::Roofs& roofs) {
  const RoofShare share = share_of_roof({op.bytes, op.operations}, op.seconds, roofs);
  if (share.share <= 0) return "–";
  return fmt::format("<span class=\"bar\" style=\"width:{:.0f}px;background:{}\"></span>{:.0f}% {}",
                     std::min(share.share, 1.2) * 50, colour_of(op.phase), share.share * 100,
                     share.of_read ? "read" : "int8");
}

std::string table(const ReportData& data) {
  std::string rows;
  for (size_t i = 0; i < data.ops.size(); ++i) {
    const ReportOp& op = data.ops[i];
    double phase_seconds = 0;
    for (const ReportOp& other : data.ops) {
      if (other.phase == op.phase) phase_seconds += other.seconds;
    }
    rows += fmt::format(
        "<tr><td>{}</td><td class=\"name\">{}</td><td class=\"name\">{}</td><td>{}</td>"
        "<td>{:.3f}</td><td>{:.1f}</td><td>{}</td><td>{}</td><td class=\"share\">{}</td></tr>\n",
        i + 1, escape(op.phase), escape(op.name), op.calls, op.seconds * 1e3,
        phase_seconds > 0 ? op.seconds / phase_seconds * 100 : 0, cell(gbs_of(op)),
        cell(gops_of(op)), share_cell(op, data.roofs));
  }
  return "<table>\n<thead><tr><th></th><th class=\"name\">phase</th><th class=\"name\">step</th>"
         "<th>calls</th><th>ms</th><th>% of time</th><th>GB/s</th><th>GOP/s</th>"
         "<th class=\"share\">of its roof</th></tr></thead>\n<tbody>\n" +
         rows + "</tbody>\n</table>\n";
}

}  // namespace

std::string render_roofline(const ReportData& data) {
  if (data.ops.empty()) return "";
  std::vector<Dot> dots = dots_of(data);
  return (dots.empty() ? "" : picture(data, std::move(dots))) + table(data);
}

}  // namespace nibble::report
