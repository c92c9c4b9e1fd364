#include "runtime/machine_roofs.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "jit/error.h"
#include "jit/isa.h"
#include "runtime/pages.h"

namespace nibble::runtime {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kLeastBuffer = 512 * kMiB;  // far more than a cache keeps
constexpr size_t kMostBuffer = 2048 * kMiB;
constexpr size_t kPiece = kHugePage;  // read by one thread at a time
constexpr int kReadPasses = 8;
constexpr int kChoiceRounds = 3;  // of the ways to read
constexpr int kDotPasses = 24;
constexpr int64_t kDotRounds = 1 << 20;  // of kChains products each: about 10 ms
constexpr int64_t kChains = 12;          // independent sums: latency 5 x 2 a cycle, and some spare

// Loads that fault nothing and cannot be left out: their exclusive or goes to the caller. A piece
// is one stream or several side by side, fetched so many bytes ahead by instructions, or, with 0,
// by the hardware alone. Which is fastest depends on the machine: Zen 4 reads one fetched stream
// faster than two; Zen 5 two by a quarter, and four that are fetched as well by two fifths; Golden
// Cove four that are fetched in two steps, into the L2 and from there, by 2 to 6 percent more.
using ReadPiece = uint64_t (*)(const std::byte* p, size_t bytes);

constexpr size_t kReadLine = 64;
constexpr size_t kLinesAtOnce = 8;

// What is so far behind a line: into the L2, and into the L1.
template <size_t kAhead, size_t kFar>
inline void fetch_behind(const std::byte* line) {
  if (kFar > 0) _mm_prefetch(reinterpret_cast<const char*>(line) + kFar, _MM_HINT_T1);
  if (kAhead > 0) _mm_prefetch(reinterpret_cast<const char*>(line) + kAhead, _MM_HINT_T0);
}

template <size_t kStreams, size_t kAhead, size_t kFar = 0>
__attribute__((target("avx2"))) uint64_t read_avx2(const std::byte* p, size_t bytes) {
  constexpr size_t kLines = kLinesAtOnce / kStreams;
  __m256i sums[kLinesAtOnce] = {};
  for (size_t at = 0; at < bytes / kStreams; at += kLines * kReadLine) {
#pragma GCC unroll 8
    for (size_t i = 0; i < kLinesAtOnce; ++i) {
      const std::byte* line = p + i / kLines * (bytes / kStreams) + at + i % kLines * kReadLine;
      const auto* from = reinterpret_cast<const __m256i*>(line);
      sums[i] = _mm256_xor_si256(sums[i], _mm256_load_si256(from));
      sums[i] = _mm256_xor_si256(sums[i], _mm256_load_si256(from + 1));
      fetch_behind<kAhead, kFar>(line);
    }
  }
  for (size_t i = 1; i < kLinesAtOnce; ++i) sums[0] = _mm256_xor_si256(sums[0], sums[i]);
  return static_cast<uint64_t>(sums[0][0] ^ sums[0][3]);
}

template <size_t kStreams, size_t kAhead, size_t kFar = 0>
__attribute__((target("avx512f"))) uint64_t read_avx512(const std::byte* p, size_t bytes) {
  constexpr size_t kLines = kLinesAtOnce / kStreams;
  __m512i sums[kLinesAtOnce] = {};
  for (size_t at = 0; at < bytes / kStreams; at += kLines * kReadLine) {
#pragma GCC unroll 8
    for (size_t i = 0; i < kLinesAtOnce; ++i) {
      const std::byte* line = p + i / kLines * (bytes / kStreams) + at + i % kLines * kReadLine;
      sums[i] = _mm512_xor_si512(sums[i], _mm512_load_si512(line));
      fetch_behind<kAhead, kFar>(line);
    }
  }
  for (size_t i = 1; i < kLinesAtOnce; ++i) sums[0] = _mm512_xor_si512(sums[0], sums[i]);
  return static_cast<uint64_t>(sums[0][0] ^ sums[0][7]);
}

constexpr ReadPiece kReadAvx2[] = {read_avx2<1, 2048>, read_avx2<2, 0>, read_avx2<4, 1024>,
                                   read_avx2<4, 1024, 2048>};
constexpr ReadPiece kReadAvx512[] = {read_avx512<1, 2048>, read_avx512<2, 0>, read_avx512<4, 1024>,
                                     read_avx512<4, 1024, 2048>};

// kChains dot products a round, all in registers. Written in assembly whole, so that no compiler
// merges equal sums, copies or spills them. Registers 0 to 11 are the sums, 13 is free, 14 and 15
// are the operands; integers take the same time whatever they hold.
using DotRounds = void (*)(int64_t rounds);

#define NIBBLE_CHAINS(dot)                                                                  \
  dot("0") dot("1") dot("2") dot("3") dot("4") dot("5") dot("6") dot("7") dot("8") dot("9") \
      dot("10") dot("11")
#define NIBBLE_DOT_LOOP(dot)                                                                   \
  asm volatile("1:\n\t" NIBBLE_CHAINS(dot) "dec %0\n\tjnz 1b\n\tvzeroupper"                    \
               : "+r"(rounds)                                                                  \
               :                                                                               \
               : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                 "xmm9", "xmm10", "xmm11", "xmm13", "xmm14", "xmm15")

#define NIBBLE_DOT(sum) "vpdpbusd %%zmm15, %%zmm14, %%zmm" sum "\n\t"
void dot_avx512_vnni(int64_t rounds) { NIBBLE_DOT_LOOP(NIBBLE_DOT); }
#undef NIBBLE_DOT

#define NIBBLE_DOT(sum) "%{vex%} vpdpbusd %%ymm15, %%ymm14, %%ymm" sum "\n\t"
void dot_avx_vnni(int64_t rounds) { NIBBLE_DOT_LOOP(NIBBLE_DOT); }
#undef NIBBLE_DOT

// Without VNNI: pairs of products summed in 16 bits, whose widening is shared by many.
#define NIBBLE_DOT(sum)                      \
  "vpmaddubsw %%zmm15, %%zmm14, %%zmm13\n\t" \
  "vpaddw %%zmm13, %%zmm" sum ", %%zmm" sum "\n\t"
void dot_avx512(int64_t rounds) { NIBBLE_DOT_LOOP(NIBBLE_DOT); }
#undef NIBBLE_DOT

#define NIBBLE_DOT(sum)                      \
  "vpmaddubsw %%ymm15, %%ymm14, %%ymm13\n\t" \
  "vpaddw %%ymm13, %%ymm" sum ", %%ymm" sum "\n\t"
void dot_avx2(int64_t rounds) { NIBBLE_DOT_LOOP(NIBBLE_DOT); }
#undef NIBBLE_DOT
#undef NIBBLE_DOT_LOOP
#undef NIBBLE_CHAINS

void need_avx2(const jit::CpuInfo& cpu) {
  if (!cpu.avx2) fail("Measuring this machine's roofs needs AVX2, which it does not have.");
}

struct DotPeak {
  DotRounds run;
  int64_t macs;  // a dot
};

DotPeak best_dot(const jit::CpuInfo& cpu) {
  if (cpu.avx512_vnni) return {dot_avx512_vnni, 64};
  if (cpu.avx_vnni) return {dot_avx_vnni, 32};
  if (cpu.avx512bw) return {dot_avx512, 64};
  return {dot_avx2, 32};
}

// Memory in huge pages where there are some.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes), memory_(map_pages(bytes)) {
    if (!memory_) {
      fail("Measuring the read bandwidth needs {} bytes, and the system refused them.", bytes);
    }
  }
  std::byte* data() const { return memory_.get(); }
  int64_t pieces() const { return static_cast<int64_t>(bytes_ / kPiece); }

 private:
  size_t bytes_;
  std::shared_ptr<std::byte> memory_;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Calls body(piece) for every piece, on whichever thread is free.
