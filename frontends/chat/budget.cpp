#include "frontends/chat/budget.h"

namespace nibble::frontends::chat {
namespace {

thread_local Budget* current = nullptr;

[[noreturn]] void refuse_memory(size_t most) {
  fail("The chat template needs more than the {} bytes of memory that it may use.", most);
}

}  // namespace

BudgetScope::BudgetScope(Budget* budget) : before_(current) { current = budget; }
BudgetScope::~BudgetScope() { current = before_; }

void spend(int64_t steps) {
  if (current == nullptr) return;
  current->steps += steps;
  if (current->steps > current->limits.steps) {
    fail("The chat template takes more than the {} steps that it may take.", current->limits.steps);
  }
}

void foresee(size_t bytes) {
  if (current == nullptr) return;
  const size_t most = current->limits.memory_bytes;
  if (bytes > most || current->live + bytes > most) refuse_memory(most);
}

void foresee(size_t count, size_t size) {
  if (current == nullptr || size == 0) return;
  if (count > current->limits.memory_bytes / size) refuse_memory(current->limits.memory_bytes);
  foresee(count * size);
  spend_bytes(count * size);
}

Charge::Charge(size_t bytes) : budget_(current), bytes_(bytes) {
  if (budget_ == nullptr) return;
  foresee(bytes);
  budget_->live += bytes;
}

Charge::~Charge() {
  if (budget_ != nullptr) budget_->live -= bytes_;
}

Deeper::Deeper() : budget_(current) {
  if (budget_ == nullptr) return;
  if (budget_->depth >= budget_->limits.depth) {
    raise("maximum recursion depth exceeded");  // Python's words
  }
  ++budget_->depth;
}

Deeper::~Deeper() {
  if (budget_ != nullptr) --budget_->depth;
}

}  // namespace nibble::frontends::chat
