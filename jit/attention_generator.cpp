#include "jit/attention_generator.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <vector>

#include "jit/attention.h"
#include "jit/attention_code.h"
#include "jit/attention_scratch.h"
#include "jit/compiler_math.h"
#include "jit/kv_layout.h"
#include "jit/vector_math.h"

namespace nibble::jit {
namespace {

namespace x86 = asmjit::x86;
using Gp = CompilerMath::Gp;
using Mask = CompilerMath::Mask;
using Mem = CompilerMath::Mem;
using Reg = CompilerMath::Reg;

constexpr uint32_t kMinusInfinity = 0xFF800000U;
constexpr int kSplitBytes = kKvSplit * 4;  // one row of weights

// Element (row, column) of a tile held as one list.
size_t index_of(int row, int columns, int column) {
  return static_cast<size_t>(row) * static_cast<size_t>(columns) + static_cast<size_t>(column);
}

// Two paths in one function: all rows together, which share every key and value that is loaded,
// and, where the call has one row only, that row alone. A call with fewer rows than the spec
// repeats its last one and drops the copies.
class AttentionGenerator : public AttentionCode {
 public:
  AttentionGenerator(const AttentionSpec& spec, Isa isa)
      : AttentionCode(spec, isa),
        scratch_(AttentionScratch::of(spec)),
        kv_bytes_(spec.kv == KvType::f32 ? 4 : 2) {}

  std::vector<uint8_t> generate() { return generate_paths({{1, 1}, {spec_.rows, spec_.rows}}); }

 private:
  using Label = CompilerMath::Label;

  // ---- addresses in the scratch ----

  // Row `row` of a field whose rows are `stride` bytes.
  Gp row_address(int64_t offset, const Gp& row, int stride, const char* name) {
    Gp r = v_.gp(name);
    cc_.imul(r, row, stride);
    cc_.lea(r, x86::ptr(base_, r, 0, static_cast<int32_t>(offset)));
    return r;
  }
  void each_row(int rows, const std::function<void(const Gp& row)>& body) {
    const Gp row = v_.zero_gp("row");
    v_.loop(row, rows, 1, [&] { body(row); });
  }

  // A position of the present split, in the part of its record that begins at `part`.
  Gp in_record(const Gp& position, int64_t part, const char* name) {
    const Gp r = copy(position, name);
    cc_.sub(r, split_);
    cc_.imul(r, r, static_cast<int32_t>(dim_ * kv_bytes_));
    cc_.lea(r, x86::ptr(record_, r, 0, static_cast<int32_t>(part)));
    return r;
  }

  // ---- the whole of one path ----

  void path(int rows) override {
    const Gp lowest = v_.gp("lowest");
    highest_ = v_.zero_gp("highest");
    cc_.mov(lowest, INT64_MAX);
    gather_rows(rows, lowest);
    lowest_ = lowest;
    each_page(rows, lowest_, highest_,
              {scratch_.max, scratch_.sum, scratch_.output, scratch_.width_bytes});
  }

  void attend_page(int rows) override {
    split_ = copy(lowest_, "split");
    cc_.and_(split_, -kKvSplit);
    raise(split_, page_);
    const Gp end = address(x86::ptr(page_, kKvPage), "page_end");
    lower(end, highest_);
    v_.loop(split_, end, kKvSplit, [&] { split(rows); });
  }

  // Copies what the rows say into the scratch.
  void gather_rows(int rows, const Gp& lowest) {
    const Gp last = v_.load_gp(v_.field(offsetof(AttentionArgs, rows)), "last");
    cc_.dec(last);
    each_row(rows, [&](const Gp& row) {
      const Gp source = copy(row, "source");
      lower(source, last);
      const Gp table = v_.load_gp(v_.field(offsetof(AttentionArgs, lo)), "lo");
      const Gp lo = v_.load_gp(x86::ptr(table, source, 3), "lo_row");
      cc_.mov(table, v_.field(offsetof(AttentionArgs, hi)));
      const Gp hi = v_.load_gp(x86::ptr(table, source, 3), "hi_row");
      cc_.mov(at(scratch_.lo, row, 3), lo);
      cc_.mov(at(scratch_.hi, row, 3), hi);
      lower(lowest, lo);
      raise(highest_, hi);
      if (spec_.alibi) {
        cc_.mov(table, v_.field(offsetof(AttentionArgs, slope)));
        v_.store_lane0(at(scratch_.slope, row, 2), v_.broadcast(x86::dword_ptr(table, source, 2)));
      }
      cc_.imul(source, v_.field(offsetof(AttentionArgs, q_stride)));
      cc_.mov(table, v_.field(offsetof(AttentionArgs, q)));
      cc_.lea(source, x86::ptr(table, source, 2));
      const Gp query = row_address(scratch_.query, row, scratch_.width_bytes, "query");
      const Gp i = v_.zero_gp("i");
      v_.blocks(i, dim_, [&](const Mask* mask, int) {
        v_.store(x86::ptr(query, i, 2), v_.load(x86::ptr(source, i, 2), mask));
      });
    });
  }