template <typename Body>
void for_each_piece(ThreadPool& pool, const Buffer& buffer, const Body& body) {
  std::atomic<int64_t> next{0};
  pool.parallel_for(pool.size(), [&](int64_t, int64_t, int) {
    for (int64_t i = next++; i < buffer.pieces(); i = next++) {
      body(buffer.data() + static_cast<size_t>(i) * kPiece);
    }
  });
}

struct Peak {
  double best = 0, median = 0;  // 1e9 a second
};

Peak peak_of(std::vector<double> rates) {
  std::sort(rates.begin(), rates.end());
  return {rates.back() * 1e-9, rates[rates.size() / 2] * 1e-9};
}

Peak measure_read(ThreadPool& pool) {
  ReadRoof roof(pool);
  std::vector<double> rates;
  for (int pass = 0; pass < kReadPasses; ++pass) rates.push_back(roof.pass() * 1e9);
  return peak_of(std::move(rates));
}

Peak measure_dots(ThreadPool& pool, const jit::CpuInfo& cpu) {
  need_avx2(cpu);
  const DotPeak peak = best_dot(cpu);
  std::vector<double> rates;
  for (int pass = 0; pass < kDotPasses; ++pass) {
    const auto start = Clock::now();
    pool.parallel_for(pool.size(), [&](int64_t, int64_t, int) { peak.run(kDotRounds); });
    const double macs = static_cast<double>(peak.macs * kChains * kDotRounds) * pool.size();
    rates.push_back(2 * macs / seconds_since(start));
  }
  return peak_of(std::move(rates));
}

}  // namespace

