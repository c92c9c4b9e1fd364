// A loop over the rows of a matrix, or stretches of them, whose body may throw: what the solvers
// and products of this folder run on. Rows are independent, so nothing depends on which thread
// takes which.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

#include "runtime/thread_pool.h"

namespace nibble::quant {

// Calls body(row, thread) for every row below `count`, each on whichever thread is free. When
// bodies throw, rows not yet begun are left out, and the exception of the lowest row is rethrown:
// rows are begun in order, so it is the same on any number of threads.
template <typename Body>
void for_each_row(runtime::ThreadPool& pool, int64_t count, const Body& body) {
  struct Call {
    const Body& body;
    int64_t count;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex mutex{};
    int64_t failed_row = 0;
    std::exception_ptr error{};
  } call{body, count};
  pool.run(
      [](void* arg, int thread) noexcept {
        auto& c = *static_cast<Call*>(arg);
        while (!c.failed) {
          const int64_t row = c.next++;
          if (row >= c.count) return;
          try {
            c.body(row, thread);
          } catch (...) {
            const std::scoped_lock lock(c.mutex);
            if (c.error == nullptr || row < c.failed_row) {
              c.failed_row = row;
              c.error = std::current_exception();
            }
            c.failed = true;
          }
        }
      },
      &call);
  if (call.error) std::rethrow_exception(call.error);
}

}  // namespace nibble::quant
