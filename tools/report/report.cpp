#include "tools/report/report.h"

#include "jit/error.h"
#include "tools/report/svg.h"

namespace nibble::report {
namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f9; color: #1f2937; line-height: 1.45;
       font: 14px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 40px; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 17px; margin: 0 0 2px; }
h3 { font-size: 13px; margin: 22px 0 2px; overflow-wrap: anywhere; }
p { margin: 0 0 10px; color: #4b5563; }
section { background: #ffffff; border: 1px solid #e5e7eb; border-radius: 8px; padding: 18px 22px;
          margin-top: 18px; overflow-x: auto; }
svg { display: block; font: 12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
.tiles { display: flex; align-items: flex-start; gap: 16px; }
.tiles svg { flex: none; }
table { border-collapse: collapse; margin-top: 10px; font-size: 12.5px; font-variant-numeric: tabular-nums; width: 100%; }
th { text-align: right; font-weight: 600; color: #4b5563; border-bottom: 1px solid #d1d5db; }
td { text-align: right; border-bottom: 1px solid #f0f1f3; }
th, td { padding: 4px 8px; white-space: nowrap; }
.name { text-align: left; }
.share { text-align: left; width: 130px; }
.bar { display: inline-block; height: 9px; border-radius: 2px; margin-right: 6px; }
.figures { display: flex; flex-wrap: wrap; gap: 8px 34px; margin-top: 14px; }
.figure b { display: block; font-size: 20px; }
.none { color: #6b7280; font-style: italic; }
)";

std::string section(const char* title, const char* about, const std::string& body,
                    const char* missing) {
  const std::string content =
      body.empty() ? fmt::format("<p class=\"none\">{}</p>\n", missing) : body;
  return fmt::format("<section>\n<h2>{}</h2>\n<p>{}</p>\n{}</section>\n", title, about, content);
}

std::string figure(const std::string& value, const std::string& what) {
  return fmt::format("<div class=\"figure\"><b>{}</b>{}</div>\n", escape(value), what);
}

std::string heading(const ReportData& data) {
  std::string text = fmt::format(
      "<h1>{}</h1>\n<p>{}</p>\n<div class=\"figures\">\n",
      escape(data.model.empty() ? "Nibble" : data.model),
      escape(data.machine + (data.machine.empty() || data.date.empty() ? "" : ", ") + data.date));
  if (data.roofs.read_gbs > 0) {
    text += figure(fmt::format("{:.1f} GB/s", data.roofs.read_gbs), "read roof");
    text += figure(fmt::format("{:.0f} GOP/s", data.roofs.int8_gops), "int8 roof");
  }
  if (!data.contexts.empty()) {
    const ContextSpeed& first = data.contexts.front();
    text += figure(fmt::format("{:.1f} tok/s", first.tok_s),
                   fmt::format("decoding, {} positions held", first.context));
    if (first.roof_tok_s > 0) {
      text +=
          figure(fmt::format("{:.0f}%", first.tok_s / first.roof_tok_s * 100), "of the read roof");
    }
  }
  return text + "</div>\n";
}

}  // namespace

std::string render_report(const ReportData& data) {
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{}: measured by Nibble</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
      escape(data.model.empty() ? "Nibble" : data.model), kStyle);
  page += heading(data);
  page +=
      section("Roofline",
              "A dot is a kind of step, all layers together: how many operations it does with a "
              "byte of weights and cache, and at what rate. The line is what the machine allows.",
              render_roofline(data), "No steps were recorded.");
  page += section("Tok/s against context", "Decoding with so many positions held.",
                  render_contexts(data), "No contexts were measured.");
  page += section("Cost of a pass against its rows",
                  "Time of a pass of m rows over that of one row: what checking m guesses or "
                  "serving m sequences costs.",
                  render_rows(data), "No passes of several rows were measured.");
  page += section("Tiles",
                  "Left, the best time of each tile shape, rows by columns, over the best of all "
                  "(1.00). Right, the fastest candidates: median, and a bar from the 20th to the "
                  "80th percentile.",
                  render_tilings(data), "No tilings were measured.");
  return page + "</main>\n</body>\n</html>\n";
}

}  // namespace nibble::report
