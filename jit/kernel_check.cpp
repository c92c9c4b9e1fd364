// check_kernel(): random operands, the kernel and its reference on two copies of every result
// buffer, then a comparison of all bytes of both, gaps between rows and guard zones included.
#include <algorithm>
#include <bit>
#include <cstring>
#include <random>
#include <span>

#include "jit/error.h"
#include "jit/float16.h"
#include "jit/kernel_catalog.h"
#include "jit/kv_layout.h"

namespace nibble::jit {
namespace {

using Random = std::mt19937_64;

constexpr size_t kAlignment = 64;
constexpr uint8_t kPattern = 0xa5;  // what result buffers hold before

float uniform(Random& random, float low, float high) {
  return low + (high - low) * static_cast<float>(random() >> 40) * 0x1p-24F;
}
int64_t integer(Random& random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}

// `count` elements that start on a 64-byte line, with a line of pattern before and behind.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : count_(static_cast<size_t>(count)), bytes_(count_ * sizeof(T) + 4 * kAlignment, kPattern) {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    start_ = kAlignment + (kAlignment - address % kAlignment) % kAlignment;
  }
  Buffer(Buffer&&) noexcept = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return reinterpret_cast<T*>(bytes_.data() + start_); }
  T& operator[](int64_t i) { return data()[i]; }
  std::span<T> all() { return {data(), count_}; }

  // The first byte, guard zones included, that differs; as an element index, negative or past the
  // end in a zone. nullopt when all are equal.
  std::optional<int64_t> first_difference(Buffer& other) {
    const uint8_t* mine = reinterpret_cast<uint8_t*>(data()) - kAlignment;
    const uint8_t* theirs = reinterpret_cast<uint8_t*>(other.data()) - kAlignment;
    const size_t size = count_ * sizeof(T) + 2 * kAlignment;
    const auto differing = std::mismatch(mine, mine + size, theirs).first;
    if (differing == mine + size) return std::nullopt;
    const int64_t offset = differing - mine - static_cast<int64_t>(kAlignment);
    constexpr int64_t kSize = sizeof(T);
    return offset >= 0 ? offset / kSize : (offset - kSize + 1) / kSize;
  }
  bool holds(int64_t i) const { return i >= 0 && i < static_cast<int64_t>(count_); }

 private:
  size_t count_;
  std::vector<uint8_t> bytes_;
  size_t start_ = 0;
};

Buffer<float> random_floats(Random& random, int64_t count, float low, float high) {
  Buffer<float> out(count);
  for (float& value : out.all()) value = uniform(random, low, high);
  return out;
}

// A result buffer twice: what the kernel writes and what the reference writes.
template <typename T>
struct Result {
  explicit Result(int64_t count) : kernel(count), reference(count) {}
  void set(int64_t i, T value) { kernel[i] = reference[i] = value; }

  // Rows of `stride` elements; "" when both copies are equal.
  std::string compare(std::string_view what, int64_t stride) {
    const std::optional<int64_t> found = kernel.first_difference(reference);
    if (!found) return "";
    if (!kernel.holds(*found)) {
      return fmt::format("{} was written outside its bounds (element {})", what, *found);
    }
    return fmt::format("{}[{}][{}] is {}, expected {}", what, *found / stride, *found % stride,
                       text(kernel[*found]), text(reference[*found]));
  }

  static std::string text(T value) {
    if constexpr (std::is_same_v<T, float>) {
      return fmt::format("{:.9g} (0x{:08x})", value, std::bit_cast<uint32_t>(value));
    } else {
      return fmt::format("{}", value);
    }
  }

  Buffer<T> kernel, reference;
};

// --- matmul ---

// A packed matrix of which only some column blocks are filled: the others are never read.
struct FilledBlocks {
  FilledBlocks(const GemmSpec& spec, Random& random, const std::vector<int64_t>& blocks)
      : shape(packed_shape(spec.weight, spec.n, spec.k)),
        data(shape.data_bytes),
        scales(shape.scale_bytes),
        zeros(shape.zero_bytes) {
    for (const int64_t nb : blocks) fill_block(spec, random, nb);
  }

