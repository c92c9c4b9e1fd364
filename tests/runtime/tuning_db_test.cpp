// The tuning database: what is written comes back, what is not ours is left alone, and writers that
// meet lose nothing.
#include "runtime/tuning_db.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "jit/error.h"
#include "jit/gemm.h"
#include "jit/gemm_generator.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble::runtime {
namespace {

jit::GemmSpec spec_of(int64_t n) { return {.weight = {.group = 128}, .n = n, .k = 4096}; }

TuningKey key_of(int64_t n, int64_t m = 1, int threads = 2) {
  return {jit::name(jit::KernelSpec(spec_of(n))), jit::Isa::avx2, m, threads};
}

TuningEntry entry_of(const std::string& winner, int64_t n = 9) {
  return {.default_tiling = "1x16x4f8192",
          .winner = winner,
          .complete = true,
          .gbs = 45.5,
          .gops = 170,
          .candidates = {{"1x16x4f8192", {2e-4, 1.9e-4, 2.2e-4, n}},
                         {winner, {1.5e-4, 1.4e-4, 1.6e-4, n}}}};
}

class TuningDbTest : public testing::Test {
 protected:
  std::string path() const { return folder_.path("cache/nibble/tune.json"); }
  void put(const TuningKey& key, const TuningEntry& entry,
           const MachineIdentity& machine = this_machine()) {
    update_tuning_db(
        path(), [&](TuningDb& db) { db.entries[key] = entry; }, machine);
  }
  // The file is not used, says why in one sentence, and no write touches it.
  void expect_left_alone(TuningState state, const std::string& part) {
    const std::string before = read_file(path());
    const TuningDb db = read_tuning_db(path());
    EXPECT_EQ(db.state, state);
    EXPECT_NE(db.warning.find(part), std::string::npos) << db.warning;
    EXPECT_NE(db.warning.find(path()), std::string::npos) << db.warning;
    EXPECT_EQ(db.tiling(spec_of(4096), jit::Isa::avx2, 1, 2), std::nullopt);
    EXPECT_THROW(put(key_of(64), entry_of("1x32x8")), Error);
    EXPECT_EQ(read_file(path()), before);
  }
  TemporaryFolder folder_;
};

TEST_F(TuningDbTest, WhatIsWrittenComesBack) {
  EXPECT_EQ(read_tuning_db(path()).state, TuningState::absent);
  put(key_of(4096), entry_of("1x32x8f4096"));
  put(key_of(4096, 512), entry_of("2x16x8"));
  const TuningDb db = read_tuning_db(path());
  ASSERT_EQ(db.state, TuningState::usable) << db.warning;
  EXPECT_EQ(db.warning, "");
  EXPECT_EQ(db.machine, this_machine());
  EXPECT_EQ(db.generator, jit::kGeneratorVersion);
  ASSERT_EQ(db.entries.size(), 2U);
  const TuningEntry& entry = db.entries.at(key_of(4096));
  EXPECT_EQ(entry.winner, "1x32x8f4096");
  EXPECT_EQ(entry.default_tiling, "1x16x4f8192");
  EXPECT_TRUE(entry.complete);
  EXPECT_DOUBLE_EQ(entry.gbs, 45.5);
  EXPECT_DOUBLE_EQ(entry.candidates.at("1x32x8f4096").median, 1.5e-4);
  EXPECT_DOUBLE_EQ(entry.candidates.at("1x32x8f4096").p20, 1.4e-4);
  EXPECT_DOUBLE_EQ(entry.candidates.at("1x32x8f4096").p80, 1.6e-4);
  EXPECT_EQ(entry.candidates.at("1x32x8f4096").n, 9);
}

TEST_F(TuningDbTest, ATilingIsFoundByTheWholeKey) {
  put(key_of(4096), entry_of("1x32x8f4096"));
  const TuningDb db = read_tuning_db(path());
  const jit::Tiling expected{.mr = 1, .nr = 2, .k_unroll = 8, .prefetch_l1 = 4096};
  EXPECT_EQ(db.tiling(spec_of(4096), jit::Isa::avx2, 1, 2), expected);
  EXPECT_EQ(db.tiling(spec_of(4096), jit::Isa::avx2, 1, 3), std::nullopt);
  EXPECT_EQ(db.tiling(spec_of(4096), jit::Isa::avx2, 2, 2), std::nullopt);
  EXPECT_EQ(db.tiling(spec_of(4096), jit::Isa::avx512, 1, 2), std::nullopt);
  EXPECT_EQ(db.tiling(spec_of(4112), jit::Isa::avx2, 1, 2), std::nullopt);
}

TEST_F(TuningDbTest, ATilingThatDoesNotFitIsNotUsed) {
  put(key_of(4096), entry_of("20x128x8"));
  const TuningDb db = read_tuning_db(path());
  ASSERT_EQ(db.state, TuningState::usable);
  ASSERT_FALSE(jit::tiling_fits(spec_of(4096), jit::Isa::avx2, {.mr = 20, .nr = 8}));
  EXPECT_EQ(db.tiling(spec_of(4096), jit::Isa::avx2, 1, 2), std::nullopt);
}

TEST_F(TuningDbTest, AnotherMachinesFileIsLeftAlone) {
  MachineIdentity other = this_machine();
  other.cores += 7;
  put(key_of(4096), entry_of("1x32x8f4096"), other);
  expect_left_alone(TuningState::foreign, "another machine");
  EXPECT_EQ(read_tuning_db(path(), other).state, TuningState::usable);
}

TEST_F(TuningDbTest, EveryPartOfTheIdentityCounts) {
  put(key_of(4096), entry_of("1x32x8f4096"));
  const auto differs = [&](auto change) {
    MachineIdentity other = this_machine();
    change(other);
    return read_tuning_db(path(), other).state == TuningState::foreign;
  };
  EXPECT_TRUE(differs([](auto& m) { m.vendor += "x"; }));
  EXPECT_TRUE(differs([](auto& m) { m.brand += "x"; }));
  EXPECT_TRUE(differs([](auto& m) { ++m.family; }));
  EXPECT_TRUE(differs([](auto& m) { ++m.model; }));
  EXPECT_TRUE(differs([](auto& m) { ++m.stepping; }));
  EXPECT_TRUE(differs([](auto& m) { m.isa_mask ^= 1; }));
  EXPECT_TRUE(differs([](auto& m) { ++m.l1d_bytes; }));
  EXPECT_TRUE(differs([](auto& m) { ++m.l2_bytes; }));
  EXPECT_TRUE(differs([](auto& m) { ++m.l3_bytes; }));
  EXPECT_TRUE(differs([](auto& m) { ++m.numa_nodes; }));
}

TEST_F(TuningDbTest, AnotherGeneratorsFileIsLeftAlone) {
  put(key_of(4096), entry_of("1x32x8f4096"));
  std::string text = read_file(path());
  const std::string mine = fmt::format("\"generator\":{}", jit::kGeneratorVersion);
  text.replace(text.find(mine), mine.size(), "\"generator\":99");
  folder_.write("cache/nibble/tune.json", text);
  expect_left_alone(TuningState::stale, "generator 99");
  folder_.write("cache/nibble/tune.json", "{\"format\": 2, \"what\": \"is to come\"}");
  expect_left_alone(TuningState::stale, "format 2");
}

TEST_F(TuningDbTest, DamagedFilesAreLeftAlone) {
  put(key_of(4096), entry_of("1x32x8f4096"));
  const std::string whole = read_file(path());
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    const size_t at = text.find(from);
    if (at == std::string::npos) throw Error("no " + from);
    return text.replace(at, from.size(), to);
  };
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("nonsense"), std::string(100, '\0'),
        whole.substr(0, whole.size() / 2), changed("\"format\":1", "\"format\":\"one\""),
        changed("\"machine\"", "\"machines\""), changed("\"entries\":[", "\"entries\":[7,"),
        changed("\"m\":1", "\"m\":0"), changed("\"m\":1", "\"m\":{}"),
        changed("\"threads\":2", "\"threads\":-2"), changed("avx2", "mmx"),
        changed("\"winner\":\"1x32x8f4096\"", "\"winner\":\"3x32x8\""),
        changed("0.00015", "-0.00015"), changed("0.00015", "\"x\""), changed(",9]", ",0]"),
        changed("0.00015", "[1]"), changed("\"complete\":true", "\"complete\":7")}) {
    SCOPED_TRACE(text.substr(0, 200));
    folder_.write("cache/nibble/tune.json", text);
    expect_left_alone(TuningState::damaged, "damaged");
  }
}

