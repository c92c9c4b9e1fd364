// What the generators of attention share, whatever the cache holds: the scratch, the paths of one
// function (by how many rows the call has), the walk over pages with their states, and the
// arithmetic of positions. Base of attention_generator.cpp and attention_paired.h.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "jit/attention.h"
#include "jit/compiler_math.h"
#include "jit/packed_layout.h"

namespace nibble::jit {

class AttentionCode {
 public:
  virtual ~AttentionCode() = default;
  AttentionCode(const AttentionCode&) = delete;
  AttentionCode& operator=(const AttentionCode&) = delete;

 protected:
  using Gp = CompilerMath::Gp;
  using Label = CompilerMath::Label;
  using Mem = CompilerMath::Mem;

  AttentionCode(const AttentionSpec& spec, Isa isa)
      : spec_(spec),
        dim_(spec.head_dim),
        layout_(kv_record(spec.kv, spec.head_dim)),
        v_(isa),
        cc_(v_.cc()) {}

  // The whole of one path, which takes so many rows together.
  virtual void path(int rows) = 0;
  // Its parts: the splits of the page at page_ into the page's state; that into the state of all;
  // that one's result.
  virtual void attend_page(int rows) = 0;
  virtual void merge_page(int rows) = 0;
  virtual void write_out() = 0;

  // Where the page's state is in the scratch, and the bytes of a row of output there.
  struct PageState {
    int32_t max, sum, output, output_bytes;
  };

  // The pages of positions from `lowest` to `highest`, computed or loaded, stored or merged.
  void each_page(int rows, const Gp& lowest, const Gp& highest, const PageState& state) {
    page_ = copy(lowest, "page");
    cc_.and_(page_, -kKvPage);
    last_ = copy(highest, "last");
    if_part(AttentionPart::pages, [&] {
      raise(page_, v_.load_gp(v_.field(offsetof(AttentionArgs, begin)), "begin"));
      lower(last_, v_.load_gp(v_.field(offsetof(AttentionArgs, end)), "end"));
    });
    v_.loop(page_, last_, kKvPage, [&] {
      Label merge = cc_.newLabel();
      Label done = cc_.newLabel();
      if_part(AttentionPart::merge, [&] {
        load_state(state);
        cc_.jmp(merge);
      });
      attend_page(rows);
      if_part(AttentionPart::pages, [&] {
        store_state(state);
        cc_.jmp(done);
      });
      cc_.bind(merge);
      merge_page(rows);
      cc_.bind(done);
    });
    Label done = cc_.newLabel();
    if_part(AttentionPart::pages, [&] { cc_.jmp(done); });
    write_out();
    cc_.bind(done);
  }

  // Paths for calls of so many rows at most, ascending; each takes so many of them together.
  struct Path {
    int most_rows, together;
  };
  std::vector<uint8_t> generate_paths(const std::vector<Path>& paths) {
    base_ = v_.load_gp(v_.field(offsetof(AttentionArgs, scratch)), "scratch");
    Label done = cc_.newLabel();
    for (const Path& p : paths) {
      if (p.most_rows >= spec_.rows) {
        path(p.together);
        break;
      }
      Label more = cc_.newLabel();
      cc_.cmp(v_.field(offsetof(AttentionArgs, rows)), p.most_rows);
      cc_.jg(more);
      path(p.together);
      cc_.jmp(done);
      cc_.bind(more);
    }
    cc_.bind(done);
    return v_.finish();
  }

  Mem at(int64_t offset) const { return asmjit::x86::ptr(base_, static_cast<int32_t>(offset)); }
  Mem at(int64_t offset, const Gp& index, uint32_t shift) const {
    return asmjit::x86::ptr(base_, index, shift, static_cast<int32_t>(offset));
  }
  Gp address(const Mem& of, const char* name) {
    Gp r = v_.gp(name);
    cc_.lea(r, of);
    return r;
  }
  Gp copy(const Gp& from, const char* name) {
    Gp r = v_.gp(name);
    cc_.mov(r, from);
    return r;
  }
  // The record of the split that begins at this position.
  Gp record_of(const Gp& position) {
    constexpr int kSplits = static_cast<int>(kKvPage / kKvSplit);
    static_assert(kKvPage == 256 && kKvSplit == 64);
    const Gp record = copy(position, "record");
    const Gp page = copy(position, "page");
    cc_.sar(page, 8);
    cc_.imul(page, v_.field(offsetof(AttentionArgs, cache.page_stride)));
    cc_.add(page, v_.field(offsetof(AttentionArgs, cache.pages)));
    cc_.sar(record, 6);
    cc_.and_(record, kSplits - 1);
    cc_.imul(record, record, static_cast<int32_t>(layout_.bytes));
    cc_.add(record, page);
    return record;
  }