  void fill_block(const GemmSpec& spec, Random& random, int64_t nb) {
    if (spec.weight.type == WeightType::f32) {
      Buffer<float> w = random_floats(random, kColumnBlock * spec.k, -1, 1);
      pack_block_f32(spec.n, spec.k, nb, w.data(), data.data());
      return;
    }
    const int64_t largest = top_value(spec.weight.type);
    std::vector<uint8_t> q(static_cast<size_t>(kColumnBlock * shape.kpad));
    std::vector<uint8_t> zero(static_cast<size_t>(kColumnBlock * shape.groups));
    std::vector<float> scale(zero.size()), minimum(zero.size());
    std::vector<float> over(static_cast<size_t>(kColumnBlock * shape.supers)), under(over.size());
    for (uint8_t& value : q) value = static_cast<uint8_t>(integer(random, 0, largest));
    for (uint8_t& value : zero) value = static_cast<uint8_t>(integer(random, 0, largest));
    for (float& value : scale) {
      value = uniform(random, -0.01F, 0.01F);
      value = round_to(spec.weight.scale, value);
    }
    for (float& value : minimum) value = round_to(spec.weight.scale, uniform(random, -0.1F, 0.1F));
    if (spec.weight.scale == ScaleType::q8) {
      fill_products(random, over, scale, 0.0001F);
      fill_products(random, under, minimum, 0.001F);
    }
    pack_block(spec.weight, spec.n, spec.k, nb, q.data(), scale.data(), zero.data(), data.data(),
               scales.data(), zeros.data(), minimum.data(), {over.data(), under.data()});
  }

  // Bytes times numbers of up to `largest`.
  void fill_products(Random& random, std::vector<float>& numbers, std::vector<float>& products,
                     float largest) const {
    for (float& number : numbers) {
      number = round_to(ScaleType::f16, uniform(random, -largest, largest));
    }
    const size_t groups = products.size() / numbers.size();
    for (size_t i = 0; i < products.size(); ++i) {
      products[i] = numbers[i / groups] * static_cast<float>(integer(random, -128, 127));
    }
  }

  PackedShape shape;
  Buffer<uint8_t> data, scales, zeros;
};

// The operands of a call with up to `rows` rows.
struct GemmCase {
  GemmCase(const GemmSpec& s, const Tiling& tiling, Random& random, int64_t rows,
           const std::vector<int64_t>& blocks)
      : spec(s),
        weights(s, random, blocks),
        columns((s.gate ? s.n / 2 : s.n) - (s.gate ? 5 : 0)),
        a_f32(random_floats(random, s.act == ActType::f32 ? rows * a_stride() : 0, -1, 1)),
        a_s8(s.act == ActType::s8 ? rows * a_stride() : 0),
        a_bf16(s.act == ActType::bf16 ? rows * a_stride() : 0),
        a_scale(random_floats(random, rows * weights.shape.act_groups, 0.001F, 0.02F)),
        a_sum(rows * weights.shape.act_sum_bytes),
        bias(random_floats(random, s.n, -1, 1)),
        residual(random_floats(random, rows * stride(), -1, 1)),
        scratch(gemm_scratch_bytes(s, tiling)),
        c(rows * stride()) {
    if (s.act == ActType::s8) quantized_rows(random, rows);
    if (s.act == ActType::bf16) rounded_rows(random, rows);
  }

  int64_t stride() const { return columns + 3; }
  int64_t a_stride() const { return spec.act == ActType::f32 ? spec.k + 3 : weights.shape.kpad; }

  const void* a() {
    if (spec.act == ActType::s8) return a_s8.data();
    if (spec.act == ActType::bf16) return a_bf16.data();
    return a_f32.data();
  }

  void rounded_rows(Random& random, int64_t rows) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t kk = 0; kk < a_stride(); ++kk) {
        const float x = kk < spec.k ? uniform(random, -1, 1) : 0;
        a_bf16[row * a_stride() + kk] = bf16_activation(x);
      }
    }
  }

  void quantized_rows(Random& random, int64_t rows) {
    const PackedShape& shape = weights.shape;
    const int zero = spec.weight.asym ? 1 : middle_value(spec.weight.type);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t kk = 0; kk < shape.kpad; ++kk) {
        const int64_t q = kk < spec.k ? integer(random, -127, 127) : 0;
        a_s8[row * a_stride() + kk] = static_cast<int8_t>(q);
      }
      for (int64_t g = 0; g < shape.groups; ++g) {
        int32_t sum = 0;
        const int64_t end = std::min(shape.kpad, (g + 1) * shape.group);
        for (int64_t kk = g * shape.group; kk < end; ++kk) sum += a_s8[row * a_stride() + kk];
        store_activation_sum(shape, a_sum.data() + row * shape.act_sum_bytes, g, -zero * sum);
      }
    }
  }

  GemmArgs args(int64_t m, int64_t nb_begin, int64_t nb_end, Buffer<float>& out) {
    return {.a = a(),
            .a_stride = a_stride(),
            .a_scale = a_scale.data(),
            .a_sum = a_sum.data(),
            .w = weights.data.data(),
            .w_scale = weights.scales.data(),
            .w_zero = weights.zeros.data(),
            .bias = spec.bias ? bias.data() : nullptr,
            .residual = spec.residual ? residual.data() : nullptr,
            .residual_stride = stride(),
            .c = out.data(),
            .c_stride = stride(),
            .c_columns = columns,
            .m = m,
            .nb_begin = nb_begin,
            .nb_end = nb_end,
            .scratch = scratch.data()};
  }

  GemmSpec spec;
  FilledBlocks weights;
  int64_t columns;
  Buffer<float> a_f32;
  Buffer<int8_t> a_s8;
  Buffer<uint16_t> a_bf16;
  Buffer<float> a_scale;
  Buffer<uint8_t> a_sum;
  Buffer<float> bias, residual;
  Buffer<uint8_t> scratch;
  Result<float> c;
};

