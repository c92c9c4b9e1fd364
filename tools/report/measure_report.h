// Fills a report's roofs, steps and curves from a session: minutes of measuring on a large model,
// seconds on a small one. Called by whoever writes the page; tilings come from the tuner.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/session.h"
#include "runtime/thread_pool.h"
#include "tools/report/curves.h"
#include "tools/report/op_profile.h"
#include "tools/report/report.h"

namespace nibble::report {

struct MeasureOptions {
  int64_t prompt = 256;                                              // ids of the recorded prompt
  int64_t tokens = 16;                                               // decoded at each context
  std::vector<int64_t> contexts = {16, 256, 512, 1024, 2048, 4096};  // those that fit are measured
  std::vector<int64_t> rows = {1, 2, 4, 8, 16};
  int64_t rounds = 7;   // of the passes of several rows
  Pause pause = [] {};  // called between passes; throws to stop
};

// Resets the session, and again before the contexts. Throws Error when the prompt, or the rows,
// do not fit the context.
void measure_report(runtime::Session& session, runtime::ThreadPool& pool,
                    const MeasureOptions& options, ReportData& data);

// The lines of a profile as steps of a phase.
std::vector<ReportOp> ops_of(const OpProfile& profile, const std::string& phase);

}  // namespace nibble::report