struct ReadRoof::Impl {
  ThreadPool& pool;
  const Buffer buffer;
  ReadPiece read = nullptr;  // the fastest one
  std::atomic<uint64_t> sink{0};

  static size_t buffer_bytes(const jit::CpuInfo& cpu) {
    need_avx2(cpu);
    return std::clamp<size_t>(8 * cpu.l3_bytes, kLeastBuffer, kMostBuffer) / kPiece * kPiece;
  }

  explicit Impl(ThreadPool& p) : pool(p), buffer(buffer_bytes(jit::cpu())) {
    // Untouched pages are all one page of zeros, which a cache would hold.
    for_each_piece(pool, buffer, [](std::byte* at) { std::memset(at, 1, kPiece); });
    choose_read(jit::cpu().avx512f ? kReadAvx512 : kReadAvx2);
  }

  // In turns, since shared memory changes its pace.
  void choose_read(std::span<const ReadPiece> ways) {
    std::vector<double> best(ways.size(), 0.0);
    for (int round = 0; round < kChoiceRounds; ++round) {
      for (size_t i = 0; i < ways.size(); ++i) {
        read = ways[i];
        best[i] = std::max(best[i], pass());
      }
    }
    read = ways[static_cast<size_t>(std::max_element(best.begin(), best.end()) - best.begin())];
  }

  double pass() {
    const auto start = Clock::now();
    for_each_piece(pool, buffer, [this](const std::byte* p) { sink ^= read(p, kPiece); });
    const auto bytes = static_cast<double>(buffer.pieces()) * static_cast<double>(kPiece);
    return bytes / seconds_since(start) * 1e-9;
  }
};

ReadRoof::ReadRoof(ThreadPool& pool) : impl_(std::make_unique<Impl>(pool)) {}
ReadRoof::~ReadRoof() = default;

double ReadRoof::pass() { return impl_->pass(); }

double dot_roof(ThreadPool& pool) { return measure_dots(pool, jit::cpu()).median; }

Roofs measure_roofs(ThreadPool& pool) {
  const Peak read = measure_read(pool), dots = measure_dots(pool, jit::cpu());
  return {read.best, dots.best, read.median, dots.median};
}

int64_t beyond_caches_bytes() {
  constexpr int64_t kLeast = int64_t{320} << 20;
  return std::max(kLeast, 4 * static_cast<int64_t>(jit::cpu().l3_bytes));
}

Roofs best_of(const Roofs& a, const Roofs& b) {
  return {std::max(a.read_gbs, b.read_gbs), std::max(a.int8_gops, b.int8_gops),
          (a.read_gbs_median + b.read_gbs_median) / 2,
          (a.int8_gops_median + b.int8_gops_median) / 2};
}

}  // namespace nibble::runtime
