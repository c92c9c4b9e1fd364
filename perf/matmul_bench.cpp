// nibble_matmul: what one matmul costs as models run it. A chain of square matmuls, each with
// weights of its own, is lowered and run by a Session: fp32 activations in and out, quantization
// and barriers included, and weights that come from memory, because all of them together are far
// larger than the caches. Prints one line of JSON for every number of rows. Called by compare.sh,
// whose other drivers (peers/) run the same chain and print the same lines.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "graph/lower.h"
#include "graph/ops.h"
#include "jit/error.h"
#include "jit/float16.h"
#include "jit/isa.h"
#include "quant/formats/random_weights.h"
#include "runtime/machine_roofs.h"
#include "runtime/session.h"

namespace {

using namespace nibble;  // NOLINT(google-build-using-namespace)

struct Options {
  int64_t size = 4096, group = 128, pool_mb = 0;
  std::vector<int64_t> rows = {1, 4, 8, 512};
  int threads = 0;
  double seconds = 0.5;
  bool roofs = false;
  bool print_pool = false;
};

// Nibbles of 1 to 15, whose mean is the zero point and whose variance is 56 / 3: outputs are as
// large as inputs, however long the chain. Every copy has the same values in memory of its own.
class Weights {
 public:
  explicit Weights(const jit::WeightFormat& format, int64_t size)
      : format_(format), size_(size), shape_(jit::packed_shape(format, size, size)) {
    std::mt19937 random(1);
    std::uniform_int_distribution<int> nibble(1, 15);
    data_.resize(static_cast<size_t>(shape_.data_bytes));
    for (uint8_t& byte : data_) byte = static_cast<uint8_t>(nibble(random) | nibble(random) << 4);
    const double scale = 1 / std::sqrt(static_cast<double>(size) * 56 / 3);
    scales_.assign(static_cast<size_t>(shape_.scale_bytes) / sizeof(uint16_t),
                   jit::f32_to_f16(static_cast<float>(scale)));
  }
  int64_t bytes() const { return shape_.data_bytes + shape_.scale_bytes; }
  runtime::PackedMatrix copy() const {
    runtime::PackedBuffer buffer = runtime::allocate_packed(format_, size_, size_);
    std::memcpy(buffer.data, data_.data(), data_.size());
    std::memcpy(buffer.scales, scales_.data(), scales_.size() * sizeof(uint16_t));
    return buffer.matrix;
  }

 private:
  jit::WeightFormat format_;
  int64_t size_;
  jit::PackedShape shape_;
  std::vector<uint8_t> data_;
  std::vector<uint16_t> scales_;
};

// x = embedding[id], then x = x W_i^T `copies` times; the last makes the logits.
graph::Graph chain(const Options& options, const Weights& weights, int64_t copies,
                   runtime::ThreadPool& pool) {
  graph::Graph graph;
  graph.origin = "chain of matmuls";
  graph.context_length = *std::max_element(options.rows.begin(), options.rows.end());
  const auto node = [&](const char* op, const std::string& name,
                        std::vector<graph::ValueId> inputs) {
    const graph::ValueId out = graph.add_value(name);
    graph.nodes.push_back(
        {op, std::string(graph::kNibbleDomain), name, std::move(inputs), {out}, {}});
    return out;
  };
  graph.io.input_ids = graph.add_value("input_ids", graph::DType::i64);
  graph.inputs = {graph.io.input_ids};
  const graph::ValueId table = graph.add_constant(
      "embedding.weight", graph::Constant(quant::random_matrix(
                              {.type = jit::WeightType::u8}, options.size, options.size, 1, pool)));
  graph::ValueId x = node("Embedding", "embedding", {graph.io.input_ids, table});
  for (int64_t i = 0; i < copies; ++i) {
    const std::string name = fmt::format("matmul.{}", i);
    const graph::ValueId w = graph.add_constant(name + ".weight", graph::Constant(weights.copy()));
    x = node("Linear", name, {x, w, graph::kNoValue});
  }
  graph.io.logits = x;
  graph.outputs = {x};
  return graph;
}

double seconds_of_pass(runtime::Session& session, const std::vector<int32_t>& ids,
                       std::vector<float>& out) {
  session.reset();
  const auto start = std::chrono::steady_clock::now();
  session.forward_all(ids, out);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Timing {
  int64_t m = 0;
  double ms = 0, min_ms = 0, max_ms = 0;  // a matmul; the median over passes, and the extremes
};

// One pass to warm up, then passes for `seconds`, at least one.
Timing measure(runtime::Session& session, int64_t m, int64_t copies, double seconds) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < m; ++i) ids.push_back(static_cast<int32_t>(i * 7 % session.vocab_size()));
  std::vector<float> out(static_cast<size_t>(m * session.vocab_size()));
  double left = seconds;
  std::vector<double> passes;
  seconds_of_pass(session, ids, out);
  do {
    passes.push_back(seconds_of_pass(session, ids, out));
    left -= passes.back();
  } while (left > 0);
  const bool finite = std::all_of(out.begin(), out.end(), [](float y) { return std::isfinite(y); });
  if (!finite || out[0] == 0) fail("The result of the chain is not finite, or zero.");
  std::sort(passes.begin(), passes.end());
  const double to_ms = 1e3 / static_cast<double>(copies);
  return {m, passes[passes.size() / 2] * to_ms, passes.front() * to_ms, passes.back() * to_ms};
}