  void split(int rows) {
    split_end_ = address(x86::ptr(split_, kKvSplit), "split_end");
    record_ = record_of(split_);
    look_ahead(record_, split_end_);
    const Gp shared_begin = copy(split_, "shared_begin");
    const Gp shared_end = copy(split_end_, "shared_end");
    each_row(rows, [&](const Gp& row) {
      const Gp first = v_.load_gp(at(scratch_.lo, row, 3), "first");
      const Gp end = v_.load_gp(at(scratch_.hi, row, 3), "end");
      raise(first, split_);
      lower(end, split_end_);
      cc_.mov(at(scratch_.first, row, 3), first);
      cc_.mov(at(scratch_.end, row, 3), end);
      raise(shared_begin, first);
      lower(shared_end, end);
    });
    scores(rows);
    each_row(rows, [&](const Gp& row) { weigh_row(row, rows > 1); });
    values(rows, shared_begin, shared_end);
    each_row(rows, [&](const Gp& row) { merge_row(row); });
  }

  // Jumps to `out` when the row sees nothing of this split.
  void skip_unseen(const Gp& row, const Label& out) {
    const Gp first = v_.load_gp(at(scratch_.first, row, 3), "first");
    cc_.cmp(first, at(scratch_.end, row, 3));
    cc_.jge(out);
  }

  // ---- scores: weights[row][t - split] = q . key[t], raw, for the blocks that any row sees ----

  void scores(int rows) {
    const Gp begin = copy(lowest_, "block_begin");
    const Gp end = copy(highest_, "block_end");
    raise(begin, split_);
    cc_.and_(begin, -kKeyBlock);
    lower(end, split_end_);
    const Gp keys = in_record(begin, 0, "keys");
    const Gp target = copy(begin, "target");
    cc_.sub(target, split_);
    cc_.lea(target, at(scratch_.weights, target, 2));

    // A tile of rows x blocks whose accumulators fit in registers beside the keys; of one row, the
    // chains of several blocks hide one another's latency.
    const int row_tile = std::min(rows, v_.wide() ? 8 : 4);
    const int block_tile = std::clamp((v_.wide() ? 16 : 4) / row_tile, 1, 4);
    Label singles = cc_.newLabel();
    if (block_tile > 1) {
      Label more = cc_.newLabel();
      cc_.bind(more);
      const Gp left = copy(end, "left");
      cc_.sub(left, begin);
      cc_.cmp(left, (block_tile - 1) * kKeyBlock);
      cc_.jle(singles);
      score_tiles(rows, row_tile, block_tile, keys, target);
      cc_.add(begin, block_tile * kKeyBlock);
      cc_.jmp(more);
    }
    cc_.bind(singles);
    v_.loop(begin, end, kKeyBlock, [&] { score_tiles(rows, row_tile, 1, keys, target); });
  }

  void score_tiles(int rows, int row_tile, int block_tile, const Gp& keys, const Gp& target) {
    for (int row = 0; row < rows; row += row_tile) {
      score_tile(row, std::min(row_tile, rows - row), block_tile, keys, target);
    }
    cc_.add(keys, static_cast<int32_t>(block_tile * kKeyBlock * dim_ * kv_bytes_));
    cc_.add(target, static_cast<int32_t>(block_tile * kKeyBlock * 4));
  }

