// Pieces of a page without scripts: text made safe, shapes in pixels, and axes. Used by the pages'
// sections (report_*.cpp) alone; knows no measurements.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::report {

// Colours of every section, each with a dark page's counterpart in page.cpp; the heat map has its
// own scale.
inline constexpr const char* kInk = "#374151";     // text
inline constexpr const char* kStrong = "#111827";  // what all else is seen against: roofs, marks
inline constexpr const char* kGrey = "#6b7280";
inline constexpr const char* kFrame = "#9ca3af";
inline constexpr const char* kGrid = "#e5e7eb";
inline constexpr const char* kBlue = "#2563eb";
inline constexpr const char* kOrange = "#d97706";
inline constexpr const char* kTeal = "#0d9488";
inline constexpr const char* kMagenta = "#c026d3";
inline constexpr const char* kRed = "#dc2626";
inline constexpr const char* kOlive = "#4d7c0f";
inline constexpr const char* kViolet = "#7c3aed";
inline constexpr const char* kBrown = "#92400e";

// Text as it may stand between tags and in attributes; control characters become spaces.
std::string escape(std::string_view text);

struct Point {
  double x = 0, y = 0;
};
enum class Anchor : uint8_t { start, middle, end };

// Shapes in order of drawing; x to the right, y down, in pixels.
class Svg {
 public:
  // `label`: what the picture shows, for those who cannot see it; `description`: what one would
  // read from it.
  Svg(double width, double height, std::string_view label, std::string_view description = "");
  void line(Point a, Point b, std::string_view colour, double width = 1, bool dashed = false);
  // `note`, here and below, appears when the pointer rests on the shape.
  void polyline(std::span<const Point> points, std::string_view colour, double width = 2,
                bool dashed = false, std::string_view note = "");
  void dot(Point at, double radius, std::string_view colour, std::string_view note);
  void ring(Point at, double radius, std::string_view colour);
  void rect(Point corner, double width, double height, std::string_view fill,
            std::string_view stroke, std::string_view note = "");
  void text(Point at, Anchor anchor, std::string_view text, std::string_view colour = kInk,
            bool bold = false);
  void vertical_text(Point at, std::string_view text);  // read upwards, centred
  std::string finish() const;                           // the whole element

 private:
  std::string text_;
};

// Where values lie between two ends in pixels.
struct Axis {
  double low = 0, high = 1;  // values; above 0 on a logarithmic axis
  double from = 0, to = 1;   // pixels of low and high
  bool logarithmic = false;
  std::vector<double> marks = {};  // ticks instead of round values
  // Above 0: linear near zero, and beyond this value, on both sides of zero, ever more logarithmic.
  double linear_to = 0;

  double at(double value) const;
  std::vector<double> ticks() const;  // round values within, ascending
};
// The axis whose ends are round and hold all `values` (at least one) with a little room.
Axis axis_over(std::span<const double> values, bool logarithmic, double from, double to);
// Positions within [low, high], moved from what is `wanted` as little as they must be (in the least
// squares) to stand `gap` apart, less where there is no room, in the order of what is wanted.
std::vector<double> spread(std::span<const double> wanted, double gap, double low, double high);
// Short and exact for round numbers: 0.5, 20, 2k, 1.5M.
std::string number(double value);

// A grid, its numbers and the axes' titles; what is drawn afterwards lies on top.
void draw_axes(Svg& svg, const Axis& x, const Axis& y, std::string_view x_title,
               std::string_view y_title);

struct LegendEntry {
  std::string text, colour;
  bool line = false, dashed = false;  // a stroke instead of a dot
};
void draw_legend(Svg& svg, Point corner, std::span<const LegendEntry> entries);

}  // namespace nibble::report
