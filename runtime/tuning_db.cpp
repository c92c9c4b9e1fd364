#include "runtime/tuning_db.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "jit/error.h"
#include "jit/gemm.h"
#include "jit/gemm_generator.h"
#include "runtime/atomic_file.h"
#include "runtime/cpu_topology.h"
#include "runtime/tuning_db_json.h"

namespace nibble::runtime {
namespace {

namespace fs = std::filesystem;

uint64_t isa_features(const jit::CpuInfo& cpu) {
  uint64_t mask = 0;
  int bit = 0;
  for (const bool present : {cpu.avx2, cpu.fma, cpu.f16c, cpu.avx_vnni, cpu.avx512f, cpu.avx512bw,
                             cpu.avx512vl, cpu.avx512dq, cpu.avx512_vnni, cpu.avx512_bf16,
                             cpu.avx512_fp16, cpu.amx_tile, cpu.amx_int8, cpu.amx_bf16}) {
    if (present) mask |= uint64_t{1} << bit;
    ++bit;
  }
  return mask;
}

MachineIdentity identify() {
  const jit::CpuInfo& cpu = jit::cpu();
  const MachineCounts counts = machine_counts();
  return {.vendor = cpu.vendor,
          .brand = cpu.brand,
          .family = cpu.family,
          .model = cpu.model,
          .stepping = cpu.stepping,
          .isa_mask = isa_features(cpu),
          .l1d_bytes = cpu.l1d_bytes,
          .l2_bytes = cpu.l2_bytes,
          .l3_bytes = cpu.l3_bytes,
          .cores = counts.cores,
          .numa_nodes = counts.numa_nodes};
}

// Exclusive among processes and threads while it lives. The lock file stays: removing it would let
// two writers hold locks on two files of one name.
class FileLock {
 public:
  explicit FileLock(const std::string& path) : path_(path + ".lock") {
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0) fail("{}: the lock cannot be made: {}.", path_, std::strerror(errno));
    while (flock(fd_, LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      const int reason = errno;
      close(fd_);
      fail("{}: cannot be locked: {}.", path_, std::strerror(reason));
    }
  }
  ~FileLock() { close(fd_); }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  std::string path_;
  int fd_ = -1;
};

void make_folder_of(const std::string& path) {
  const fs::path folder = fs::path(path).parent_path();
  if (folder.empty()) return;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("{}: the folder cannot be made: {}.", folder.string(), error.message());
}

std::string not_usable(const TuningDb& db, const MachineIdentity& machine) {
  switch (db.state) {
    case TuningState::foreign:
      return fmt::format(
          "{}: the tuning database was measured on another machine ({}), and this one is {}; it is "
          "not used.",
          db.path, describe(db.machine), describe(machine));
    case TuningState::stale:
      return fmt::format(
          "{}: the tuning database is of kernel generator {}, and this program has generator {}; "
          "it is not used.",
          db.path, db.generator, jit::kGeneratorVersion);
    default:
      return "";
  }
}

const Timing& timing_of(const TuningEntry& entry, const std::string& tiling) {
  return entry.candidates.at(tiling);
}

void merge_entry(TuningEntry& into, const TuningEntry& from) {
  if (timing_of(from, from.winner).n > timing_of(into, into.winner).n) {
    into.winner = from.winner;
    into.default_tiling = from.default_tiling;
    into.gbs = from.gbs;
    into.gops = from.gops;
  }
  into.complete = into.complete || from.complete;
  for (const auto& [tiling, timing] : from.candidates) {
    Timing& mine = into.candidates[tiling];
    if (timing.n > mine.n) mine = timing;
  }
}

}  // namespace

const MachineIdentity& this_machine() {
  static const MachineIdentity machine = identify();
  return machine;
}

std::string describe(const MachineIdentity& machine) {
  return fmt::format(
      "{} ({} family {} model {} stepping {}, features {:x}, caches {}/{}/{} KB, {} cores, {} NUMA "
      "nodes)",
      machine.brand, machine.vendor, machine.family, machine.model, machine.stepping,
      machine.isa_mask, machine.l1d_bytes >> 10, machine.l2_bytes >> 10, machine.l3_bytes >> 10,
      machine.cores, machine.numa_nodes);
}

std::optional<jit::Tiling> TuningDb::tiling(const jit::GemmSpec& spec, jit::Isa isa, int64_t m,
                                            int threads) const {
  if (state != TuningState::usable) return std::nullopt;
  const auto found = entries.find({jit::name(jit::KernelSpec(spec)), isa, m, threads});
  if (found == entries.end()) return std::nullopt;
  const auto tiling = jit::parse_tiling_name(found->second.winner);
  if (!tiling || !jit::tiling_fits(spec, isa, *tiling)) return std::nullopt;
  return tiling;
}

std::string tuning_db_path() {
  const auto variable = [](const char* name) {
    const char* text = std::getenv(name);
    return std::string(text == nullptr ? "" : text);
  };
  const std::string named = variable("NIBBLE_TUNE_DB");
  if (named == "off") return "";
  if (!named.empty()) return named;
  const std::string cache = variable("XDG_CACHE_HOME");
  if (!cache.empty()) return cache + "/nibble/tune.json";
  const std::string home = variable("HOME");
  return home.empty() ? "" : home + "/.cache/nibble/tune.json";
}

TuningDb read_tuning_db(const std::string& path, const MachineIdentity& machine) {
  TuningDb db = parse_tuning_db(path);
  if (db.state != TuningState::usable) {
    if (db.state == TuningState::absent) {
      db.machine = machine;
      db.generator = jit::kGeneratorVersion;
    }
    return db;
  }
  if (db.generator != jit::kGeneratorVersion) db.state = TuningState::stale;
  if (db.machine != machine) db.state = TuningState::foreign;
  db.warning = not_usable(db, machine);
  return db;
}

const TuningDb& shared_tuning_db() {
  static const TuningDb db = read_tuning_db(tuning_db_path());
  return db;
}

void update_tuning_db(const std::string& path, const std::function<void(TuningDb&)>& change,
                      const MachineIdentity& machine) {
  if (path.empty()) fail("There is no tuning database to write: NIBBLE_TUNE_DB is off.");
  make_folder_of(path);
  const FileLock lock(path);
  TuningDb db = read_tuning_db(path, machine);
  if (!db.warning.empty()) {
    fail("{} It is not written over either: name another file by NIBBLE_TUNE_DB, or delete it.",
         db.warning);
  }
  change(db);
  write_file(path, tuning_db_text(db));
}

void write_new_tuning_db(const std::string& path, const TuningDb& db) {
  std::error_code error;
  if (fs::exists(path, error)) fail("{}: is there already, and is not written over.", path);
  write_file(path, tuning_db_text(db));
}

void merge_tunings(TuningDb& into, const TuningDb& from) {
  if (into.machine != from.machine) {
    fail("{} was measured on {}, but {} on {}: they cannot be merged.", into.path,
         describe(into.machine), from.path, describe(from.machine));
  }
  if (into.generator != from.generator) {
    fail("{} is of kernel generator {}, but {} of {}: they cannot be merged.", into.path,
         into.generator, from.path, from.generator);
  }
  for (const auto& [key, entry] : from.entries) {
    const auto [mine, inserted] = into.entries.try_emplace(key, entry);
    if (!inserted) merge_entry(mine->second, entry);
  }
}

}  // namespace nibble::runtime
