#include "tools/report/report.h"

#include "jit/error.h"
#include "tools/report/page.h"
#include "tools/report/svg.h"

namespace nibble::report {
namespace {

std::string name_of(const ReportData& data) { return data.model.empty() ? "Nibble" : data.model; }

std::string heading(const ReportData& data) {
  std::string text;
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
  return fmt::format(
      "<h1>{}</h1>\n<p>{}</p>\n{}", escape(name_of(data)),
      escape(data.machine + (data.machine.empty() || data.date.empty() ? "" : ", ") + data.date),
      figures(text));
}

}  // namespace

std::string render_report(const ReportData& data) {
  std::string content = heading(data);
  content +=
      section("Roofline",
              "A dot is a kind of step, all layers together: how many operations it does with a "
              "byte of weights and cache, and at what rate. The line is what the machine allows.",
              render_roofline(data), "No steps were recorded.");
  content += section("Tok/s against context", "Decoding with so many positions held.",
                     render_contexts(data), "No contexts were measured.");
  content += section("Cost of a pass against its rows",
                     "Time of a pass of m rows over that of one row: what checking m guesses or "
                     "serving m sequences costs.",
                     render_rows(data), "No passes of several rows were measured.");
  content +=
      section("Tiles",
              "Left, the best time of each tile shape, rows by columns, over the best of all "
              "(1.00). Right, the fastest candidates: median, and a bar from the 20th to the "
              "80th percentile.",
              render_tilings(data), "No tilings were measured.");
  return page(name_of(data) + ": measured by Nibble", content);
}

}  // namespace nibble::report