  // Rows [row, row + row_tile).
  void score_tile(int row, int row_tile, int block_tile, const Gp& keys, const Gp& target) {
    std::vector<Reg> acc;
    acc.reserve(index_of(row_tile, block_tile, 0));
    for (int i = 0; i < row_tile * block_tile; ++i) acc.push_back(v_.accumulator(v_.imm(0.0F)));
    const Gp key = copy(keys, "key");
    const Gp query = address(at(scratch_.query + row * scratch_.width_bytes), "query");
    const int unroll = dim_ % 4 == 0 ? 4 : dim_ % 2 == 0 ? 2 : 1;
    const int key_step = static_cast<int>(kKeyBlock) * kv_bytes_;
    const Gp d = v_.zero_gp("d");
    v_.loop(d, dim_, unroll, [&] {
      for (int u = 0; u < unroll; ++u) {
        score_step(row_tile, block_tile, acc, query, u * 4, key, u * key_step);
      }
      if (row == 0) fetch_ahead(std::max(1, block_tile * unroll * key_step / kLineBytes));
      cc_.add(key, unroll * key_step);
      cc_.add(query, unroll * 4);
    });
    for (int r = 0; r < row_tile; ++r) {
      for (int b = 0; b < block_tile; ++b) {
        v_.store(x86::ptr(target, (row + r) * kSplitBytes + b * 64),
                 acc[index_of(r, block_tile, b)]);
      }
    }
  }

  // One d: a query element of each row times a vector of each block. A single row needs no keys in
  // registers, where AVX2 has none to spare.
  void score_step(int row_tile, int block_tile, const std::vector<Reg>& acc, const Gp& query,
                  int query_offset, const Gp& key, int key_offset) {
    const auto load_key = [&](int b) {
      const int64_t offset = b * kKeyBlock * dim_ * kv_bytes_ + key_offset;
      return load_cached(x86::ptr(key, static_cast<int32_t>(offset)), 16);
    };
    std::vector<Reg> block;
    for (int b = 0; b < block_tile && row_tile > 1; ++b) block.push_back(load_key(b));
    for (int r = 0; r < row_tile; ++r) {
      const Reg q = v_.broadcast(x86::dword_ptr(query, r * scratch_.width_bytes + query_offset));
      for (int b = 0; b < block_tile; ++b) {
        v_.fma_into(acc[index_of(r, block_tile, b)], q,
                    row_tile > 1 ? block[static_cast<size_t>(b)] : load_key(b));
      }
    }
  }

  // Elements of the cache as fp32; lanes past `count` are 0 and not read.
  Reg load_cached(const Mem& from, int count) {
    if (spec_.kv == KvType::f16) return v_.load_half(from, count);
    if (spec_.kv == KvType::bf16) return v_.load_bfloat(from, count);
    if (count == 16) return v_.load(from);
    const Mask mask = v_.first_lanes(count);
    return v_.load(from, &mask);
  }

  // ---- weights: scaled, masked, exponentials; the row's maximum and sum ----

  void weigh_row(const Gp& row, bool clear_partial) {
    Label out = cc_.newLabel();
    if (clear_partial) {
      const Gp partial = row_address(scratch_.partial, row, scratch_.width_bytes, "partial");
      const Gp i = v_.zero_gp("i");
      v_.loop(i, scratch_.width_bytes, 64, [&] { v_.store(x86::ptr(partial, i), v_.imm(0.0F)); });
    }
    skip_unseen(row, out);
    // The row's positions relative to the split, and the block that holds the first.
    const Gp first = v_.load_gp(at(scratch_.first, row, 3), "first");
    const Gp end = v_.load_gp(at(scratch_.end, row, 3), "end");
    cc_.sub(first, split_);
    cc_.sub(end, split_);
    const Gp begin = copy(first, "begin");
    cc_.and_(begin, -kKeyBlock);
    const Gp weights = row_address(scratch_.weights, row, kSplitBytes, "weights");

    const Reg largest = v_.accumulator(v_.imm_bits(kMinusInfinity));
    const Gp t = copy(begin, "t");
    v_.loop(t, end, kKeyBlock, [&] {
      const Reg s = adjusted(v_.load(x86::ptr(weights, t, 2)), row, t);
      const Reg seen = v_.select(visible(first, end, t), s, v_.imm_bits(kMinusInfinity));
      v_.store(x86::ptr(weights, t, 2), seen);
      v_.assign(largest, v_.max(seen, largest));
    });
    const Reg max = v_.reduce_max(largest);
    const Reg total = v_.accumulator(v_.imm(0.0F));
    cc_.mov(t, begin);
    v_.loop(t, end, kKeyBlock, [&] {
      const Reg e = vector_exp(v_, v_.sub(v_.load(x86::ptr(weights, t, 2)), max));
      const Reg p = v_.keep(visible(first, end, t), e);
      v_.store(x86::ptr(weights, t, 2), p);
      v_.assign(total, v_.add(total, p));
    });
    const Reg sum = v_.reduce_add(total);
    Label first_split = cc_.newLabel();
    jump_if_first(row, first_split);
    merge_sum(row, {scratch_.max, scratch_.sum}, max, sum, first_split);
    cc_.bind(out);
  }

