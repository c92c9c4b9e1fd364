#include "jit/code_cache.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>
#include <vector>

#include "jit/error.h"
#include "jit/executable_memory.h"
#include "jit/perf_map.h"

namespace nibble::jit {
namespace {

KernelKey add_key(int64_t n, Isa isa = Isa::avx2) {
  return {.spec = RowSpec{.op = RowOp::add, .n = n}, .isa = isa};
}

// Sets an environment variable for one test.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

void expect_adds(const Kernel& kernel, int64_t n) {
  std::vector<float> x(n, 1.5F);
  std::vector<float> x2(n, 2.25F);
  std::vector<float> y(n);
  kernel.run(RowArgs{.x = x.data(),
                     .x_stride = n,
                     .x2 = x2.data(),
                     .x2_stride = n,
                     .y = y.data(),
                     .y_stride = n,
                     .rows = 1});
  EXPECT_EQ(y, std::vector<float>(n, 3.75F));
}

// The protection of the page that holds `address`, as "rwxp"; "" when it is not mapped.
std::string protection(const void* address) {
  std::ifstream maps("/proc/self/maps");
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char flags[8] = {};
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %7s", &begin, &end, flags) != 3) {
      continue;
    }
    if (begin <= wanted && wanted < end) return flags;
  }
  return "";
}

TEST(ExecutableMemory, IsNeverWritableAndExecutable) {
  ExecutableMemory memory;
  const std::vector<uint8_t> code = {0xb8, 0x2a, 0, 0, 0, 0xc3};  // mov eax, 42; ret
  std::string reason;
  const void* address = memory.add(code, reason);
  if (address == nullptr) GTEST_SKIP() << "no executable memory here: " << reason;
  EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % 64, 0U);
  EXPECT_EQ(reinterpret_cast<int (*)()>(const_cast<void*>(address))(), 42);
  EXPECT_EQ(protection(address).substr(0, 3), "r-x");
  EXPECT_EQ(protection(memory.writable_view(address)).substr(0, 3), "rw-");
  EXPECT_EQ(memory.writable_view(&reason), nullptr);
  EXPECT_THROW(memory.add({}, reason), Error);
}

TEST(ExecutableMemory, NothingInTheProcessIsWritableAndExecutable) {
  CodeCache cache;
  cache.get(add_key(64));
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    EXPECT_EQ(line.find(" rwx"), std::string::npos) << line;
  }
}

TEST(CodeCache, OneKernelAKey) {
  CodeCache cache;
  const Kernel& first = cache.get(add_key(64));
  EXPECT_EQ(&first, &cache.get(add_key(64)));
  KernelKey tiled = add_key(64);
  tiled.tiling.mr = 7;  // row kernels have no tiling
  EXPECT_EQ(&first, &cache.get(tiled));
  EXPECT_NE(&first, &cache.get(add_key(65)));
  EXPECT_GT(cache.generate_ms(), 0.0);
  const auto kernels = cache.kernels();
  ASSERT_EQ(kernels.size(), 2U);
  EXPECT_EQ(kernels[0], &first);
  EXPECT_EQ(name(kernels[1]->key), "row_add_n65_avx2");
  if (!supports(Isa::avx2)) GTEST_SKIP() << "this machine cannot run avx2 kernels";
  expect_adds(first, 64);
}

TEST(CodeCache, ManyThreadsGetTheSameKernels) {
  CodeCache cache;
  constexpr int kThreads = 8;
  constexpr int kKeys = 12;
  std::vector<std::vector<const Kernel*>> seen(kThreads, std::vector<const Kernel*>(kKeys));
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&cache, &mine = seen[t], t] {
      for (int i = 0; i < kKeys; ++i) {
        const int key = (i + t) % kKeys;
        mine[key] = &cache.get(add_key(1 + key));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 1; t < kThreads; ++t) EXPECT_EQ(seen[t], seen[0]);
  EXPECT_EQ(cache.kernels().size(), static_cast<size_t>(kKeys));
}