std::string check_gemm(const Kernel& kernel, Random& random) {
  const auto& spec = std::get<GemmSpec>(kernel.key.spec);
  const Tiling& tiling = kernel.key.tiling;
  const int64_t nblocks = packed_shape(spec.weight, spec.n, spec.k).nblocks;
  // The first and the last column blocks, a few tiles' worth: the middle is more of the same.
  const int64_t window = std::min(nblocks, std::max<int64_t>(4, int64_t{2} * tiling.nr + 2));
  const int64_t tail = nblocks - std::min(nblocks, 4 + nblocks % 2);
  std::vector<int64_t> blocks;
  for (int64_t nb = 0; nb < nblocks; ++nb) {
    if (nb < window || nb >= tail) blocks.push_back(nb);
  }
  const int64_t most_rows = int64_t{2} * tiling.mr + 1;
  GemmCase test(spec, tiling, random, most_rows, blocks);
  for (const int64_t m : {int64_t{1}, int64_t{3}, int64_t{tiling.mr}, most_rows}) {
    if (m > most_rows) continue;
    for (const auto& [begin, end] : {std::pair{int64_t{0}, window}, std::pair{tail, nblocks}}) {
      if (spec.gate && begin % 2 != 0) continue;
      kernel.run(test.args(m, begin, end, test.c.kernel));
      gemm_reference(spec, test.args(m, begin, end, test.c.reference));
      const std::string difference = test.c.compare("c", test.stride());
      if (!difference.empty()) {
        return fmt::format("with m = {} and column blocks {} to {}: {}", m, begin, end, difference);
      }
    }
  }
  return "";
}

// --- row kernels ---

// All operands that any row kernel has, for `rows` rows of n elements.
struct RowCase {
  RowCase(const RowSpec& s, Random& random, int64_t row_count, int64_t length)
      : spec(s),
        rows(row_count),
        n(length),
        heads(s.op == RowOp::rope ? 3 : 1),
        x(random_floats(random, rows * stride(), -4, 4)),
        x2(random_floats(random, rows * stride(), -4, 4)),
        x3(random_floats(random, rows * stride(), -1, 1)),
        weight(random_floats(random, n, -2, 2)),
        bias(random_floats(random, n, -1, 1)),
        y(rows * heads * stride()),
        sum(rows * stride()),
        q(rows * q_stride()),
        q_scale(rows * row_scales(s)),
        q_sum(rows * row_sum_words(s)) {
    // One row of zeros.
    if (rows > 2) std::fill_n(x.data() + stride(), n, 0.0F);
    if (s.op != RowOp::rope) return;
    for (int64_t i = 0; i < rows * heads * stride(); ++i) y.set(i, uniform(random, -4, 4));
  }

  int64_t stride() const { return n + 3; }
  int64_t q_stride() const { return ((n + 7) / 8 * 8 + 8) * (spec.bf16 ? 2 : 1); }

  RowArgs args(bool kernel) {
    const auto pick = [kernel](auto& result) {
      return kernel ? result.kernel.data() : result.reference.data();
    };
    return {.x = x.data(),
            .x_stride = stride(),
            .x2 = x2.data(),
            .x2_stride = stride(),
            .x3 = x3.data(),
            .weight = weight.data(),
            .bias = bias.data(),
            .eps = 1e-5F,
            .n = n,
            .y = pick(y),
            .y_stride = heads * stride(),
            .sum = pick(sum),
            .sum_stride = stride(),
            .q = pick(q),
            .q_stride = q_stride(),
            .q_scale = pick(q_scale),
            .q_sum = pick(q_sum),
            .q_groups = row_scales(spec),
            .q_sum_words = row_sum_words(spec),
            .rows = rows,
            .heads = heads,
            .scale = 0.37F,
            .cap = 1.5F};
  }

  std::string compare() {
    for (const std::string& difference :
         {y.compare("y", heads * stride()), sum.compare("sum", stride()),
          q.compare("q", q_stride()), q_scale.compare("q_scale", row_scales(spec)),
          q_sum.compare("q_sum", row_sum_words(spec))}) {
      if (!difference.empty()) return difference;
    }
    return "";
  }

