#include "tools/report/page.h"

#include <array>

#include "jit/error.h"
#include "tools/report/svg.h"

namespace nibble::report {
namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --text: #1f2937; --muted: #4b5563;
        --border: #e5e7eb; --strong-border: #d1d5db; --row: #f0f1f3; --chosen: #eff6ff; }
body { margin: 0; background: var(--page); color: var(--text); line-height: 1.45;
       font: 14px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 40px; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 2px; }
h3 { font-size: 13px; margin: 22px 0 2px; overflow-wrap: anywhere; }
p { margin: 0 0 10px; color: var(--muted); }
section { background: var(--card); border: 1px solid var(--border); border-radius: 8px; padding: 18px 22px;
          margin-top: 18px; overflow-x: auto; }
svg { display: block; font: 12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
.dot { stroke: var(--card); }
.tiles { display: flex; align-items: flex-start; gap: 16px; }
.tiles svg { flex: none; }
.facets { display: flex; flex-wrap: wrap; gap: 10px 18px; }
table { border-collapse: collapse; margin-top: 10px; font-size: 12.5px; font-variant-numeric: tabular-nums; width: 100%; }
th { text-align: right; font-weight: 600; color: var(--muted); border-bottom: 1px solid var(--strong-border); }
td { text-align: right; border-bottom: 1px solid var(--row); }
th, td { padding: 4px 8px; white-space: nowrap; }
.name, .wrapped { text-align: left; }
.wrapped { white-space: normal; min-width: 180px; }
.share { text-align: left; width: 130px; }
.bar { display: inline-block; height: 9px; border-radius: 2px; margin-right: 6px; }
.chosen td { background: var(--chosen); font-weight: 600; }
.badge { border: 1px solid currentColor; border-radius: 4px; padding: 0 5px; font-size: 11px; white-space: nowrap; }
.figures { display: flex; flex-wrap: wrap; gap: 8px 34px; margin-top: 14px; }
.figure b { display: block; font-size: 20px; }
.none { color: #6b7280; font-style: italic; }
@media print {
  :root { color-scheme: light; --page: #ffffff; }
  main { max-width: none; padding: 0; }
  section { border: none; padding: 0; overflow: visible; }
  svg { max-width: 100%; height: auto; }
  svg, tr, h2, h3 { break-inside: avoid; }
  h2, h3, section p { break-after: avoid; }
  .tiles svg { flex: 0 1 auto; min-width: 0; }
  .facets svg { width: 48%; }
  table { font-size: 10px; }
  th, td { padding: 2px 5px; white-space: normal; }
  .bar, .chosen td { print-color-adjust: exact; }
}
)";

constexpr const char* kDarkStyle = R"(
:root { --page: #111318; --card: #1a1d24; --text: #e5e7eb; --muted: #a7adb8; --border: #2d323c;
        --strong-border: #454b57; --row: #262a33; --chosen: #1e2a44; }
.none { color: #9ca3af; }
)";

// What a colour of a picture becomes on a dark page. Pictures name light ones, so that they stay
// whole when they are cut out of the page; colours of the heat map keep their own ground.
struct Pair {
  const char* light;
  const char* dark;
};
constexpr auto kDarkColours = std::to_array<Pair>({{kInk, "#d1d5db"},
                                                   {kStrong, "#f3f4f6"},
                                                   {kGrey, "#9ca3af"},
                                                   {kFrame, "#5b6371"},
                                                   {kGrid, "#2d323c"},
                                                   {kBlue, "#60a5fa"},
                                                   {kOrange, "#f59e0b"},
                                                   {kTeal, "#2dd4bf"},
                                                   {kMagenta, "#e879f9"},
                                                   {kRed, "#f87171"},
                                                   {kOlive, "#a3e635"},
                                                   {kViolet, "#a78bfa"},
                                                   {kBrown, "#d6a77a"}});

std::string style() {
  std::string text =
      fmt::format("{}@media screen and (prefers-color-scheme: dark) {{{}", kStyle, kDarkStyle);
  for (const Pair& pair : kDarkColours) {
    text +=
        fmt::format("svg [fill=\"{0}\"] {{ fill: {1}; }} svg [stroke=\"{0}\"] {{ stroke: {1}; }}\n",
                    pair.light, pair.dark);
  }
  return text + "}\n";
}

}  // namespace

std::string page(std::string_view title, std::string_view content) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</"
      "html>\n",
      escape(title), style(), content);
}

std::string section(std::string_view title, std::string_view about, std::string_view body,
                    std::string_view missing) {
  const std::string content =
      body.empty() ? fmt::format("<p class=\"none\">{}</p>\n", missing) : std::string(body);
  return fmt::format("<section>\n<h2>{}</h2>\n<p>{}</p>\n{}</section>\n", title, about, content);
}

std::string figure(std::string_view value, std::string_view what) {
  return fmt::format("<div class=\"figure\"><b>{}</b>{}</div>\n", escape(value), what);
}

std::string figures(std::string_view content) {
  return fmt::format("<div class=\"figures\">\n{}</div>\n", content);
}

}  // namespace nibble::report
