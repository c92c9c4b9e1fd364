// What the generators of attention over pairs and fours (int16, bf16_pairs; int8) share: what the
// rows say, which positions they see, softcap and ALiBi of their scores, and the merging of pages.
// Base of attention_integer_products.h and attention_bf16_generator.cpp.
//
// What a row may not see costs nothing but a mask of its weights: their products are 0 whatever the
// cache holds. So all rows take whole blocks of 16 positions, and rows are taken a tile at a time;
// a call whose rows fill no whole tile repeats its last one and drops the copies.
#pragma once

#include <bit>
#include <cstddef>
#include <utility>

#include "jit/attention.h"
#include "jit/attention_code.h"
#include "jit/attention_integer.h"
#include "jit/attention_scratch.h"
#include "jit/compiler_math.h"
#include "jit/kv_layout.h"
#include "jit/vector_math.h"

namespace nibble::jit {

class PairedAttention : public AttentionCode {
 protected:
  using Mask = CompilerMath::Mask;
  using Reg = CompilerMath::Reg;

  PairedAttention(const AttentionSpec& spec, Isa isa)
      : AttentionCode(spec, isa), scratch_(PairedAttentionScratch::of(spec)) {}

  // The query of one row, `source`, as the products take it.
  virtual void gather_query(const Gp& row, const Gp& source, const Gp& query) = 0;

  // A block of 16 positions of the present span (split or page): number `index`, or, where that is
  // not known yet, the one at position t.
  struct Block {
    int index;
    Gp t;
    Mem of(const Gp& base, int lane_bytes) const {
      if (index >= 0) {
        return asmjit::x86::ptr(base, index * static_cast<int>(kKeyBlock) * lane_bytes);
      }
      return asmjit::x86::ptr(base, t, std::countr_zero(static_cast<unsigned>(lane_bytes)));
    }
  };

  // ---- what the rows say ----

  void gather_rows(int tile) {
    count_ = v_.load_gp(v_.field(offsetof(AttentionArgs, rows)), "count");
    cc_.add(count_, tile - 1);
    cc_.and_(count_, -tile);
    lowest_ = v_.gp("lowest");
    lowest_hi_ = v_.gp("lowest_hi");
    cc_.mov(lowest_, INT64_MAX);
    cc_.mov(lowest_hi_, INT64_MAX);
    highest_ = v_.zero_gp("highest");
    highest_lo_ = v_.zero_gp("highest_lo");
    const Gp last = v_.load_gp(v_.field(offsetof(AttentionArgs, rows)), "last");
    cc_.dec(last);
    if (tile > 1) {
      fetch_rows(offsetof(AttentionArgs, q), offsetof(AttentionArgs, q_stride));
      fetch_rows(offsetof(AttentionArgs, out), offsetof(AttentionArgs, out_stride));
    }
    const Gp query = address(at(scratch_.query), "query");
    const Gp output = address(at(scratch_.all_output), "output");
    const Gp row = v_.zero_gp("row");
    v_.loop(row, count_, 1, [&] {
      const Gp source = copy(row, "source");
      lower(source, last);
      gather_row(row, source, query);
      const Gp i = v_.zero_gp("i");
      v_.loop(i, scratch_.output_bytes, 64, [&] { v_.store(asmjit::x86::ptr(output, i), zero()); });
      cc_.add(query, scratch_.query_bytes);
      cc_.add(output, scratch_.output_bytes);
    });
    clear_sums(scratch_.all_max, scratch_.all_sum);
  }

  void clear_sums(int32_t max, int32_t sum) {
    const Gp row = v_.zero_gp("row");
    v_.loop(row, count_, 16, [&] {
      v_.store(at(max, row, 2), v_.imm(kLowScore));
      v_.store(at(sum, row, 2), zero());
    });
  }

  // What a query is multiplied by so that a dot with a key is a score.
  Reg query_scale() {
    const Reg scale = v_.broadcast(v_.field(offsetof(AttentionArgs, scale), 4));
    return adjusts() ? scale : v_.mul(scale, v_.imm(kLog2E));
  }
  bool adjusts() const { return spec_.softcap || spec_.alibi; }

  // ---- positions ----

