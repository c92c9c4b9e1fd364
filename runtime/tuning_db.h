// The tuning database: which tiling of a matmul was measured to be the fastest on this machine. One
// JSON file that `nibble tune` writes and that lowering asks; same bits whatever it says. Who
// lowers a model reads the file once and passes it on (graph/lower.h); nothing here measures.
//
//   {"format": 1, "generator": 1, "machine": {"vendor": ..., "cores": 2, ...}, "entries": [
//     {"spec": "gemm_u4s8f32_g128_n4096_k4096", "isa": "avx512_vnni", "m": 1, "threads": 2,
//      "default": "1x16x4f8192", "winner": "1x32x8f4096", "complete": true,
//      "gbs": 48.1, "gops": 181.0,
//      "candidates": {"1x16x4f8192": [median, p20, p80, n], ...}}, ...]}
//
// Times are seconds of one whole matmul on that many threads. A file that is damaged, that another
// machine measured, or whose kernels another generator wrote is skipped whole, said once, and never
// written over.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jit/isa.h"
#include "jit/kernel_spec.h"

namespace nibble::runtime {

inline constexpr int kTuningFormat = 1;

// What makes two machines the same to the tuner.
struct MachineIdentity {
  std::string vendor, brand;
  uint32_t family = 0, model = 0, stepping = 0;
  uint64_t isa_mask = 0;  // bits in the order of isa_features() in tuning_db.cpp
  uint64_t l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;
  int cores = 0, numa_nodes = 0;
  friend bool operator==(const MachineIdentity&, const MachineIdentity&) = default;
};
const MachineIdentity& this_machine();
std::string describe(const MachineIdentity& machine);

struct TuningKey {
  std::string spec;  // jit::name of a GemmSpec
  jit::Isa isa = jit::Isa::avx2;
  int64_t m = 1;  // rows it was measured with
  int threads = 1;
  auto operator<=>(const TuningKey&) const = default;
};

// Seconds of one matmul over n samples.
struct Timing {
  double median = 0, p20 = 0, p80 = 0;
  int64_t n = 0;
};

struct TuningEntry {
  std::string default_tiling{}, winner{};  // names of tilings, both among the candidates
  bool complete = false;                   // every candidate was measured or pruned
  double gbs = 0, gops = 0;                // of the winner: weights read, operations
  std::map<std::string, Timing> candidates{};
};

enum class TuningState : uint8_t { disabled, absent, usable, foreign, stale, damaged };

struct TuningDb {
  std::string path;
  TuningState state = TuningState::disabled;
  std::string warning;  // a sentence when the file is there and cannot be used
  MachineIdentity machine;
  int generator = 0;
  std::map<TuningKey, TuningEntry> entries;  // of a foreign file too: to be shown, never used

  // The measured winner, when the database is usable, knows the matmul and the tiling fits.
  std::optional<jit::Tiling> tiling(const jit::GemmSpec& spec, jit::Isa isa, int64_t m,
                                    int threads) const;
};

// $NIBBLE_TUNE_DB; else nibble/tune.json in $XDG_CACHE_HOME or ~/.cache. "" when it is "off" or no
// folder is known.
std::string tuning_db_path();

// Never throws for what the file holds: that is its state.
TuningDb read_tuning_db(const std::string& path, const MachineIdentity& machine = this_machine());
// This process's database, read once.
const TuningDb& shared_tuning_db();

// Reads the file, changes it and writes it back, under a lock that other processes respect; makes
// the folder. Throws Error, and leaves the file alone, when it is foreign, stale or damaged, or
// cannot be written.
void update_tuning_db(const std::string& path, const std::function<void(TuningDb&)>& change,
                      const MachineIdentity& machine = this_machine());
// Writes a database as it is, to a file of any kind that is not there yet.
void write_new_tuning_db(const std::string& path, const TuningDb& db);

// Of each candidate the timing with more samples; the winner of the entry that measured its winner
// more often. Throws Error when the databases are of two machines or generators.
void merge_tunings(TuningDb& into, const TuningDb& from);

}  // namespace nibble::runtime
