#include "tools/report/chrome_trace.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "jit/error.h"
#include "tools/report/op_profile.h"

namespace nibble::report {
namespace {

using Json = nlohmann::ordered_json;

Json metadata(const char* what, int thread, const std::string& name) {
  return {{"name", what}, {"ph", "M"}, {"pid", 1}, {"tid", thread}, {"args", {{"name", name}}}};
}

Json slice(const std::string& name, const char* category, int thread, double begin, double end) {
  return {{"name", name},
          {"cat", category},
          {"ph", "X"},
          {"pid", 1},
          {"tid", thread},
          {"ts", begin * 1e6},
          {"dur", std::max(0.0, end - begin) * 1e6}};
}

Json args_of(const runtime::Step& step, const StepSpan& span, jit::KvType kv,
             const runtime::Roofs& roofs) {
  const runtime::StepWork work = runtime::work_of(step, span.position, span.rows, kv);
  const double seconds = span.end - span.begin;
  const double per = seconds > 0 ? 1e-9 / seconds : 0;
  const RoofShare share = share_of_roof(work, seconds, roofs);
  Json args = {{"layer", step.layer},
               {"step", span.step},
               {"position", span.position},
               {"rows", span.rows},
               {"bytes", work.bytes},
               {"operations", work.operations},
               {"gbs", static_cast<double>(work.bytes) * per},
               {"gops", static_cast<double>(work.operations) * per},
               {"share_of_roof", share.share}};
  if (share.share > 0) args["roof"] = share.of_read ? "read" : "int8";
  return args;
}

}  // namespace

std::string chrome_trace(const runtime::Plan& plan, std::span<const runtime::StepTime> times,
                         jit::KvType kv, const runtime::Roofs& roofs) {
  std::map<std::pair<int64_t, int64_t>, Json> args;
  double start = 0;
  for (const StepSpan& span : spans_of(times)) {
    if (args.empty()) start = span.begin;
    args[{span.pass, span.step}] =
        args_of(plan.steps[static_cast<size_t>(span.step)], span, kv, roofs);
  }
  std::string text = "[" + metadata("process_name", 0, "nibble").dump();
  const auto add = [&text](const Json& event) { text += ",\n" + event.dump(); };
  int named = 0;
  for (const runtime::StepTime& time : times) {
    for (; named <= time.thread; ++named) {
      add(metadata("thread_name", named, fmt::format("thread {}", named)));
    }
    const runtime::Step& step = plan.steps[static_cast<size_t>(time.step)];
    Json event =
        slice(runtime::step_kind(step), "step", time.thread, time.begin - start, time.end - start);
    event["args"] = args.at({time.pass, time.step});
    add(event);
    add(slice("wait", "barrier", time.thread, time.end - start, time.left - start));
  }
  return text + "]\n";
}

}  // namespace nibble::report
