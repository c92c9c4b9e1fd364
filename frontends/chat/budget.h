// What one parsing or rendering of a template may use: steps, live memory, depth of nesting, and
// bytes of output. A hostile template ends with a sentence, not with the machine. Whoever parses or
// renders opens a BudgetScope; values charge the budget that is open on their thread, and work
// outside of any is not counted.
#pragma once

#include <cstddef>
#include <cstdint>

#include "jit/error.h"

namespace nibble::frontends::chat {

// An error of the template, or one that it raised itself, in the words of Jinja or Python.
class TemplateError : public Error {
 public:
  using Error::Error;
};

template <typename... Args>
[[noreturn]] void raise(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError(fmt::format(format, std::forward<Args>(args)...));
}

struct Limits {
  int64_t steps = 20'000'000;        // nodes evaluated, items visited, 64 bytes of text touched
  size_t memory_bytes = 48U << 20U;  // of values alive at one time
  size_t output_bytes = 16U << 20U;
  int depth = 1000;  // of nodes within nodes while rendering, macro calls included
};

struct Budget {
  explicit Budget(const Limits& given) : limits(given) {}
  Limits limits;
  int64_t steps = 0;
  size_t live = 0;
  int depth = 0;
};

// Makes `budget` the one that is charged on this thread, for as long as the scope lives; null:
// none, for values that outlive it.
class BudgetScope {
 public:
  explicit BudgetScope(Budget* budget);
  ~BudgetScope();
  BudgetScope(const BudgetScope&) = delete;
  BudgetScope& operator=(const BudgetScope&) = delete;

 private:
  Budget* before_;
};

// Counts steps. Throws Error past the limit.
void spend(int64_t steps = 1);
inline void spend_bytes(size_t bytes) { spend(1 + static_cast<int64_t>(bytes / 64)); }
// Throws Error when so many bytes more would pass the limit; charges nothing.
void foresee(size_t bytes);
// count * size with the same check, for results whose size a template chooses.
void foresee(size_t count, size_t size);

// Bytes charged for as long as this lives.
class Charge {
 public:
  explicit Charge(size_t bytes);
  ~Charge();
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

 private:
  Budget* budget_;
  size_t bytes_;
};

// One level deeper for as long as this lives. Raises Python's RecursionError past the limit.
class Deeper {
 public:
  Deeper();
  ~Deeper();
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  Budget* budget_;
};

}  // namespace nibble::frontends::chat
