// parallel_for for bodies that may throw, such as readers of a model's file: a pool's tasks are
// noexcept. The error of the lowest part is thrown when all parts have ended.
#pragma once

#include <cstddef>
#include <exception>
#include <vector>

#include "runtime/thread_pool.h"

namespace nibble::quant {

// body(begin, end), as ThreadPool::parallel_for calls it.
template <typename Body>
void throwing_parallel_for(runtime::ThreadPool& pool, int64_t count, const Body& body) {
  std::vector<std::exception_ptr> errors(static_cast<size_t>(pool.size()));
  pool.parallel_for(count, [&](int64_t begin, int64_t end, int thread) {
    try {
      body(begin, end);
    } catch (...) {
      errors[static_cast<size_t>(thread)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : errors) {
    if (error != nullptr) std::rethrow_exception(error);
  }
}

}  // namespace nibble::quant