  // Lanes of the block at t whose position lies in [first, end), all relative to the split.
  Mask visible(const Gp& first, const Gp& end, const Gp& t) {
    const Gp before = copy(first, "before");
    cc_.sub(before, t);
    cc_.dec(before);
    const Gp left = copy(end, "left");
    cc_.sub(left, t);
    const Reg lanes = v_.iota();
    return v_.both(v_.int_greater(lanes, v_.broadcast(before)),
                   v_.int_greater(v_.broadcast(left), lanes));
  }

  // The score of block t (relative to the split): scale, softcap, ALiBi.
  Reg adjusted(const Reg& dot, const Gp& row, const Gp& t) {
    Reg s = v_.mul(dot, v_.broadcast(v_.field(offsetof(AttentionArgs, scale), 4)));
    if (spec_.softcap) {
      const Reg cap = v_.broadcast(v_.field(offsetof(AttentionArgs, softcap), 4));
      s = v_.mul(cap, vector_tanh(v_, v_.div(s, cap)));
    }
    if (!spec_.alibi) return s;
    const Gp distance = address(x86::ptr(split_, t, 0, 1), "distance");  // t - (hi - 1)
    cc_.sub(distance, at(scratch_.hi, row, 3));
    const Reg positions = v_.int_add(v_.broadcast(distance), v_.iota());
    return v_.fma(v_.broadcast(at(scratch_.slope, row, 2)), v_.to_float(positions), s);
  }

  // Branches on whether this split is the first of its page that the row sees.
  void jump_if_first(const Gp& row, const Label& first) {
    cc_.cmp(split_, page_);
    cc_.je(first);
    cc_.cmp(split_, at(scratch_.lo, row, 3));
    cc_.jle(first);
  }

  // The maximum and the sum of a part beside those that are merged so far, where there are some.
  struct Merged {
    int32_t max, sum;
  };
  void merge_sum(const Gp& row, const Merged& into, const Reg& max, const Reg& sum,
                 const Label& first) {
    Label done = cc_.newLabel();
    const Reg old_max = v_.broadcast(at(into.max, row, 2));
    const Reg both = v_.max(old_max, max);
    const Reg keep = vector_exp(v_, v_.sub(old_max, both));
    const Reg add = vector_exp(v_, v_.sub(max, both));
    const Reg old_sum = v_.broadcast(at(into.sum, row, 2));
    v_.store_lane0(at(into.sum, row, 2), v_.fma(old_sum, keep, v_.mul(sum, add)));
    v_.store_lane0(at(into.max, row, 2), both);
    v_.store_lane0(at(scratch_.keep, row, 2), keep);
    v_.store_lane0(at(scratch_.add, row, 2), add);
    cc_.jmp(done);
    cc_.bind(first);
    v_.store_lane0(at(into.sum, row, 2), sum);
    v_.store_lane0(at(into.max, row, 2), max);
    cc_.bind(done);
  }

  // ---- values: partial[row] = sum of p[t] * value[t], t ascending from the row's first ----

  // Positions that all rows see are taken together; what single rows see before and after them,
  // row by row, so that no row multiplies a value it may not see.
  void values(int rows, const Gp& shared_begin, const Gp& shared_end) {
    if (rows == 1) return value_span(0, 1, shared_begin, shared_end, true);
    Label some = cc_.newLabel();
    cc_.cmp(shared_begin, shared_end);
    cc_.jl(some);
    cc_.mov(shared_begin, split_end_);
    cc_.mov(shared_end, split_end_);
    cc_.bind(some);
    value_edges(rows, [&](const Gp& row, const Gp& begin, const Gp& end) {
      cc_.mov(begin, at(scratch_.first, row, 3));
      cc_.mov(end, at(scratch_.end, row, 3));
      lower(end, shared_begin);
    });
    const int row_tile = v_.wide() ? 8 : 4;
    for (int row = 0; row < rows; row += row_tile) {
      value_span(row, std::min(row_tile, rows - row), shared_begin, shared_end, false);
    }
    value_edges(rows, [&](const Gp& row, const Gp& begin, const Gp& end) {
      cc_.mov(begin, at(scratch_.first, row, 3));
      cc_.mov(end, at(scratch_.end, row, 3));
      raise(begin, shared_end);
    });
  }