std::string failure(CodeCache& cache, const KernelKey& key) {
  try {
    cache.get(key);
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& other) {
    return std::string("not an Error: ") + other.what();
  }
  return "no failure";
}

TEST(CodeCache, AFailureIsCachedAsAFailure) {
  const KernelKey rows = {.spec = RowSpec{.op = RowOp::add, .n = -1}};
  const KernelKey heads = {.spec = AttentionSpec{.head_dim = 0}};
  const KernelKey sums = {
      .spec = GemmSpec{.weight = {.type = WeightType::f32}, .n = 16, .k = 16}};  // s8 activations
  const KernelKey tile = {.spec = GemmSpec{.n = 16, .k = 32}, .tiling = {.mr = 1000}};
  const KernelKey tiles = {.spec = GemmSpec{.n = 16, .k = 32},
                           .isa = Isa::amx_int8,
                           .tiling = {.mr = 16, .panel = false}};  // u4 weights need a panel
  for (const bool refused : {false, true}) {
    CodeCache cache;
    if (refused) cache.refuse_executable_memory();
    for (const KernelKey& key : {rows, heads, sums, tile, tiles}) {
      const std::string first = failure(cache, key);
      EXPECT_NE(first, "no failure") << name(key);
      EXPECT_EQ(first.find("not an Error"), std::string::npos) << first;
      EXPECT_EQ(failure(cache, key), first);
    }
    EXPECT_TRUE(cache.kernels().empty());
  }
}

TEST(CodeCache, RefusedMemoryFallsBackToReferences) {
  CodeCache cache;
  EXPECT_EQ(cache.fallback_reason(), "");
  cache.refuse_executable_memory();
  EXPECT_NE(cache.fallback_reason(), "");
  const Kernel& kernel = cache.get(add_key(37));
  EXPECT_EQ(kernel.code, nullptr);
  expect_adds(kernel, 37);
  EXPECT_THROW(disassemble(kernel), Error);
}

// Both mappings share a memory file; a process that may not grow files gets none.
TEST(CodeCache, ARealRefusalFallsBackAndSaysWhy) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  CodeCache cache;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  const Kernel& kernel = cache.get(add_key(37));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(kernel.code, nullptr);
  EXPECT_NE(cache.fallback_reason().find("executable memory"), std::string::npos);
  expect_adds(kernel, 37);
}

TEST(CodeCache, EnvironmentTurnsTheJitOff) {
  const Environment off("NIBBLE_NO_JIT", "1");
  CodeCache cache;
  EXPECT_NE(cache.fallback_reason().find("NIBBLE_NO_JIT"), std::string::npos);
  EXPECT_EQ(cache.get(add_key(5)).code, nullptr);
}

// Every kind of kernel gives the same result as its generated code, through the same call.
TEST(CodeCache, AMatmulRunsEitherWay) {
  if (!supports(Isa::avx2)) GTEST_SKIP() << "this machine cannot run avx2 kernels";
  const GemmSpec spec{.weight = {.type = WeightType::f32}, .act = ActType::f32, .n = 16, .k = 5};
  const KernelKey key{.spec = spec, .tiling = default_tiling(spec, Isa::avx2, 1)};
  std::vector<float> w(80);
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i);
  std::vector<uint8_t> packed(packed_shape(spec.weight, 16, 5).data_bytes);
  pack_block_f32(16, 5, 0, w.data(), packed.data());
  const std::vector<float> a = {1, 2, 3, 4, 5};
  std::vector<uint8_t> scratch(gemm_scratch_bytes(spec, key.tiling) + 64);
  const auto misaligned = reinterpret_cast<uintptr_t>(scratch.data()) % 64;
  for (const bool refused : {false, true}) {
    CodeCache cache;
    if (refused) cache.refuse_executable_memory();
    std::vector<float> c(16);
    cache.get(key).run(GemmArgs{.a = a.data(),
                                .a_stride = 5,
                                .w = packed.data(),
                                .c = c.data(),
                                .c_stride = 16,
                                .c_columns = 16,
                                .m = 1,
                                .nb_begin = 0,
                                .nb_end = 1,
                                .scratch = scratch.data() + (64 - misaligned) % 64});
    for (int n = 0; n < 16; ++n) EXPECT_EQ(c[n], static_cast<float>(15 * 5 * n + 40)) << n;
  }
}

