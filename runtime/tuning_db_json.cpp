#include "runtime/tuning_db_json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "jit/error.h"
#include "runtime/json_text.h"

namespace nibble::runtime {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMostFileBytes = int64_t{64} << 20;  // far more than any machine's tunings

// --- writing ---

double five_digits(double value) {
  return std::strtod(fmt::format("{:.4e}", value).c_str(), nullptr);
}

Json entry_json(const TuningKey& key, const TuningEntry& entry) {
  Json candidates = Json::object();
  for (const auto& [tiling, t] : entry.candidates) {
    candidates[tiling] = {five_digits(t.median), five_digits(t.p20), five_digits(t.p80), t.n};
  }
  Json json = runtime::to_json(key);
  json.update({{"default", entry.default_tiling},
               {"winner", entry.winner},
               {"complete", entry.complete},
               {"gbs", five_digits(entry.gbs)},
               {"gops", five_digits(entry.gops)},
               {"candidates", std::move(candidates)}});
  return json;
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// --- reading: every look fails by an exception, and one place turns it into a state ---

template <typename T>
T number(const Json& json, const char* key, T least) {
  const Json& value = json.at(key);
  if (!value.is_number()) fail("'{}' is no number", key);
  const T out = value.get<T>();
  if (!(out >= least)) fail("'{}' is {}, expected at least {}", key, out, least);
  return out;
}

std::string text(const Json& json, const char* key) {
  const Json& value = json.at(key);
  if (!value.is_string()) fail("'{}' is no text", key);
  return value.get<std::string>();
}

MachineIdentity read_machine(const Json& json) {
  MachineIdentity out;
  out.vendor = text(json, "vendor");
  out.brand = text(json, "brand");
  out.family = number<uint32_t>(json, "family", 0);
  out.model = number<uint32_t>(json, "model", 0);
  out.stepping = number<uint32_t>(json, "stepping", 0);
  out.isa_mask = number<uint64_t>(json, "isa_mask", 0);
  out.l1d_bytes = number<uint64_t>(json, "l1d_bytes", 0);
  out.l2_bytes = number<uint64_t>(json, "l2_bytes", 0);
  out.l3_bytes = number<uint64_t>(json, "l3_bytes", 0);
  out.cores = number<int>(json, "cores", 0);
  out.numa_nodes = number<int>(json, "numa_nodes", 0);
  return out;
}

Timing read_timing(const std::string& tiling, const Json& json) {
  if (!json.is_array() || json.size() != 4) fail("the timing of {} is no list of four", tiling);
  for (const Json& value : json) {
    if (!value.is_number()) fail("the timing of {} holds something that is no number", tiling);
  }
  const Timing out{json[0].get<double>(), json[1].get<double>(), json[2].get<double>(),
                   json[3].get<int64_t>()};
  for (const double seconds : {out.median, out.p20, out.p80}) {
    if (!std::isfinite(seconds) || seconds <= 0) fail("the timing of {} is not positive", tiling);
  }
  if (out.n < 1) fail("the timing of {} is of no samples", tiling);
  return out;
}

void read_entry(const Json& json, TuningDb& db) {
  TuningKey key;
  key.spec = text(json, "spec");
  const auto isa = jit::parse_isa(text(json, "isa"));
  if (!isa) fail("an entry's instruction set '{}' is not known", text(json, "isa"));
  key.isa = *isa;
  key.m = number<int64_t>(json, "m", 1);
  key.threads = number<int>(json, "threads", 1);
  TuningEntry entry;
  entry.default_tiling = text(json, "default");
  entry.winner = text(json, "winner");
  entry.complete = json.at("complete").get<bool>();
  entry.gbs = number<double>(json, "gbs", 0);
  entry.gops = number<double>(json, "gops", 0);
  for (const auto& [tiling, timing] : json.at("candidates").items()) {
    entry.candidates.emplace_hint(entry.candidates.end(), tiling, read_timing(tiling, timing));
  }
  for (const std::string& tiling : {entry.default_tiling, entry.winner}) {
    if (!entry.candidates.contains(tiling)) fail("{} is chosen but was not measured", tiling);
  }
  if (!jit::parse_tiling_name(entry.winner)) fail("'{}' is no tiling's name", entry.winner);
  const std::string name = key.spec;
  if (!db.entries.emplace(std::move(key), std::move(entry)).second) {
    fail("{} is there twice", name);
  }
}

// nullopt when there is no file; throws Error when there is one that cannot be read.
std::optional<std::string> read_text(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return std::nullopt;
  if (fd < 0) fail("it cannot be opened: {}", std::strerror(errno));
  struct stat info = {};
  std::string out;
  const bool plain =
      fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= kMostFileBytes;
  if (plain) out.resize(static_cast<size_t>(info.st_size));
  size_t have = 0;
  while (have < out.size()) {
    const ssize_t got = read(fd, out.data() + have, out.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    have += static_cast<size_t>(got);
  }
  close(fd);
  if (!plain) fail("it is no regular file of at most {} MB", kMostFileBytes >> 20);
  if (have != out.size()) fail("only {} of its {} bytes can be read", have, out.size());
  return out;
}

}  // namespace

Json to_json(const MachineIdentity& machine) {
  return {{"vendor", machine.vendor},        {"brand", machine.brand},
          {"family", machine.family},        {"model", machine.model},
          {"stepping", machine.stepping},    {"isa_mask", machine.isa_mask},
          {"l1d_bytes", machine.l1d_bytes},  {"l2_bytes", machine.l2_bytes},
          {"l3_bytes", machine.l3_bytes},    {"cores", machine.cores},
          {"numa_nodes", machine.numa_nodes}};
}

Json to_json(const TuningKey& key) {
  return {
      {"spec", key.spec}, {"isa", jit::isa_name(key.isa)}, {"m", key.m}, {"threads", key.threads}};
}

std::string tuning_db_text(const TuningDb& db) {
  std::string out = fmt::format("{{\"format\":{},\"generator\":{},\"machine\":{},\n\"entries\":[",
                                kTuningFormat, db.generator, dump(to_json(db.machine)));
  const char* separator = "\n";
  for (const auto& [key, entry] : db.entries) {
    out += separator + dump(entry_json(key, entry));
    separator = ",\n";
  }
  return out + "\n]}\n";
}

TuningDb parse_tuning_db(const std::string& path) {
  TuningDb db;
  db.path = path;
  if (path.empty()) return db;
  db.state = TuningState::usable;
  try {
    const std::optional<std::string> file = read_text(path);
    if (!file) {
      db.state = TuningState::absent;
      return db;
    }
    const Json json = parse_ordered_json(*file, "the text");
    if (const int format = number<int>(json, "format", 0); format != kTuningFormat) {
      db.state = TuningState::stale;
      db.warning = fmt::format(
          "{}: the tuning database is of format {}, and this program reads format {}; it is not "
          "used.",
          path, format, kTuningFormat);
      return db;
    }
    db.generator = number<int>(json, "generator", 0);
    db.machine = read_machine(json.at("machine"));
    if (!json.at("entries").is_array()) fail("'entries' is no list");
    for (const Json& entry : json.at("entries")) read_entry(entry, db);
  } catch (const std::exception& error) {
    db.state = TuningState::damaged;
    db.entries.clear();
    db.warning =
        fmt::format("{}: the tuning database is damaged ({}); it is not used.", path, error.what());
  }
  return db;
}

}  // namespace nibble::runtime