  using Edge = std::function<void(const Gp& row, const Gp& begin, const Gp& end)>;
  void value_edges(int rows, const Edge& edge) {
    each_row(rows, [&](const Gp& row) {
      const Gp begin = v_.gp("begin");
      const Gp end = v_.gp("end");
      edge(row, begin, end);
      Label none = cc_.newLabel();
      cc_.cmp(begin, end);
      cc_.jge(none);
      const Gp weights = row_address(scratch_.weights, row, kSplitBytes, "weights");
      const Gp partial = row_address(scratch_.partial, row, scratch_.width_bytes, "partial");
      value_columns(1, begin, end, weights, partial, false, false);
      cc_.bind(none);
    });
  }

  void value_span(int row, int rows, const Gp& begin, const Gp& end, bool from_zero) {
    const Gp weights = address(at(scratch_.weights + row * kSplitBytes), "weights");
    const Gp partial = address(at(scratch_.partial + row * scratch_.width_bytes), "partial");
    value_columns(rows, begin, end, weights, partial, from_zero, row == 0);
  }

  // Adjacent rows over positions [begin, end), a tile of 16-lane columns at a time.
  void value_columns(int rows, const Gp& begin, const Gp& end, const Gp& weights, const Gp& partial,
                     bool from_zero, bool fetches) {
    const int columns = scratch_.width_bytes / 64;
    // Accumulators, the weights of all rows and one value stay in registers together.
    const int most =
        std::clamp(((v_.wide() ? 31 : 15) - rows - v_.parts()) / (rows * v_.parts()), 1, 16);
    const int tiles = (columns + most - 1) / most;
    const int tile = (columns + tiles - 1) / tiles;
    const Gp value = in_record(begin, layout_.values, "value");
    const Gp from = copy(begin, "from");
    cc_.sub(from, split_);
    cc_.lea(from, x86::ptr(weights, from, 2));
    const Gp to = copy(end, "to");
    cc_.sub(to, split_);
    cc_.lea(to, x86::ptr(weights, to, 2));
    for (int c = 0; c < columns; c += tile) {
      value_tile(rows, c, std::min(tile, columns - c), value, from, to, partial, from_zero,
                 fetches);
    }
  }

  void value_tile(int rows, int column, int tile, const Gp& values, const Gp& from, const Gp& to,
                  const Gp& partial, bool from_zero, bool fetches) {
    const auto slot = [&](int r, int c) {
      return x86::ptr(partial, r * scratch_.width_bytes + (column + c) * 64);
    };
    std::vector<Reg> acc;
    acc.reserve(index_of(rows, tile, 0));
    for (int i = 0; i < rows * tile; ++i) {
      acc.push_back(from_zero ? v_.accumulator(v_.imm(0.0F)) : v_.load(slot(i / tile, i % tile)));
    }
    const Gp value = copy(values, "value");
    const Gp p = copy(from, "p");
    v_.loop(p, to, 4, [&] {
      std::vector<Reg> weight;
      weight.reserve(static_cast<size_t>(rows));
      for (int r = 0; r < rows; ++r) {
        weight.push_back(v_.broadcast(x86::dword_ptr(p, r * kSplitBytes)));
      }
      for (int c = 0; c < tile; ++c) {
        const int64_t element = static_cast<int64_t>(column + c) * 16;
        const int count = static_cast<int>(std::min<int64_t>(16, dim_ - element));
        const auto offset = static_cast<int32_t>(element * kv_bytes_);
        const Reg x = load_cached(x86::ptr(value, offset), count);
        for (int r = 0; r < rows; ++r) {
          v_.fma_into(acc[index_of(r, tile, c)], weight[static_cast<size_t>(r)], x);
        }
      }
      cc_.add(value, static_cast<int32_t>(dim_ * kv_bytes_));
      if (fetches) fetch_ahead(std::max(1, tile * 16 * kv_bytes_ / kLineBytes));
    });
    for (int i = 0; i < rows * tile; ++i) {
      v_.store(slot(i / tile, i % tile), acc[static_cast<size_t>(i)]);
    }
  }

