#include "graph/interpreter_meter.h"

#include <algorithm>
#include <utility>

#include "graph/interpreter_ops.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

thread_local MeterScope* running = nullptr;

}  // namespace

MeterScope::MeterScope(const InterpreterLimits& limits, int64_t held, std::atomic<int64_t>& work)
    : limits_(limits), held_(held), work_(work), before_(std::exchange(running, this)) {}

MeterScope::~MeterScope() { running = before_; }

void meter_held(int64_t bytes) {
  if (running != nullptr) running->held_ += bytes;
}

void spend(int64_t work) {
  if (running == nullptr) return;
  const int64_t most = running->limits_.work, more = std::min(work, most);
  if (running->work_.fetch_add(more) <= most - more) return;
  running->work_ = most;  // and nothing more
  fail("More than {} steps would be needed to find out what this computes.", most);
}

int64_t array_size(const Shape& shape, size_t element) {
  const int64_t count = element_count(shape);
  if (count > kMostElements) {
    fail("An array of shape {} has {} elements; the interpreter takes at most {}.",
         to_string(shape), count, kMostElements);
  }
  if (running == nullptr) return count;
  spend(count);
  if (count * static_cast<int64_t>(element) > running->limits_.bytes - running->held_) {
    fail("An array of shape {} is larger than what may be used to find out what this computes.",
         to_string(shape));
  }
  return count;
}

}  // namespace nibble::graph
