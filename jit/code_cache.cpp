#include "jit/code_cache.h"

#include <chrono>
#include <cstdlib>
#include <future>
#include <map>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "jit/attention_generator.h"
#include "jit/error.h"
#include "jit/executable_memory.h"
#include "jit/gemm_generator.h"
#include "jit/perf_map.h"
#include "jit/row_generator.h"

namespace nibble::jit {
namespace {

std::vector<uint8_t> generate(const KernelKey& key) {
  if (const auto* gemm = std::get_if<GemmSpec>(&key.spec)) {
    return generate_gemm(*gemm, key.isa, key.tiling);
  }
  if (const auto* row = std::get_if<RowSpec>(&key.spec)) return generate_row(*row, key.isa);
  return generate_attention(std::get<AttentionSpec>(key.spec), key.isa);
}

// Fails where generation would, so that a key is refused whether or not code can be run.
void validate_key(const KernelKey& key) {
  if (!has_emitter(key.isa)) {
    fail("No kernel {} exists: no code is generated for {} yet.", name(key), isa_name(key.isa));
  }
  if (const auto* row = std::get_if<RowSpec>(&key.spec)) return check_row_spec(*row);
  if (const auto* attention = std::get_if<AttentionSpec>(&key.spec)) {
    return check_attention_spec(*attention);
  }
  const auto& gemm = std::get<GemmSpec>(key.spec);
  check_gemm_spec(gemm);
  if (!tiling_fits(gemm, key.isa, key.tiling)) {
    fail(
        "No kernel {} exists: {} has no registers for a tile of {} rows and {} column blocks, or "
        "the tiling does not fit the weights.",
        name(key), isa_name(key.isa), key.tiling.mr, key.tiling.nr);
  }
}

std::string environment_refusal() {
  const char* text = std::getenv("NIBBLE_NO_JIT");
  if (text == nullptr || *text == '\0' || std::string_view(text) == "0") return "";
  return "NIBBLE_NO_JIT is set.";
}

}  // namespace

void Kernel::run(const GemmArgs& args) const noexcept {
  if (code != nullptr) {
    reinterpret_cast<GemmFn>(const_cast<void*>(code))(&args);
  } else {
    gemm_reference(std::get<GemmSpec>(key.spec), args);
  }
}

void Kernel::run(const RowArgs& args) const noexcept {
  if (code != nullptr) {
    reinterpret_cast<RowFn>(const_cast<void*>(code))(&args);
  } else {
    row_reference(std::get<RowSpec>(key.spec), args);
  }
}

void Kernel::run(const AttentionArgs& args) const noexcept {
  if (code != nullptr) {
    reinterpret_cast<AttentionFn>(const_cast<void*>(code))(&args);
  } else {
    attention_reference(std::get<AttentionSpec>(key.spec), args);
  }
}

struct CodeCache::Impl {
  using Future = std::shared_future<const Kernel*>;

  CodeDump dump = CodeDump::from_environment();
  ExecutableMemory memory;

  mutable std::mutex mutex;  // guards all below
  std::unordered_map<KernelKey, Future, KernelKeyHash> futures;
  std::map<std::string, std::unique_ptr<Kernel>> ready;
  std::chrono::steady_clock::duration spent{};
  std::string refusal = environment_refusal();

  bool refused() const {
    const std::lock_guard lock(mutex);
    return !refusal.empty();
  }

  void refuse(std::string reason) {
    const std::lock_guard lock(mutex);
    if (refusal.empty()) refusal = std::move(reason);
  }

  // Outside the lock. Leaves kernel.code null where executable memory is refused.
  void generate_into(Kernel& kernel, const std::string& kernel_name) {
    validate_key(kernel.key);
    if (refused()) return;
    const std::vector<uint8_t> code = generate(kernel.key);
    std::string reason;
    const void* address = memory.add(code, reason);
    if (address == nullptr) {
      refuse(std::move(reason));
      return;
    }
    dump.record(kernel_name, address, code);
    kernel.code = address;
    kernel.code_bytes = code.size();
  }

  const Kernel* build(const KernelKey& key) {
    const auto start = std::chrono::steady_clock::now();
    auto kernel = std::make_unique<Kernel>(Kernel{.key = key});
    const std::string kernel_name = name(key);
    generate_into(*kernel, kernel_name);
    const Kernel* out = kernel.get();
    const std::lock_guard lock(mutex);
    spent += std::chrono::steady_clock::now() - start;
    ready.emplace(kernel_name, std::move(kernel));
    return out;
  }
};

CodeCache::CodeCache() : impl_(std::make_unique<Impl>()) {}
CodeCache::~CodeCache() = default;

CodeCache& CodeCache::instance() {
  // Never destroyed: at exit other threads, or objects that die later, may still hold kernels.
  static CodeCache* const cache = new CodeCache;
  return *cache;
}

const Kernel& CodeCache::get(const KernelKey& asked) {
  KernelKey key = asked;
  if (!std::holds_alternative<GemmSpec>(key.spec)) key.tiling = Tiling{};
  std::promise<const Kernel*> promise;
  Impl::Future future;
  bool mine = false;
  {
    const std::lock_guard lock(impl_->mutex);
    const auto [found, inserted] = impl_->futures.try_emplace(key);
    if (inserted) found->second = promise.get_future().share();
    future = found->second;
    mine = inserted;
  }
  if (mine) {
    try {
      promise.set_value(impl_->build(key));
    } catch (...) {
      promise.set_exception(std::current_exception());
    }
  }
  return *future.get();
}

std::vector<const Kernel*> CodeCache::kernels() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<const Kernel*> out;
  for (const auto& [kernel_name, kernel] : impl_->ready) out.push_back(kernel.get());
  return out;
}

double CodeCache::generate_ms() const {
  const std::lock_guard lock(impl_->mutex);
  return std::chrono::duration<double, std::milli>(impl_->spent).count();
}

std::string CodeCache::fallback_reason() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->refusal;
}

void CodeCache::refuse_executable_memory() {
  impl_->refuse("Executable memory is refused on request.");
}

}  // namespace nibble::jit