TEST(Disassemble, ShowsAddressesBytesAndTargets) {
  CodeCache cache;
  const Kernel& kernel = cache.get(add_key(4096));
  if (kernel.code == nullptr) GTEST_SKIP() << cache.fallback_reason();
  const std::string text = disassemble(kernel);
  EXPECT_EQ(text.find("     0:  "), 0U) << text;
  EXPECT_NE(text.find("vaddps ymm"), std::string::npos) << text;
  EXPECT_NE(text.find("ret"), std::string::npos) << text;
  EXPECT_NE(text.find("L0:\n"), std::string::npos) << text;    // the loop's label
  EXPECT_NE(text.find(" L0  ; "), std::string::npos) << text;  // and the branch to it
  EXPECT_EQ(text.find("not an instruction"), std::string::npos) << text;
}

TEST(Disassemble, ConstantsBehindTheCodeAreData) {
  // L0: dec edi; jnz L0; movss xmm0, [rip + 4]; ret; padding; 1.0f
  const std::vector<uint8_t> code = {0xff, 0xcf, 0x75, 0xfc, 0xf3, 0x0f, 0x10, 0x05, 0x04, 0,
                                     0,    0,    0xc3, 0,    0,    0,    0,    0,    0x80, 0x3f};
  const std::string text =
      disassemble(Kernel{.key = add_key(1), .code = code.data(), .code_bytes = code.size()});
  EXPECT_NE(text.find("L0:\n     0:  ff cf"), std::string::npos) << text;
  EXPECT_NE(text.find("jnz L0  ; 0"), std::string::npos) << text;
  EXPECT_NE(text.find("     d:  00 00 00 00 00 80 3f\n"), std::string::npos) << text;
}

TEST(CodeDump, WritesBytesAndThePerfMap) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("nibble-{}", getpid());
  std::filesystem::create_directories(folder);
  const std::vector<uint8_t> code = {1, 2, 3};
  const CodeDump dump("perf,bin", folder.string());
  dump.record("row_add_n1_avx2", reinterpret_cast<const void*>(0x1234), code);
  std::ifstream bytes(folder / "row_add_n1_avx2.bin", std::ios::binary);
  EXPECT_EQ(std::vector<uint8_t>(std::istreambuf_iterator<char>(bytes), {}), code);
  const std::string map = fmt::format("/tmp/perf-{}.map", getpid());
  std::ifstream lines(map);
  std::string line;
  std::string last;
  while (std::getline(lines, line)) last = line;
  EXPECT_EQ(last, "1234 3 row_add_n1_avx2");
  std::filesystem::remove(map);
  std::filesystem::remove_all(folder);
}

TEST(CodeDump, WrongRequestsAreRefused) {
  EXPECT_THROW(CodeDump("perv", "."), Error);
  const CodeDump dump("bin", "/nonexistent-folder");
  EXPECT_THROW(dump.record("x", nullptr, {}), Error);
  const Environment wrong("NIBBLE_JIT_DUMP", "everything");
  EXPECT_THROW(CodeCache(), Error);
}

TEST(CodeDump, TheCacheRecordsItsKernels) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("nibble-c{}", getpid());
  std::filesystem::create_directories(folder);
  const Environment mode("NIBBLE_JIT_DUMP", "bin");
  const Environment where("NIBBLE_JIT_DUMP_DIR", folder.c_str());
  CodeCache cache;
  const Kernel& kernel = cache.get(add_key(64));
  if (kernel.code != nullptr) {
    EXPECT_EQ(std::filesystem::file_size(folder / "row_add_n64_avx2.bin"), kernel.code_bytes);
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace nibble::jit
