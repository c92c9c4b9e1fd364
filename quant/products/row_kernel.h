// The generated row kernel (jit/row_kernels.h) of a spec on this machine.
#pragma once

#include "jit/code_cache.h"
#include "jit/isa.h"

namespace nibble::quant {

inline const jit::Kernel& row_kernel(const jit::RowSpec& spec) {
  return jit::CodeCache::instance().get({.spec = spec, .isa = jit::selected_isa(), .tiling = {}});
}

}  // namespace nibble::quant
