#include "tools/report/svg.h"

#include <algorithm>
#include <cmath>

#include "jit/error.h"

namespace nibble::report {
namespace {

constexpr double kLegendLine = 18;  // pixels
constexpr double kTickGap = 20;     // pixels, between ticks on both sides of zero

const char* anchor_name(Anchor anchor) {
  return anchor == Anchor::start ? "start" : anchor == Anchor::middle ? "middle" : "end";
}

std::string dashes(bool dashed) { return dashed ? " stroke-dasharray=\"5 4\"" : ""; }

std::string title(std::string_view note) {
  return note.empty() ? "" : fmt::format("<title>{}</title>", escape(note));
}

// 1, 2 or 5 times a power of ten, not below `least`.
double round_step(double least) {
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

std::vector<double> logarithmic_ticks(double low, double high) {
  const bool many = std::log10(high / low) > 3;
  std::vector<double> ticks;
  for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * power;
      if (factor > 1 && many) break;
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push_back(tick);
    }
  }
  return ticks;
}

// Zero and 1, 2 or 5 times powers of ten on both sides of it; where they would touch, tens stay.
std::vector<double> symmetric_ticks(const Axis& axis) {
  std::vector<double> ticks;
  const auto add = [&](double tick) {
    if (tick < axis.low || tick > axis.high) return;
    for (const double there : ticks) {
      if (std::abs(axis.at(there) - axis.at(tick)) < kTickGap) return;
    }
    ticks.push_back(tick);
  };
  add(0);
  const double highest = std::max(std::abs(axis.low), std::abs(axis.high));
  for (const double factor : {1.0, 5.0, 2.0}) {
    double power = std::pow(10, std::floor(std::log10(highest)));
    for (; power >= axis.linear_to / 20; power /= 10) {
      add(factor * power);
      add(-factor * power);
    }
  }
  std::sort(ticks.begin(), ticks.end());
  return ticks;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        safe += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return safe;
}

Svg::Svg(double width, double height, std::string_view label, std::string_view description)
    : text_(fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" "
                        "height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" role=\"img\" "
                        "aria-label=\"{2}\">\n",
                        width, height, escape(label))) {
  if (!description.empty()) text_ += fmt::format("<desc>{}</desc>\n", escape(description));
}

void Svg::line(Point a, Point b, std::string_view colour, double width, bool dashed) {
  text_ += fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
      "stroke-width=\"{:g}\"{}/>\n",
      a.x, a.y, b.x, b.y, colour, width, dashes(dashed));
}

void Svg::polyline(std::span<const Point> points, std::string_view colour, double width,
                   bool dashed, std::string_view note) {
  std::string list;
  for (const Point& point : points) list += fmt::format("{:.1f},{:.1f} ", point.x, point.y);
  text_ += fmt::format(
      "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{:g}\"{}>{}</polyline>\n",
      list, colour, width, dashes(dashed), title(note));
}

void Svg::dot(Point at, double radius, std::string_view colour, std::string_view note) {
  text_ += fmt::format(
      "<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:g}\" fill=\"{}\" "
      "fill-opacity=\"0.85\" stroke=\"#ffffff\">{}</circle>\n",
      at.x, at.y, radius, colour, title(note));
}

void Svg::ring(Point at, double radius, std::string_view colour) {
  text_ += fmt::format(
      "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:g}\" fill=\"none\" stroke=\"{}\" "
      "stroke-width=\"1.5\"/>\n",
      at.x, at.y, radius, colour);
}

void Svg::rect(Point corner, double width, double height, std::string_view fill,
               std::string_view stroke, std::string_view note) {
  text_ += fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\" "
      "stroke=\"{}\">{}</rect>\n",
      corner.x, corner.y, width, height, fill, stroke, title(note));
}

void Svg::text(Point at, Anchor anchor, std::string_view text, std::string_view colour, bool bold) {
  text_ += fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" fill=\"{}\"{}>{}</text>\n", at.x, at.y,
      anchor_name(anchor), colour, bold ? " font-weight=\"700\"" : "", escape(text));
}

void Svg::vertical_text(Point at, std::string_view text) {
  text_ += fmt::format(
      "<text transform=\"translate({:.1f} {:.1f}) rotate(-90)\" text-anchor=\"middle\" "
      "fill=\"{}\">{}</text>\n",
      at.x, at.y, kInk, escape(text));
}

std::string Svg::finish() const { return text_ + "</svg>\n"; }

