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

}  // namespace

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
  const int64_t padded = line_round(width);
  return add(padded, padded);
}

int64_t PlanBuffers::place(std::vector<runtime::Step>& steps) const {
  std::vector<runtime::BufferLife> lives;
  for (int64_t bytes : row_bytes_) lives.push_back({bytes, static_cast<int>(steps.size()), -1});
  for (size_t i = 0; i < steps.size(); ++i) {
    for_each_operand(steps[i], [&](Operand& operand) {
      if (operand.place < 0) return;
      runtime::BufferLife& life = lives[static_cast<size_t>(operand.place)];
      life.first_step = std::min(life.first_step, static_cast<int>(i));
      life.last_step = std::max(life.last_step, static_cast<int>(i));
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
