// A buffer whose end abuts a page that may not be touched, so that a kernel which reads or writes
// past the end dies at once. Its beginning is guarded too, as far as page alignment allows.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>

namespace nibble::test {

template <typename T>
class GuardedBuffer {
 public:
  explicit GuardedBuffer(size_t count) : count_(count) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inner = (count * sizeof(T) + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    void* memory =
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<std::byte*>(memory);
    std::byte* end = memory_ + page + inner;
    if (mprotect(memory_, page, PROT_NONE) != 0 || mprotect(end, page, PROT_NONE) != 0) {
      munmap(memory_, mapped_);
      throw std::bad_alloc();
    }
    data_ = reinterpret_cast<T*>(end) - count;
  }
  GuardedBuffer(size_t count, T value) : GuardedBuffer(count) { std::fill_n(data_, count_, value); }
  ~GuardedBuffer() {
    if (memory_ != nullptr) munmap(memory_, mapped_);
  }
  GuardedBuffer(GuardedBuffer&& other) noexcept
      : count_(other.count_), mapped_(other.mapped_), memory_(other.memory_), data_(other.data_) {
    other.memory_ = nullptr;
  }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(GuardedBuffer&&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return count_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + count_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + count_; }
  std::span<T> span() { return {data_, count_}; }
  std::span<const T> span() const { return {data_, count_}; }

 private:
  size_t count_;
  size_t mapped_ = 0;
  std::byte* memory_ = nullptr;
  T* data_ = nullptr;
};

}  // namespace nibble::test
