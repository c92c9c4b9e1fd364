// The tuning database as text, both ways: called by tuning_db.cpp alone. What it says of a machine
// and of a key is also what the reports of `nibble tune` say.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "runtime/tuning_db.h"

namespace nibble::runtime {

nlohmann::ordered_json to_json(const MachineIdentity& machine);
// {"spec": ..., "isa": ..., "m": ..., "threads": ...}
nlohmann::ordered_json to_json(const TuningKey& key);

// One entry a line, numbers with five digits.
std::string tuning_db_text(const TuningDb& db);

// The file at `path`: absent, damaged or stale (another format) with a warning, or usable as far as
// the text goes: machine and generator are read, not judged. "" is disabled.
TuningDb parse_tuning_db(const std::string& path);

}  // namespace nibble::runtime
