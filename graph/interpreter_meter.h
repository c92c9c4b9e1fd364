// Holds the interpreter to its limits: array_size() and spend() (interpreter_ops.h), which
// operators call on their thread, count against the run that is going on there. For
// graph/interpreter*.cpp alone.
#pragma once

#include <atomic>
#include <cstdint>

#include "graph/interpreter.h"

namespace nibble::graph {

// A run, for as long as it lives.
class MeterScope {
 public:
  // `held`: bytes of arrays that the interpreter keeps already; `work`: of its runs so far.
  MeterScope(const InterpreterLimits& limits, int64_t held, std::atomic<int64_t>& work);
  ~MeterScope();
  MeterScope(const MeterScope&) = delete;
  MeterScope& operator=(const MeterScope&) = delete;

 private:
  friend void spend(int64_t work);
  friend void meter_held(int64_t bytes);
  friend int64_t array_size(const Shape& shape, size_t element);

  InterpreterLimits limits_;
  int64_t held_;
  std::atomic<int64_t>& work_;
  MeterScope* before_;
};

// So many bytes of arrays are held from now on, or no longer.
void meter_held(int64_t bytes);

}  // namespace nibble::graph
