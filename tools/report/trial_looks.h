// How a trial of quantizing is called and coloured and how its figures are written: the same in
// every section of the page. Used by quantize_report*.cpp alone.
#pragma once

#include <string>
#include <vector>

#include "tools/report/quantize_report.h"

namespace nibble::report {

struct TrialLook {
  std::string label;  // "3 gptq": its number in the table, from 1, and what tells it from others
  const char* colour = nullptr;
  bool dashed = false;  // the second trial of this colour
};
// Trials without errors of weights are grey: they have no line to be known by.
std::vector<TrialLook> looks_of(const QuantizeReport& report);

// The best trial; null where there is none.
const QuantizeReport::Trial* best_of(const QuantizeReport& report);

// "1.43%"; with as many decimals as it takes to tell it from the mark.
std::string percent(double share, double mark);
std::string mark_text(const QuantizeReport& report);  // "1%"
// Whether the interval is one, and the loss is in it.
bool has_interval(const QuantizeReport::Trial& trial);
std::string interval_text(const QuantizeReport::Trial& trial);  // "-0.10% to 0.95%"
std::string duration(double seconds);                           // "3.4 s", "12 min 30 s"

}  // namespace nibble::report
