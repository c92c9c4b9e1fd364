#include "tools/report/op_profile.h"

#include <algorithm>
#include <map>
#include <set>

#include "jit/error.h"

namespace nibble::report {
namespace {

struct Unit {
  int64_t number = 0, rows = 0;
  double begin = 0, end = 0;
  double seconds() const { return end - begin; }
};

std::vector<Unit> units_of(std::span<const StepSpan> spans, bool together) {
  std::vector<Unit> units;
  for (size_t i = 0; i < spans.size(); ++i) {
    const StepSpan& span = spans[i];
    const bool first_step = i == 0 || span.pass != spans[i - 1].pass;  // works on all rows
    if (units.empty() || (first_step && !together)) units.push_back({span.pass, 0, span.begin, 0});
    Unit& unit = units.back();
    if (first_step) unit.rows += span.rows;
    unit.end = span.end;
  }
  return units;
}

// The middle half by duration: what disturbs a few units does not count.
std::vector<Unit> middle_half(std::vector<Unit> units) {
  std::sort(units.begin(), units.end(),
            [](const Unit& a, const Unit& b) { return a.seconds() < b.seconds(); });
  const auto cut = static_cast<std::ptrdiff_t>(units.size() / 4);
  return {units.begin() + cut, units.end() - cut};
}

std::string rate_text(double amount, double seconds) {
  return amount > 0 && seconds > 0 ? fmt::format("{:.1f}", amount / seconds * 1e-9) : "-";
}

}  // namespace

RoofShare share_of_roof(const runtime::StepWork& work, double seconds,
                        const runtime::Roofs& roofs) {
  if (seconds <= 0 || roofs.read_gbs <= 0 || roofs.int8_gops <= 0) return {};
  const double read = static_cast<double>(work.bytes) / (roofs.read_gbs * 1e9);
  const double compute = static_cast<double>(work.operations) / (roofs.int8_gops * 1e9);
  return {std::max(read, compute) / seconds, read >= compute};
}

std::vector<StepSpan> spans_of(std::span<const runtime::StepTime> times) {
  std::map<std::pair<int64_t, int64_t>, StepSpan> spans;
  int threads = 1;
  for (const runtime::StepTime& time : times) {
    threads = std::max(threads, time.thread + 1);
    auto [at, added] = spans.try_emplace({time.pass, time.step});
    StepSpan& span = at->second;
    if (added) {
      span = {time.pass, time.step, time.position, time.rows, time.begin, time.end, 0};
    }
    span.begin = std::min(span.begin, time.begin);
    span.end = std::max(span.end, time.end);
    span.wait += time.left - time.end;
  }
  std::vector<StepSpan> result;
  for (auto& [key, span] : spans) {
    span.wait /= threads;
    result.push_back(span);
  }
  return result;
}

OpProfile profile_of(const runtime::Plan& plan, std::span<const runtime::StepTime> times,
                     jit::KvType kv, bool together) {
  const std::vector<StepSpan> spans = spans_of(times);
  OpProfile profile;
  if (spans.empty()) return profile;
  const std::vector<Unit> units = middle_half(units_of(spans, together));
  const auto count = static_cast<double>(units.size());
  std::set<int64_t> kept;
  for (const Unit& unit : units) {
    kept.insert(unit.number);
    profile.seconds += unit.seconds() / count;
  }
  std::map<std::string, OpLine> lines;
  double in_steps = 0;
  double reached = spans.front().begin;  // the end of all steps so far
  for (const StepSpan& span : spans) {
    // Where no barrier lies between two steps, one thread may begin the next while another still
    // works: that time is the former's alone.
    const double seconds = std::max(0.0, span.end - std::max(span.begin, reached));
    reached = std::max(reached, span.end);
    if (!together && !kept.contains(span.pass)) continue;
    const runtime::Step& step = plan.steps[static_cast<size_t>(span.step)];
    const runtime::StepWork work = runtime::work_of(step, span.position, span.rows, kv);
    OpLine& line = lines[runtime::step_kind(step)];
    ++line.calls;
    line.seconds += seconds / count;
    line.work.bytes += work.bytes;
    line.work.operations += work.operations;
    in_steps += seconds / count;
    profile.waiting += span.wait / count;
  }
  profile.units = static_cast<int64_t>(units.size());
  profile.rows = units.front().rows;
  profile.between = std::max(0.0, profile.seconds - in_steps);
  for (auto& [kind, line] : lines) {
    line.kind = kind;
    line.calls /= profile.units;
    line.work.bytes /= profile.units;
    line.work.operations /= profile.units;
    profile.lines.push_back(std::move(line));
  }
  std::stable_sort(profile.lines.begin(), profile.lines.end(),
                   [](const OpLine& a, const OpLine& b) { return a.seconds > b.seconds; });
  return profile;
}

nlohmann::ordered_json to_json(const OpProfile& profile, const runtime::Roofs& roofs) {
  nlohmann::ordered_json ops = nlohmann::ordered_json::array();
  for (const OpLine& line : profile.lines) {
    const RoofShare share = share_of_roof(line.work, line.seconds, roofs);
    const double per = line.seconds > 0 ? 1e-9 / line.seconds : 0;
    ops.push_back({{"op", line.kind},
                   {"calls", line.calls},
                   {"ms", line.seconds * 1e3},
                   {"share_of_time", profile.seconds > 0 ? line.seconds / profile.seconds : 0},
                   {"bytes", line.work.bytes},
                   {"operations", line.work.operations},
                   {"gbs", static_cast<double>(line.work.bytes) * per},
                   {"gops", static_cast<double>(line.work.operations) * per},
                   {"share_of_roof", share.share},
                   {"roof", share.of_read ? "read" : "int8"}});
  }
  return {{"units", profile.units},
          {"rows", profile.rows},
          {"ms", profile.seconds * 1e3},
          {"between_steps_ms", profile.between * 1e3},
          {"barrier_wait_ms", profile.waiting * 1e3},
          {"ops", std::move(ops)}};
}

std::string to_table(const OpProfile& profile, const runtime::Roofs& roofs) {
  size_t width = 24;
  for (const OpLine& line : profile.lines) width = std::max(width, line.kind.size());
  const auto of_time = [&](double seconds) {
    return profile.seconds > 0 ? seconds / profile.seconds * 100 : 0;
  };
  std::string text =
      fmt::format("  {:<{}} {:>6} {:>10} {:>7} {:>10} {:>8} {:>9}  {}\n", "op", width, "calls",
                  "ms", "% time", "MB", "GB/s", "GOP/s", "% of roof");
  for (const OpLine& line : profile.lines) {
    const RoofShare share = share_of_roof(line.work, line.seconds, roofs);
    const auto bytes = static_cast<double>(line.work.bytes);
    text += fmt::format("  {:<{}} {:>6} {:>10.3f} {:>7.1f} {:>10.2f} {:>8} {:>9}  {}\n", line.kind,
                        width, line.calls, line.seconds * 1e3, of_time(line.seconds), bytes * 1e-6,
                        rate_text(bytes, line.seconds),
                        rate_text(static_cast<double>(line.work.operations), line.seconds),
                        share.share > 0 ? fmt::format("{:.1f} {}", share.share * 100,
                                                      share.of_read ? "read" : "int8")
                                        : "-");
  }
  text += fmt::format("  {:<{}} {:>6} {:>10.3f} {:>7.1f}\n", "between steps", width, "",
                      profile.between * 1e3, of_time(profile.between));
  text += fmt::format("  {:<{}} {:>6} {:>10.3f} {:>7.1f}\n", "whole", width, "",
                      profile.seconds * 1e3, 100.0);
  text +=
      fmt::format("  {:<{}} {:>6} {:>10.3f} {:>7.1f}  within the steps' time, mean of threads\n",
                  "barrier wait", width, "", profile.waiting * 1e3, of_time(profile.waiting));
  return text;
}

}  // namespace nibble::report
