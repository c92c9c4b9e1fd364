#include "graph/plan_buffers.h"

#include <algorithm>

#include "runtime/arena_planner.h"

namespace nibble::graph {
namespace {

using runtime::Operand;

constexpr int64_t kLine = 64;

int64_t line_round(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

template <typename Visit>
void visit_quantized(runtime::QuantizedOperand& operand, Visit& visit) {
  visit(operand.q);
  visit(operand.scale);
  visit(operand.sum);
}

template <typename Visit>
struct OperandVisitor {
  Visit& visit;
  void operator()(runtime::EmbedStep& s) { visit(s.out); }
  void operator()(runtime::GemmStep& s) {
    visit(s.a);
    visit_quantized(s.quantized, visit);
    visit(s.residual);
    visit(s.out);
  }
  void operator()(runtime::RowStep& s) {
    visit(s.x);
    visit(s.x2);
    visit(s.y);
    visit_quantized(s.quantized, visit);
  }
  void operator()(runtime::HeadNormStep& s) { visit(s.qkv); }
  void operator()(runtime::CacheStep& s) { visit(s.qkv); }
  void operator()(runtime::AttentionStep& s) {
    visit(s.qkv);
    visit(s.out);
  }
};

template <typename Visit>
void for_each_operand(runtime::Step& step, Visit visit) {
  std::visit(OperandVisitor<Visit>{visit}, step.body);
}

// Attention normalises and turns heads in place, each thread some of them, so what it works on must
// be shared.
bool shares_operands(const runtime::Step& step) {
  return std::holds_alternative<runtime::HeadNormStep>(step.body) ||
         std::holds_alternative<runtime::CacheStep>(step.body) ||
         std::holds_alternative<runtime::AttentionStep>(step.body);
}

bool is_result(const runtime::RowStep& s, const Operand& operand) {
  return &operand != &s.x && &operand != &s.x2;
}

// The step whose barrier is the first behind step i: until then other threads may still run step i.
size_t next_barrier(const std::vector<runtime::Step>& steps, size_t i) {
  while (i + 1 < steps.size() && steps[i].replicable) ++i;
  return i;
}

}  // namespace

void PlanBuffers::mark_replicable(std::vector<runtime::Step>& steps) const {
  std::vector<bool> shared(row_bytes_.size(), false), replicable(row_bytes_.size(), false);
  for (runtime::Step& step : steps) {
    if (!shares_operands(step)) continue;
    for_each_operand(step, [&](Operand& operand) {
      if (operand.place >= 0) shared[static_cast<size_t>(operand.place)] = true;
    });
  }
  for (runtime::Step& step : steps) {
    auto* row = std::get_if<runtime::RowStep>(&step.body);
    if (row == nullptr || row->columns > 0) continue;  // threads share the columns of a long row
    step.replicable = true;
    const auto each_result = [&](auto visit) {
      for_each_operand(step, [&](Operand& operand) {
        if (operand.present() && is_result(*row, operand)) visit(operand);
      });
    };
    each_result([&](const Operand& operand) {
      if (operand.place < 0 || shared[static_cast<size_t>(operand.place)]) step.replicable = false;
    });
    if (!step.replicable) continue;
    each_result([&](const Operand& o) { replicable[static_cast<size_t>(o.place)] = true; });
  }
  for (runtime::Step& step : steps) {
    for_each_operand(step, [&](Operand& operand) {
      operand.replicable = operand.place >= 0 && replicable[static_cast<size_t>(operand.place)];
    });
  }
}

Operand PlanBuffers::add(int64_t row_bytes, int64_t width) {
  row_bytes_.push_back(line_round(row_bytes));
  return {static_cast<int64_t>(row_bytes_.size()) - 1, width};
}

Operand PlanBuffers::floats(int64_t width) {
  const int64_t padded = line_round(width * 4) / 4;
  return add(padded * 4, padded);
}

Operand PlanBuffers::words(int64_t width) { return add(width * 4, width); }

Operand PlanBuffers::bytes(int64_t width) {
  const int64_t padded = line_round(width) | kLine;
  return add(padded, padded);
}

int64_t PlanBuffers::place(std::vector<runtime::Step>& steps) const {
  mark_replicable(steps);
  std::vector<runtime::BufferLife> lives;
  for (int64_t bytes : row_bytes_) lives.push_back({bytes, static_cast<int>(steps.size()), -1});
  for (size_t i = 0; i < steps.size(); ++i) {
    for_each_operand(steps[i], [&](Operand& operand) {
      if (operand.place < 0) return;
      runtime::BufferLife& life = lives[static_cast<size_t>(operand.place)];
      life.first_step = std::min(life.first_step, static_cast<int>(i));
      life.last_step = std::max(life.last_step, static_cast<int>(next_barrier(steps, i)));
    });
  }
  for (runtime::BufferLife& life : lives) {
    if (life.last_step < 0) life = {0, 0, 0};
  }
  const runtime::ArenaPlan arena = runtime::plan_arena(lives);
  for (runtime::Step& step : steps) {
    for_each_operand(step, [&](Operand& operand) {
      if (operand.place >= 0) operand.place = arena.offsets[static_cast<size_t>(operand.place)];
    });
  }
  return arena.total;
}

}  // namespace nibble::graph