  // ---- merging and the result ----

  void merge_row(const Gp& row) {
    Label out = cc_.newLabel();
    Label first = cc_.newLabel();
    skip_unseen(row, out);
    const Gp partial = row_address(scratch_.partial, row, scratch_.width_bytes, "partial");
    const Gp output = row_address(scratch_.output, row, scratch_.width_bytes, "output");
    jump_if_first(row, first);
    merge_output(row, partial, output, first);
    cc_.bind(out);
  }

  // The page's state into that of all pages.
  void merge_page(int rows) override {
    each_row(rows, [&](const Gp& row) {
      Label out = cc_.newLabel();
      Label first_sum = cc_.newLabel();
      Label first_output = cc_.newLabel();
      const Gp lo = v_.load_gp(at(scratch_.lo, row, 3), "lo");
      cc_.cmp(page_, at(scratch_.hi, row, 3));
      cc_.jge(out);
      const Gp page_end = address(x86::ptr(page_, kKvPage), "page_end");
      cc_.cmp(page_end, lo);
      cc_.jle(out);
      const Reg max = v_.broadcast(at(scratch_.max, row, 2));
      const Reg sum = v_.broadcast(at(scratch_.sum, row, 2));
      cc_.cmp(page_, lo);
      cc_.jle(first_sum);
      merge_sum(row, {scratch_.all_max, scratch_.all_sum}, max, sum, first_sum);
      const Gp page = row_address(scratch_.output, row, scratch_.width_bytes, "page_output");
      const Gp all = row_address(scratch_.all_output, row, scratch_.width_bytes, "all_output");
      cc_.cmp(page_, lo);
      cc_.jle(first_output);
      merge_output(row, page, all, first_output);
      cc_.bind(out);
    });
  }

  // output = output * keep + partial * add; from `first` on, output = partial.
  void merge_output(const Gp& row, const Gp& partial, const Gp& output, const Label& first) {
    Label out = cc_.newLabel();
    const Gp i = v_.zero_gp("i");
    const Reg keep = v_.broadcast(at(scratch_.keep, row, 2));
    const Reg add = v_.broadcast(at(scratch_.add, row, 2));
    v_.loop(i, scratch_.width_bytes, 64, [&] {
      const Reg scaled = v_.mul(v_.load(x86::ptr(partial, i)), add);
      v_.store(x86::ptr(output, i), v_.fma(v_.load(x86::ptr(output, i)), keep, scaled));
    });
    cc_.jmp(out);
    cc_.bind(first);
    cc_.xor_(i.r32(), i.r32());
    v_.loop(i, scratch_.width_bytes, 64,
            [&] { v_.store(x86::ptr(output, i), v_.load(x86::ptr(partial, i))); });
    cc_.bind(out);
  }

  void write_out() override {
    const Gp rows = v_.load_gp(v_.field(offsetof(AttentionArgs, rows)), "rows");
    const Gp row = v_.zero_gp("row");
    v_.loop(row, rows, 1, [&] {
      const Gp output = row_address(scratch_.all_output, row, scratch_.width_bytes, "output");
      const Gp out = copy(row, "out");
      cc_.imul(out, v_.field(offsetof(AttentionArgs, out_stride)));
      cc_.shl(out, 2);
      cc_.add(out, v_.field(offsetof(AttentionArgs, out)));
      const Reg sum = v_.broadcast(at(scratch_.all_sum, row, 2));
      const Gp i = v_.zero_gp("i");
      v_.blocks(i, dim_, [&](const Mask* mask, int) {
        v_.store(x86::ptr(out, i, 2), v_.div(v_.load(x86::ptr(output, i, 2)), sum), mask);
      });
    });
  }

  AttentionScratch scratch_;
  int kv_bytes_;
  Gp lowest_, highest_;   // least lo and greatest hi of the rows
  Gp split_, split_end_;  // the present split's positions
  Gp record_;             // and where it lies
};

}  // namespace

std::vector<uint8_t> generate_attention(const AttentionSpec& spec, Isa isa) {
  check_attention_spec(spec);
  if (spec.kv == KvType::int16) return generate_int16_attention(spec, isa);
  if (spec.kv == KvType::int8) return generate_int8_attention(spec, isa);
  if (is_paired(spec.kv)) return generate_bf16_attention(spec, isa);
  return AttentionGenerator(spec, isa).generate();
}

}  // namespace nibble::jit