  // first and end of every row: its visible positions of the span that begins here, relative to it.
  void find_visible(const Gp& span, int64_t length) {
    const Gp row = v_.zero_gp("row");
    const Gp most = v_.gp("most");
    const Gp none = v_.zero_gp("none");
    cc_.mov(most, length);
    v_.loop(row, count_, 1, [&] {
      for (const auto& [from, to] :
           {std::pair{scratch_.lo, scratch_.first}, std::pair{scratch_.hi, scratch_.end}}) {
        const Gp position = v_.load_gp(at(from, row, 3), "position");
        cc_.sub(position, span);
        raise(position, none);
        lower(position, most);
        cc_.mov(at(to, row, 2), position.r32());
      }
    });
  }

  // Lanes of the block whose position row `row` + r may see. Only asked where spans are not whole.
  Mask visible(const Gp& row, int r, const Block& block) {
    const Reg start = block.index < 0 ? v_.broadcast(block.t)
                                      : v_.imm_bits(static_cast<uint32_t>(block.index * kKeyBlock));
    const Reg position = v_.int_add(v_.iota(), start);
    const Reg first = v_.broadcast(at(scratch_.first + r * 4, row, 2));
    const Reg before = v_.int_add(first, v_.imm_bits(~0U));
    return v_.both(v_.int_greater(position, before),
                   v_.int_greater(v_.broadcast(at(scratch_.end + r * 4, row, 2)), position));
  }

  // Softcap and ALiBi of the scores of row `row` + r for a block of the span that begins here.
  Reg adjusted(Reg s, const Gp& row, int r, const Gp& span, const Block& block) {
    if (spec_.softcap) {
      const Reg cap = v_.broadcast(v_.field(offsetof(AttentionArgs, softcap), 4));
      s = v_.mul(cap, vector_tanh(v_, v_.div(s, cap)));
    }
    if (spec_.alibi) {
      const Gp distance = copy(span, "distance");  // t - (hi - 1)
      if (block.index < 0) {
        cc_.add(distance, block.t);
      } else {
        cc_.add(distance, block.index * kKeyBlock);
      }
      cc_.sub(distance.r32(), at(scratch_.newest + r * 4, row, 2));
      const Reg positions = v_.int_add(v_.broadcast(distance), v_.iota());
      s = v_.fma(v_.broadcast(at(scratch_.slope + r * 4, row, 2)), v_.to_float(positions), s);
    }
    return adjusts() ? v_.mul(s, v_.imm(kLog2E)) : s;
  }

  // ---- merging: 16 rows at a time ----

  struct Sums {
    int32_t max, sum;
  };
  // Maxima and sums of a part into those of what is before it, and the factors for the outputs. A
  // part's outputs may be in units of their own: what is in the field factor before.
  void merge_sums(const Sums& part, const Sums& into, bool in_units) {
    const Gp row = v_.zero_gp("row");
    v_.loop(row, count_, 16, [&] {
      const Reg old_max = v_.load(at(into.max, row, 2));
      const Reg part_max = v_.load(at(part.max, row, 2));
      const Reg max = v_.max(old_max, part_max);
      const Reg keep = vector_exp2(v_, v_.sub(old_max, max));
      const Reg add = vector_exp2(v_, v_.sub(part_max, max));
      v_.store(at(into.max, row, 2), max);
      v_.store(at(scratch_.keep, row, 2), keep);
      const Reg sum = v_.mul(v_.load(at(part.sum, row, 2)), add);
      v_.store(at(into.sum, row, 2), v_.fma(v_.load(at(into.sum, row, 2)), keep, sum));
      const Mem factor = at(scratch_.factor, row, 2);
      v_.store(factor, in_units ? v_.mul(v_.load(factor), add) : add);
    });
  }

  void merge_page(int) override {
    merge_sums({scratch_.max, scratch_.sum}, {scratch_.all_max, scratch_.all_sum}, false);
    const Gp page = address(at(scratch_.output), "page_output");
    const Gp all = address(at(scratch_.all_output), "all_output");
    const Gp row = v_.zero_gp("row");
    v_.loop(row, count_, 1, [&] {
      const Reg keep = v_.broadcast(at(scratch_.keep, row, 2));
      const Reg add = v_.broadcast(at(scratch_.factor, row, 2));
      const Gp i = v_.zero_gp("i");
      v_.loop(i, scratch_.output_bytes, 64, [&] {
        const Reg scaled = v_.mul(v_.load(asmjit::x86::ptr(page, i)), add);
        v_.store(asmjit::x86::ptr(all, i), v_.fma(v_.load(asmjit::x86::ptr(all, i)), keep, scaled));
      });
      cc_.add(page, scratch_.output_bytes);
      cc_.add(all, scratch_.output_bytes);
    });
  }