  RowSpec spec;
  int64_t rows, n, heads;
  Buffer<float> x, x2, x3, weight, bias;
  Result<float> y, sum;
  Result<int8_t> q;
  Result<float> q_scale;
  Result<int32_t> q_sum;
};

std::string check_row(const Kernel& kernel, Random& random) {
  const auto& spec = std::get<RowSpec>(kernel.key.spec);
  std::vector<int64_t> lengths = {spec.n};
  if (length_at_run_time(spec.op)) {
    lengths.clear();
    for (int64_t n = 1; n <= 40; ++n) lengths.push_back(n);
    lengths.push_back(1000);
  }
  for (const int64_t n : lengths) {
    for (const int64_t rows : {1, 3}) {
      RowCase test(spec, random, rows, n);
      kernel.run(test.args(true));
      row_reference(spec, test.args(false));
      const std::string difference = test.compare();
      if (!difference.empty()) {
        return fmt::format("with {} rows of {} elements: {}", rows, n, difference);
      }
    }
  }
  return "";
}

// --- attention ---

// A cache of `positions` positions, of which the last ones may hold anything.
struct AttentionCase {
  AttentionCase(const AttentionSpec& s, Random& random, int64_t row_count, int64_t positions)
      : spec(s),
        rows(row_count),
        q(random_floats(random, rows * stride(), -2, 2)),
        slope(random_floats(random, rows, 0, 0.5F)),
        cache(pages(positions) * kv_page_bytes(s.kv, s.head_dim)),
        lo(rows),
        hi(rows),
        scratch(attention_scratch_bytes(s)),
        out(rows * stride()) {
    fill(random, pages(positions) * kKvPage);
    for (int64_t row = 0; row < rows; ++row) {
      hi[row] = integer(random, 1, positions);
      lo[row] = row % 2 == 0 ? 0 : integer(random, 0, hi[row] - 1);
    }
  }

  int64_t stride() const { return spec.head_dim + 3; }

  static int64_t pages(int64_t positions) { return (positions + kKvPage - 1) / kKvPage; }

  KvHead head() {
    return {reinterpret_cast<std::byte*>(cache.data()), kv_page_bytes(spec.kv, spec.head_dim)};
  }

  void fill(Random& random, int64_t positions) {
    for (int64_t t = 0; t < positions; ++t) {
      auto key = random_floats(random, spec.head_dim, -1, 1);
      auto value = random_floats(random, spec.head_dim, -1, 1);
      kv_append(spec.kv, spec.head_dim, t, key.data(), value.data(), head());
    }
  }

  AttentionArgs args(Buffer<float>& result) {
    return {.q = q.data(),
            .q_stride = stride(),
            .cache = head(),
            .lo = lo.data(),
            .hi = hi.data(),
            .slope = slope.data(),
            .scale = 0.125F,
            .softcap = 3.0F,
            .out = result.data(),
            .out_stride = stride(),
            .rows = rows,
            .scratch = scratch.data()};
  }

  AttentionSpec spec;
  int64_t rows;
  Buffer<float> q, slope;
  Buffer<uint8_t> cache;
  Buffer<int64_t> lo, hi;
  Buffer<uint8_t> scratch;
  Result<float> out;
};

std::string check_attention(const Kernel& kernel, Random& random) {
  const auto& spec = std::get<AttentionSpec>(kernel.key.spec);
  for (const int64_t rows : {int64_t{1}, int64_t{spec.rows}}) {
    for (const int64_t positions : {1, 17, 64, 65, 300}) {
      AttentionCase test(spec, random, rows, positions);
      kernel.run(test.args(test.out.kernel));
      attention_reference(spec, test.args(test.out.reference));
      const std::string difference = test.out.compare("out", test.stride());
      if (!difference.empty()) {
        return fmt::format("with {} rows over {} positions: {}", rows, positions, difference);
      }
    }
  }
  return "";
}

}  // namespace

std::string compare_with_reference(const Kernel& kernel, uint64_t seed) {
  Random random(seed);
  const KernelSpec& spec = kernel.key.spec;
  if (std::holds_alternative<GemmSpec>(spec)) return check_gemm(kernel, random);
  if (std::holds_alternative<RowSpec>(spec)) return check_row(kernel, random);
  return check_attention(kernel, random);
}

std::string check_kernel(const KernelKey& key, uint64_t seed) {
  if (!supports(key.isa)) {
    fail("The kernel {} cannot be checked here: this machine lacks {}.", name(key),
         missing_features(cpu(), key.isa));
  }
  CodeCache& cache = CodeCache::instance();
  const Kernel& kernel = cache.get(key);
  if (kernel.code == nullptr) {
    fail("The kernel {} cannot be checked: it runs as its reference. {}", name(key),
         cache.fallback_reason());
  }
  return compare_with_reference(kernel, seed);
}

}  // namespace nibble::jit
