// One self-contained HTML page of what was measured: inline SVG, no script, nothing fetched. The
// input is plain data, so that whoever measures (bench, the tuner) fills in what there is; a
// section without data says so. `nibble tune report` writes it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/machine_roofs.h"

namespace nibble::report {

// A kind of step in one phase: a dot of the roofline.
struct ReportOp {
  std::string name;
  std::string phase;  // "decode", "prefill": a colour each
  int64_t calls = 0;
  int64_t bytes = 0, operations = 0;  // of all calls
  double seconds = 0;
};

struct TilingTime {
  std::string tiling;                   // as in kernels' names: "8x16x4f2048", rows x columns x ...
  double median = 0, p20 = 0, p80 = 0;  // seconds
  int64_t samples = 0;
};

// All that was tried for one matmul and number of rows: a heat map.
struct TilingChoice {
  std::string spec, isa;
  int64_t m = 1;
  int threads = 1;
  std::vector<TilingTime> candidates;  // in any order
  std::string winner, default_tiling;  // of the candidates; "" when not known
};

struct ContextSpeed {
  int64_t context = 0;
  double tok_s = 0;
  double roof_tok_s = 0;  // what the read roof would allow; 0: not known
};

struct RowsCost {
  int64_t m = 0;
  double seconds = 0;
  double ratio = 0;  // to one row
};

struct ReportData {
  std::string model;    // "llama2-7b, INT4 g128"
  std::string machine;  // processor, instruction set, threads
  std::string date;
  runtime::Roofs roofs;
  std::vector<ReportOp> ops;
  std::vector<TilingChoice> tilings;
  std::vector<ContextSpeed> contexts;  // ascending
  std::vector<RowsCost> rows;          // ascending
};

std::string render_report(const ReportData& data);

// The sections, each complete HTML; "" of data that has nothing for it.
std::string render_roofline(const ReportData& data);
std::string render_tilings(const ReportData& data);
std::string render_contexts(const ReportData& data);
std::string render_rows(const ReportData& data);

}  // namespace nibble::report