  // While a split's record is read, the next one's is fetched: a line for a line, into the L2, or
  // into the L1 where many rows take long over each split. One stream of a page is less than a core
  // can have under way, and where several blocks or rows take turns the hardware foresees none.
  // After the call's last split the present record is fetched again, which costs nothing.
  void look_ahead(const Gp& record, const Gp& next) {
    ahead_ = copy(record, "ahead");
    Label last = cc_.newLabel();
    cc_.cmp(next, last_);
    cc_.jge(last);
    cc_.mov(ahead_, record_of(next));
    cc_.bind(last);
  }
  enum class Cache { l1, l2 };
  void fetch_ahead(int lines, Cache into = Cache::l2) {
    for (int i = 0; i < lines; ++i) {
      const Mem line = asmjit::x86::ptr(ahead_, i * kLineBytes);
      if (into == Cache::l1) {
        cc_.prefetcht0(line);
      } else {
        cc_.prefetcht1(line);
      }
    }
    cc_.add(ahead_, lines * kLineBytes);
  }

  void raise(const Gp& a, const Gp& b) {  // a = max(a, b)
    cc_.cmp(a, b);
    cc_.cmovl(a, b);
  }
  void lower(const Gp& a, const Gp& b) {  // a = min(a, b)
    cc_.cmp(a, b);
    cc_.cmovg(a, b);
  }

  // Registers of the walk, for attend_page() and merge_page().
  Gp page_, last_;  // the page's first position; where the call's positions end
  Gp ahead_;        // what fetch_ahead() takes next

 private:
  void if_part(AttentionPart part, const std::function<void()>& body) {
    Label other = cc_.newLabel();
    cc_.cmp(v_.field(offsetof(AttentionArgs, part)), static_cast<int64_t>(part));
    cc_.jne(other);
    body();
    cc_.bind(other);
  }

  int32_t row_bytes() const { return static_cast<int32_t>((dim_ + 15) / 16 * 64); }  // of a record
  using Record = std::function<void(const Gp& record, const Gp& row, const Gp& output)>;
  void each_state(const PageState& state, const Record& body) {
    const Gp record = copy(page_, "record");
    cc_.sar(record, std::countr_zero(uint64_t{kKvPage}));  // the page's number
    cc_.imul(record, v_.field(offsetof(AttentionArgs, state_stride)));
    cc_.add(record, v_.field(offsetof(AttentionArgs, states)));
    const Gp rows = v_.load_gp(v_.field(offsetof(AttentionArgs, rows)), "rows");
    const Gp output = address(at(state.output), "output");
    const Gp row = v_.zero_gp("row");
    v_.loop(row, rows, 1, [&] {
      body(record, row, output);
      cc_.add(output, state.output_bytes);
      cc_.add(record, static_cast<int32_t>(attention_state_bytes(dim_)));
    });
  }
  void load_state(const PageState& state) {
    each_state(state, [&](const Gp& record, const Gp& row, const Gp& output) {
      const Gp i = v_.zero_gp("i");
      v_.loop(i, row_bytes(), 64,
              [&] { v_.store(asmjit::x86::ptr(output, i), v_.load(asmjit::x86::ptr(record, i))); });
      for (const auto& [to, from] : {std::pair{state.max, 0}, std::pair{state.sum, 4}}) {
        v_.store_lane0(at(to, row, 2),
                       v_.broadcast(asmjit::x86::dword_ptr(record, row_bytes() + from)));
      }
    });
  }
  void store_state(const PageState& state) {
    each_state(state, [&](const Gp& record, const Gp& row, const Gp& output) {
      const Gp i = v_.zero_gp("i");
      v_.loop(i, row_bytes(), 64,
              [&] { v_.store(asmjit::x86::ptr(record, i), v_.load(asmjit::x86::ptr(output, i))); });
      for (const auto& [from, to] : {std::pair{state.max, 0}, std::pair{state.sum, 4}}) {
        v_.store_lane0(asmjit::x86::ptr(record, row_bytes() + to), v_.broadcast(at(from, row, 2)));
      }
    });
  }

 protected:
  const AttentionSpec spec_;
  const int64_t dim_;
  const KvRecord layout_;
  CompilerMath v_;
  asmjit::x86::Compiler& cc_;
  Gp base_;  // the scratch
};

}  // namespace nibble::jit