TEST_F(TuningDbTest, AFolderInItsPlaceIsDamageToo) {
  std::filesystem::create_directories(path());
  EXPECT_EQ(read_tuning_db(path()).state, TuningState::damaged);
  EXPECT_THROW(put(key_of(64), entry_of("1x32x8")), Error);
}

TEST_F(TuningDbTest, AFolderThatCannotBeMadeIsAnError) {
  const std::string file = folder_.write("file", "x");
  EXPECT_THROW(update_tuning_db(file + "/deeper/tune.json", [](TuningDb&) {}), Error);
}

TEST_F(TuningDbTest, WritersOfManyThreadsAndProcessesLoseNothing) {
  constexpr int kProcesses = 3, kThreads = 3, kWrites = 8;
  const auto write_all = [&](int process) {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < kWrites; ++i) {
          put(key_of(16 * (1 + i), 1 + t, 1 + process), entry_of("1x32x8"));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  std::vector<pid_t> children;
  for (int process = 0; process < kProcesses; ++process) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      write_all(process);
      _exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  const TuningDb db = read_tuning_db(path());
  ASSERT_EQ(db.state, TuningState::usable) << db.warning;
  EXPECT_EQ(db.entries.size(), static_cast<size_t>(kProcesses * kThreads * kWrites));
  // The database and its lock: no temporary file is left.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path("cache/nibble")),
                          std::filesystem::directory_iterator()),
            2);
}

