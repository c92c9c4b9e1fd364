#include "tools/report/measure_report.h"

#include "runtime/recorder.h"
#include "runtime/step_work.h"

namespace nibble::report {
namespace {

// A prompt and then some tokens, with every step's times.
void measure_ops(runtime::Session& session, runtime::ThreadPool& pool,
                 const MeasureOptions& options, ReportData& data) {
  const auto ids = random_ids(options.prompt, session.vocab_size());
  session.reset();
  session.forward(ids);  // caches, page tables, clocks
  options.pause();
  session.reset();
  const auto passes = static_cast<size_t>(std::max(options.prompt, options.tokens));
  runtime::Recorder recorder(pool.size(), passes * session.plan().steps.size());
  session.record(&recorder);
  const runtime::Plan& plan = session.plan();
  session.forward(ids);
  data.ops = ops_of(profile_of(plan, recorder.times(), session.kv_type(), true), "prefill");
  recorder.clear();
  decode_seconds(session, options.tokens, options.pause);
  session.record(nullptr);
  const OpProfile decode = profile_of(plan, recorder.times(), session.kv_type(), false);
  const auto ops = ops_of(decode, "decode");
  data.ops.insert(data.ops.begin(), ops.begin(), ops.end());
}

std::vector<ContextPoint> measure_contexts(runtime::Session& session,
                                           const MeasureOptions& options) {
  std::vector<int64_t> fitting;
  for (const int64_t context : options.contexts) {
    if (context + options.tokens <= session.context_length()) fitting.push_back(context);
  }
  return context_curve(session, fitting, options.tokens, options.pause);
}

void set_contexts(const runtime::Session& session, std::span<const ContextPoint> points,
                  ReportData& data) {
  const runtime::Plan& plan = session.plan();
  data.contexts.clear();
  for (const ContextPoint& point : points) {
    const int64_t kv = runtime::kv_bytes_read(plan, point.context, session.kv_type());
    const auto bytes = static_cast<double>(plan.weight_bytes_per_token + kv);
    data.contexts.push_back(
        {point.context, 1 / point.seconds, bytes > 0 ? data.roofs.read_gbs * 1e9 / bytes : 0});
  }
}

}  // namespace

void measure_report(runtime::Session& session, runtime::ThreadPool& pool,
                    const MeasureOptions& options, ReportData& data) {
  const runtime::Roofs before = runtime::measure_roofs(pool);
  measure_ops(session, pool, options, data);
  session.reset();
  fill(session, 1);
  data.rows.clear();
  for (const RowsPoint& point : rows_curve(session, options.rows, options.rounds, options.pause)) {
    data.rows.push_back({point.m, point.seconds, point.ratio});
  }
  const runtime::Roofs between = runtime::measure_roofs(pool);
  const auto points = measure_contexts(session, options);
  // Shared machines change their pace, so the roofs are the best of three.
  data.roofs = best_of(best_of(before, between), runtime::measure_roofs(pool));
  set_contexts(session, points, data);
}

std::vector<ReportOp> ops_of(const OpProfile& profile, const std::string& phase) {
  std::vector<ReportOp> ops;
  for (const OpLine& line : profile.lines) {
    ops.push_back(
        {line.kind, phase, line.calls, line.work.bytes, line.work.operations, line.seconds});
  }
  return ops;
}

}  // namespace nibble::report
