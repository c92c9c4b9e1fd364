#include "tools/report/trial_looks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "jit/error.h"
#include "tools/report/svg.h"

namespace nibble::report {
namespace {

constexpr auto kColours =
    std::to_array<const char*>({kBlue, kOrange, kTeal, kMagenta, kOlive, kRed, kViolet, kBrown});
constexpr size_t kLongestLabel = 34;  // bytes

// Not within a character of UTF-8.
std::string shortened(const std::string& text) {
  if (text.size() <= kLongestLabel) return text;
  size_t end = kLongestLabel;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return text.substr(0, end) + "…";
}

std::string fixed(double value, int decimals) {
  const std::string text = fmt::format("{:.{}f}", value, decimals);
  // A little below zero is no "-0.00".
  const bool zero = text.find_first_not_of("-0.") == std::string::npos;
  return zero && text.front() == '-' ? text.substr(1) : text;
}

}  // namespace

std::vector<TrialLook> looks_of(const QuantizeReport& report) {
  std::map<std::string, int> uses;
  for (const auto& trial : report.trials) ++uses[trial.method];
  std::vector<TrialLook> looks;
  size_t lines = 0;
  for (const auto& trial : report.trials) {
    const bool unique = uses[trial.method] == 1 || trial.text.empty();
    const std::string name = unique ? trial.method : trial.text.substr(0, trial.text.find(','));
    TrialLook look{fmt::format("{} {}", looks.size() + 1, shortened(name)), kGrey};
    if (!trial.weights.empty()) {
      look.colour = kColours[lines % kColours.size()];
      look.dashed = lines / kColours.size() % 2 == 1;
      ++lines;
    }
    looks.push_back(look);
  }
  return looks;
}

const QuantizeReport::Trial* best_of(const QuantizeReport& report) {
  return report.best < report.trials.size() ? &report.trials[report.best] : nullptr;
}

std::string percent(double share, double mark) {
  if (!std::isfinite(share)) return "not finite";
  int decimals = 2;
  while (share != mark && decimals < 6 &&
         fixed(share * 100, decimals) == fixed(mark * 100, decimals)) {
    ++decimals;
  }
  return fixed(share * 100, decimals) + "%";
}

std::string mark_text(const QuantizeReport& report) {
  return fmt::format("{:g}%", report.max_loss * 100);
}

bool has_interval(const QuantizeReport::Trial& trial) {
  return std::isfinite(trial.loss_low) && std::isfinite(trial.loss_high) &&
         trial.loss_low < trial.loss_high && trial.loss_low <= trial.loss &&
         trial.loss <= trial.loss_high;
}

std::string interval_text(const QuantizeReport::Trial& trial) {
  if (!has_interval(trial)) return "–";
  return fmt::format("{}% to {}%", fixed(trial.loss_low * 100, 2), fixed(trial.loss_high * 100, 2));
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds)) return "–";
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", std::max(seconds, 0.0) * 1e3);
  if (seconds < 99.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(std::min(seconds, 1e12)));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  const int64_t minutes = (whole + 30) / 60;
  return fmt::format("{} h {} min", minutes / 60, minutes % 60);
}

}  // namespace nibble::report