std::string text(const runtime::Roofs& roofs) {
  return fmt::format("\"roof_read_gbs\":{:.4g},\"roof_int8_gops\":{:.5g}", roofs.read_gbs,
                     roofs.int8_gops);
}

void run(const Options& options) {
  if (options.print_pool) return fmt::print("{}\n", runtime::beyond_caches_bytes() >> 20);
  if (options.size % 32 != 0 || options.size % options.group != 0) {
    fail("The size must be a multiple of 32 and of the group, {}; found {}.", options.group,
         options.size);
  }
  const int threads = options.threads > 0 ? options.threads : runtime::default_threads();
  auto pool = std::make_shared<runtime::ThreadPool>(threads);
  if (options.roofs) {
    fmt::print("{{{}}}\n", text(runtime::measure_roofs(*pool)));
    return;
  }
  const jit::WeightFormat format{.type = jit::WeightType::u4, .group = options.group};
  const Weights weights(format, options.size);
  const int64_t pool_bytes =
      options.pool_mb > 0 ? options.pool_mb << 20 : runtime::beyond_caches_bytes();
  const int64_t copies = std::max<int64_t>(1, pool_bytes / weights.bytes());
  const jit::Isa isa = jit::selected_isa();
  const auto plan = graph::lower(chain(options, weights, copies, *pool), {.isa = isa});
  runtime::Session session(plan, pool, {.prefill_chunk = plan->context_length});
  std::vector<Timing> timings;
  for (const int64_t m : options.rows) {
    timings.push_back(measure(session, m, copies, options.seconds));
  }
  // Right after the last, as a shared machine's memory changes its pace.
  const runtime::Roofs roofs = runtime::measure_roofs(*pool);
  for (const Timing& timing : timings) {
    const double gbs = static_cast<double>(weights.bytes()) * 1e-6 / timing.ms;
    const auto macs = static_cast<double>(timing.m * options.size * options.size);
    const double gops = 2e-6 * macs / timing.ms;
    fmt::print(
        "{{\"size\":{},\"group\":{},\"m\":{},\"threads\":{},\"isa\":\"{}\",\"copies\":{},"
        "\"bytes\":{},\"ms\":{:.5g},\"min_ms\":{:.5g},\"max_ms\":{:.5g},\"gbs\":{:.4g},"
        "\"gops\":{:.5g},\"read_share\":{:.4g},\"int8_share\":{:.4g},{}}}\n",
        options.size, options.group, timing.m, pool->size(), jit::isa_name(isa), copies,
        weights.bytes(), timing.ms, timing.min_ms, timing.max_ms, gbs, gops, gbs / roofs.read_gbs,
        gops / roofs.int8_gops, text(roofs));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App program(
      "What one INT4 matmul costs, its weights from memory: a line of JSON a row count");
  program.add_option("--size", options.size, "Rows and columns of the weights")
      ->check(CLI::Range(int64_t{16}, int64_t{1} << 20))
      ->capture_default_str();
  program.add_option("--group", options.group, "Weights that share a scale")
      ->check(CLI::IsMember({16, 32, 64, 128, 256, 512, 1024}))
      ->capture_default_str();
  program.add_option("--rows", options.rows, "Rows of activations: M1,M2,...")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->capture_default_str();
  program.add_option("--threads", options.threads, "Threads (default: one a physical core)")
      ->check(CLI::Range(1, 1024));
  program
      .add_option("--pool-mb", options.pool_mb,
                  "Weights to rotate through, in MiB (default: 320, or four times the L3 cache)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  program.add_option("--seconds", options.seconds, "Time to measure each row count for")
      ->capture_default_str();
  program.add_flag("--roofs", options.roofs, "Measure the machine's roofs alone");
  program.add_flag("--print-pool-mb", options.print_pool, "Print the default of --pool-mb alone");
  CLI11_PARSE(program, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "nibble_matmul: {}\n", error.what());
    return 1;
  }
  return 0;
}