double Axis::at(double value) const {
  const auto share = [&] {
    if (logarithmic) return std::log(value / low) / std::log(high / low);
    if (linear_to <= 0) return (value - low) / (high - low);
    const double first = std::asinh(low / linear_to), last = std::asinh(high / linear_to);
    return (std::asinh(value / linear_to) - first) / (last - first);
  };
  return from + share() * (to - from);
}

std::vector<double> Axis::ticks() const {
  if (!marks.empty()) return marks;
  if (logarithmic) return logarithmic_ticks(low, high);
  if (linear_to > 0) return symmetric_ticks(*this);
  std::vector<double> ticks;
  const double step = round_step((high - low) / 7);
  for (double i = std::ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); ++i) {
    ticks.push_back(i * step + 0.0);  // no -0
  }
  return ticks;
}

Axis axis_over(std::span<const double> values, bool logarithmic, double from, double to) {
  double low = *std::min_element(values.begin(), values.end());
  double high = *std::max_element(values.begin(), values.end());
  if (logarithmic)
    return {.low = low / 1.6, .high = high * 1.6, .from = from, .to = to, .logarithmic = true};
  low = std::min(low, 0.0);
  if (high <= low) high = low + 1;
  const double step = round_step((high - low) / 7);
  high = std::ceil(high * 1.02 / step) * step;
  return {.low = low, .high = high, .from = from, .to = to};
}

// Neighbours that would stand too near form a run, which stands around the mean of what its members
// want; runs that meet become one.
std::vector<double> spread(std::span<const double> wanted, double gap, double low, double high) {
  const size_t count = wanted.size();
  if (count > 1) gap = std::min(gap, (high - low) / static_cast<double>(count - 1));
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return wanted[a] < wanted[b]; });
  struct Run {
    double first = 0;  // where its first member stands
    size_t members = 0;
  };
  std::vector<Run> runs;
  for (const size_t i : order) {
    Run run{wanted[i], 1};
    while (!runs.empty() &&
           run.first < runs.back().first + gap * static_cast<double>(runs.back().members)) {
      const Run& before = runs.back();
      const auto a = static_cast<double>(before.members), b = static_cast<double>(run.members);
      run = {(before.first * a + (run.first - gap * a) * b) / (a + b),
             before.members + run.members};
      runs.pop_back();
    }
    runs.push_back(run);
  }
  std::vector<double> places(count);
  size_t at = 0;
  for (const Run& run : runs) {
    for (size_t i = 0; i < run.members; ++i, ++at) {
      const double least = low + gap * static_cast<double>(at);
      const double most = high - gap * static_cast<double>(count - 1 - at);
      const double place = run.first + gap * static_cast<double>(i);
      places[order[at]] = std::max(least, std::min(place, most));
    }
  }
  return places;
}

std::string number(double value) {
  const double size = std::abs(value);
  if (size >= 1e9) return fmt::format("{:.3g}G", value * 1e-9);
  if (size >= 1e6) return fmt::format("{:.3g}M", value * 1e-6);
  if (size >= 1e4) return fmt::format("{:.3g}k", value * 1e-3);
  if (size >= 100) return fmt::format("{:.0f}", value);
  return fmt::format("{:.3g}", value);
}

void draw_axes(Svg& svg, const Axis& x, const Axis& y, std::string_view x_title,
               std::string_view y_title) {
  for (const double tick : x.ticks()) {
    svg.line({x.at(tick), y.from}, {x.at(tick), y.to}, kGrid);
    svg.text({x.at(tick), y.from + 17}, Anchor::middle, number(tick), kGrey);
  }
  for (const double tick : y.ticks()) {
    svg.line({x.from, y.at(tick)}, {x.to, y.at(tick)}, kGrid);
    svg.text({x.from - 7, y.at(tick) + 4}, Anchor::end, number(tick), kGrey);
  }
  svg.line({x.from, y.from}, {x.to, y.from}, kFrame);
  svg.line({x.from, y.from}, {x.from, y.to}, kFrame);
  svg.text({(x.from + x.to) / 2, y.from + 38}, Anchor::middle, x_title);
  svg.vertical_text({x.from - 46, (y.from + y.to) / 2}, y_title);
}

void draw_legend(Svg& svg, Point corner, std::span<const LegendEntry> entries) {
  Point at{corner.x, corner.y + kLegendLine / 2};
  for (const LegendEntry& entry : entries) {
    if (entry.line) {
      svg.line({at.x, at.y}, {at.x + 22, at.y}, entry.colour, 2, entry.dashed);
    } else {
      svg.rect({at.x + 6, at.y - 5}, 10, 10, entry.colour, entry.colour);
    }
    svg.text({at.x + 29, at.y + 4}, Anchor::start, entry.text);
    at.y += kLegendLine;
  }
}

}  // namespace nibble::report
