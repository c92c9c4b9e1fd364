// Machine code of attention over a cache of bf16 pairs (attention.h has the arithmetic): a page at
// a time its scores, the weights made of them, and their sum of its values.
#include <cstddef>
#include <vector>

#include "jit/attention.h"
#include "jit/attention_bf16.h"
#include "jit/attention_bf16_products.h"
#include "jit/attention_generator.h"
#include "jit/compiler_math.h"
#include "jit/kv_layout.h"

namespace nibble::jit {
namespace {

namespace x86 = asmjit::x86;

// Rows from which on a call takes tiles, as with matmuls: fewer are bound by reading the cache.
constexpr int kMostVectorRows = 8;

// Paths of one function: one row alone, rows a tile at a time, and, where there are tiles and rows
// enough, by those. Within a path, pages that every row sees whole take code without masks.
class Bf16AttentionGenerator : public Bf16Products {
 public:
  Bf16AttentionGenerator(const AttentionSpec& spec, Isa isa) : Bf16Products(spec, isa), isa_(isa) {}

  std::vector<uint8_t> generate() {
    const int few = v_.wide() ? 4 : 2;
    std::vector<Path> paths = {{1, 1}};
    if (isa_ == Isa::amx_int8) {
      paths.push_back({kMostVectorRows, few});
      paths.push_back({spec_.rows, kTileRows});
    } else {
      paths.push_back({spec_.rows, few});
    }
    return generate_paths(paths);
  }

 private:
  void path(int together) override {
    together_ = together;
    tiles_ = together == kTileRows;
    gather_rows(together);
    if (tiles_) configure_tiles();
    each_page(together, lowest_, highest_, page_state());
    if (tiles_) cc_.tilerelease();
  }

  // Times the scale, rounded: in bf16 for tiles, as the same numbers in fp32 for vectors.
  void gather_query(const Gp&, const Gp& source, const Gp& query) override {
    const Reg scale = query_scale();
    const Gp i = v_.zero_gp("i");
    v_.blocks(i, dim_, [&](const Mask* mask, int) {
      const Reg x = v_.load(x86::ptr(source, i, 2), mask);
      put_query(query, i, v_.to_bf16_factor(v_.mul(x, scale)));
    });
    if ((dim_ + 15) / 16 * 16 == scratch_.width) return;
    cc_.mov(i, scratch_.width - 16);
    put_query(query, i, v_.accumulator(zero()));
  }
  void put_query(const Gp& query, const Gp& i, const Reg& words) {
    if (tiles_) {
      v_.store_words(x86::ptr(query, i, 1), words, 16);
    } else {
      v_.store(x86::ptr(query, i, 2), v_.shift_left(words, 16));
    }
  }

  void attend_page(int) override {
    page_record_ = record_of(page_);
    const Gp none = v_.zero_gp("none");
    const Gp most = v_.gp("most");
    cc_.mov(most, kKvPage);
    begin_ = copy(lowest_, "begin");
    cc_.sub(begin_, page_);
    raise(begin_, none);
    cc_.and_(begin_, -kStep);
    end_ = copy(highest_, "end");
    cc_.sub(end_, page_);
    lower(end_, most);
    cc_.add(end_, kStep - 1);
    cc_.and_(end_, -kStep);
    scores();
    weigh();
    values();
  }

  // ---- weights ----

  void weigh() {
    Label partial = cc_.newLabel();
    Label done = cc_.newLabel();
    const Gp first = address(x86::ptr(page_, begin_), "first");
    const Gp end = address(x86::ptr(page_, end_), "end");
    cc_.cmp(highest_lo_, first);
    cc_.jg(partial);
    cc_.cmp(end, lowest_hi_);
    cc_.jg(partial);
    weigh_rows(true);
    cc_.jmp(done);
    cc_.bind(partial);
    find_visible(page_, kKvPage);
    weigh_rows(false);
    cc_.bind(done);
  }

  // All maxima first: a row's weights would wait for its own.
  void weigh_rows(bool full) {
    const Gp row = v_.zero_gp("row");
    const Gp scores = address(at(scratch_.scores), "scores");
    v_.loop(row, count_, 1, [&] {
      find_maximum(row, scores, full);
      cc_.add(scores, scratch_.score_bytes);
    });
    constexpr float kHeld[] = {kRoundToInteger,   kBf16Power[3], kBf16Power[2],
                               kBf16Power[1],     kRoundToBf16,  kBf16Power[0] + kRoundToBf16,
                               kLeastBf16Exponent};
    v_.hold(kHeld);
    cc_.xor_(row, row);
    cc_.lea(scores, at(scratch_.scores));
    const Gp weights = address(at(scratch_.weights), "weights");
    v_.loop(row, count_, 1, [&] {
      weigh_row(row, scores, weights, full);
      cc_.add(scores, scratch_.score_bytes);
      cc_.add(weights, scratch_.weight_bytes);
    });
    v_.release();
  }

  void find_maximum(const Gp& row, const Gp& scores, bool full) {
    const Reg largest = v_.accumulator(v_.imm(kLowScore));
    const Gp t = copy(begin_, "t");
    v_.loop(t, end_, kKeyBlock, [&] {
      const Block block{-1, t};
      Reg s = v_.load(block.of(scores, 4));
      if (adjusts()) {
        s = adjusted(s, row, 0, page_, block);
        v_.store(block.of(scores, 4), s);
      }
      if (!full) s = v_.select(visible(row, 0, block), s, v_.imm(kLowScore));
      v_.assign(largest, v_.max(s, largest));
    });
    v_.store_lane0(at(scratch_.max, row, 2), v_.reduce_max(largest));
  }

  // Two blocks are the pairs of 32 positions.
  void weigh_row(const Gp& row, const Gp& scores, const Gp& weights, bool full) {
    const Reg top = v_.add(v_.broadcast(at(scratch_.max, row, 2)), v_.imm(kBf16Top));
    const Reg total = v_.accumulator(zero());
    const Gp t = copy(begin_, "t");
    v_.loop(t, end_, kStep, [&] {
      const Gp second = address(x86::ptr(t, kKeyBlock), "second");
      Reg p[2];
      for (int b = 0; b < 2; ++b) {
        const Block block{-1, b == 0 ? t : second};
        const Reg x = v_.sub(v_.load(block.of(scores, 4)), top);
        Mask counts = v_.not_less(x, v_.imm(kLeastBf16Exponent));
        if (!full) counts = v_.both(counts, visible(row, 0, block));
        p[b] = v_.keep(counts, bf16_weight(v_, x));
        v_.assign(total, v_.add(total, p[b]));
        if (!tiles_) v_.store(block.of(scores, 4), p[b]);
      }
      if (tiles_) v_.store(x86::ptr(weights, t, 1), v_.bit_or(p[1], v_.shift_right(p[0], 16)));
    });
    v_.store_lane0(at(scratch_.sum, row, 2), v_.reduce_add(total));
  }

  const Isa isa_;
};

}  // namespace

std::vector<uint8_t> generate_bf16_attention(const AttentionSpec& spec, Isa isa) {
  return Bf16AttentionGenerator(spec, isa).generate();
}

}  // namespace nibble::jit