TEST_F(TuningDbTest, MergingKeepsWhatWasMeasuredMore) {
  TuningDb a = read_tuning_db(path()), b = a;
  a.entries[key_of(64)] = entry_of("1x32x8", 9);
  b.entries[key_of(64)] = entry_of("1x64x8", 20);
  b.entries[key_of(64)].candidates["1x32x8"] = {1, 1, 1, 2};
  b.entries[key_of(80)] = entry_of("1x32x4", 1);
  TuningDb merged = a;
  merge_tunings(merged, b);
  ASSERT_EQ(merged.entries.size(), 2U);
  const TuningEntry& entry = merged.entries.at(key_of(64));
  EXPECT_EQ(entry.winner, "1x64x8");
  EXPECT_EQ(entry.candidates.at("1x32x8").n, 9);
  EXPECT_EQ(entry.candidates.at("1x16x4f8192").n, 20);
  merged = b;
  merge_tunings(merged, a);
  EXPECT_EQ(merged.entries.at(key_of(64)).winner, "1x64x8");
  b.machine.model += 1;
  EXPECT_THROW(merge_tunings(a, b), Error);
  b = a;
  b.generator += 1;
  EXPECT_THROW(merge_tunings(a, b), Error);
}

TEST_F(TuningDbTest, NewFilesTakeNobodysPlace) {
  put(key_of(64), entry_of("1x32x8"));
  const TuningDb db = read_tuning_db(path());
  write_new_tuning_db(folder_.path("copy.json"), db);
  EXPECT_EQ(read_file(folder_.path("copy.json")), read_file(path()));
  EXPECT_THROW(write_new_tuning_db(folder_.path("copy.json"), db), Error);
}

// The three variables, restored at the end.
class TuningPath : public testing::Test {
 protected:
  TuningPath() {
    for (const char* name : kNames) {
      const char* text = std::getenv(name);
      kept_.push_back(text == nullptr ? std::optional<std::string>() : text);
      unsetenv(name);
    }
  }
  ~TuningPath() override {
    for (size_t i = 0; i < kept_.size(); ++i) {
      if (kept_[i]) {
        setenv(kNames[i], kept_[i]->c_str(), 1);
      } else {
        unsetenv(kNames[i]);
      }
    }
  }
  static constexpr const char* kNames[] = {"NIBBLE_TUNE_DB", "XDG_CACHE_HOME", "HOME"};
  std::vector<std::optional<std::string>> kept_;
};

TEST_F(TuningPath, FollowsTheVariablesInTheirOrder) {
  EXPECT_EQ(tuning_db_path(), "");
  setenv("HOME", "/home/x", 1);
  EXPECT_EQ(tuning_db_path(), "/home/x/.cache/nibble/tune.json");
  setenv("XDG_CACHE_HOME", "/cache", 1);
  EXPECT_EQ(tuning_db_path(), "/cache/nibble/tune.json");
  setenv("NIBBLE_TUNE_DB", "", 1);
  EXPECT_EQ(tuning_db_path(), "/cache/nibble/tune.json");
  setenv("NIBBLE_TUNE_DB", "/there/db.json", 1);
  EXPECT_EQ(tuning_db_path(), "/there/db.json");
  setenv("NIBBLE_TUNE_DB", "off", 1);
  EXPECT_EQ(tuning_db_path(), "");
  EXPECT_EQ(read_tuning_db("").state, TuningState::disabled);
}

}  // namespace
}  // namespace nibble::runtime