  void write_out() override {
    const Gp rows = v_.load_gp(v_.field(offsetof(AttentionArgs, rows)), "rows");
    const Gp output = address(at(scratch_.all_output), "output");
    const Gp out = v_.load_gp(v_.field(offsetof(AttentionArgs, out)), "out");
    const Gp stride = v_.load_gp(v_.field(offsetof(AttentionArgs, out_stride)), "stride");
    const Gp row = v_.zero_gp("row");
    v_.loop(row, rows, 1, [&] {
      const Reg sum = v_.broadcast(at(scratch_.all_sum, row, 2));
      const Gp i = v_.zero_gp("i");
      v_.blocks(i, dim_, [&](const Mask* mask, int) {
        const Reg o = v_.add(v_.load(asmjit::x86::ptr(output, i, 2)), zero());
        v_.store(asmjit::x86::ptr(out, i, 2), v_.div(o, sum), mask);
      });
      cc_.add(output, scratch_.output_bytes);
      cc_.lea(out, asmjit::x86::ptr(out, stride, 2));
    });
  }

  PageState page_state() const {
    return {scratch_.max, scratch_.sum, scratch_.output, scratch_.output_bytes};
  }
  Reg zero() { return v_.imm(0.0F); }

 private:
  // Queries and outputs of many rows lie far apart, where no hardware foresees them.
  void fetch_rows(size_t first, size_t stride_field) {
    const Gp rows = v_.load_gp(v_.field(offsetof(AttentionArgs, rows)), "rows");
    const Gp stride = v_.load_gp(v_.field(stride_field), "stride");
    const Gp at = v_.load_gp(v_.field(first), "at");
    const Gp row = v_.zero_gp("row");
    v_.loop(row, rows, 1, [&] {
      const Gp i = v_.zero_gp("i");
      v_.loop(i, dim_, 16, [&] { cc_.prefetcht0(asmjit::x86::ptr(at, i, 2)); });
      cc_.lea(at, asmjit::x86::ptr(at, stride, 2));
    });
  }

  void gather_row(const Gp& row, const Gp& source, const Gp& query) {
    const Gp table = v_.load_gp(v_.field(offsetof(AttentionArgs, lo)), "table");
    const Gp lo = v_.load_gp(asmjit::x86::ptr(table, source, 3), "lo");
    cc_.mov(table, v_.field(offsetof(AttentionArgs, hi)));
    const Gp hi = v_.load_gp(asmjit::x86::ptr(table, source, 3), "hi");
    cc_.mov(at(scratch_.lo, row, 3), lo);
    cc_.mov(at(scratch_.hi, row, 3), hi);
    lower(lowest_, lo);
    raise(highest_lo_, lo);
    lower(lowest_hi_, hi);
    raise(highest_, hi);
    cc_.dec(hi);
    cc_.mov(at(scratch_.newest, row, 2), hi.r32());
    if (spec_.alibi) {
      cc_.mov(table, v_.field(offsetof(AttentionArgs, slope)));
      v_.store_lane0(at(scratch_.slope, row, 2),
                     v_.broadcast(asmjit::x86::dword_ptr(table, source, 2)));
    }
    cc_.imul(source, v_.field(offsetof(AttentionArgs, q_stride)));
    cc_.mov(table, v_.field(offsetof(AttentionArgs, q)));
    cc_.lea(source, asmjit::x86::ptr(table, source, 2));
    gather_query(row, source, query);
  }

 protected:
  PairedAttentionScratch scratch_;
  Gp count_;                                      // rows, a multiple of the tile's
  Gp lowest_, highest_, highest_lo_, lowest_hi_;  // of the rows' lo and hi
  Gp begin_, end_;                                // blocks that any row sees, relative to the span
};

}  // namespace nibble::jit
