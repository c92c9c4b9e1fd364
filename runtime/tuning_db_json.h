// The tuning database as text, both ways. Called by tuning_db.cpp alone.
#pragma once

#include <string>

#include "runtime/tuning_db.h"

namespace nibble::runtime {

// One entry a line, numbers with five digits.
std::string tuning_db_text(const TuningDb& db);

// The file at `path`: absent, damaged or stale (another format) with a warning, or usable as far as
// the text goes: machine and generator are read, not judged. "" is disabled.
TuningDb parse_tuning_db(const std::string& path);

}  // namespace nibble::runtime
