// What the files of `nibble tune` share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "runtime/tuning_db_json.h"
#include "tools/cli/commands.h"
#include "tools/cli/output.h"
#include "tools/tune/tuner.h"

namespace nibble::cli {

// "60", "60s", "5m", "1h" as seconds. Throws UsageError.
double parse_seconds(const std::string& text);
CLI::Option* add_budget(CLI::App& command, std::string& text);

// The database's path. Throws UsageError when NIBBLE_TUNE_DB is off.
std::string needed_tuning_path();

Json to_json(const tune::Tuned& tuned);
// One line of text of what was tuned or verified.
std::string one_line(const tune::Tuned& tuned);
// A line that is redrawn on a terminal's standard error while something is measured; on anything
// else, silence.
class TuneLine {
 public:
  TuneLine();
  ~TuneLine();  // clears the line
  TuneLine(const TuneLine&) = delete;
  TuneLine& operator=(const TuneLine&) = delete;
  void update(const tune::TuneProgress& progress);
  void clear();

 private:
  bool terminal_ = false, shown_ = false;
  double last_ = 0;
};

// show, verify, diff, merge, export, reset.
void add_tune_database(CLI::App& tune, Action& action);
// report.
void add_tune_report(CLI::App& tune, Action& action);

}  // namespace nibble::cli
