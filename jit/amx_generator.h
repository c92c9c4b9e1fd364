// Writes the machine code of a dequantizing matmul over AMX tiles, the counterpart of
// gemm_generator.h for what tiles do differently: they load from memory only, cannot be scaled in
// place and have to be configured. Called by generate_gemm when runs_on_tiles (amx_plan.h).
#pragma once

#include <cstdint>
#include <vector>

#include "jit/gemm.h"

namespace nibble::jit {

// Code of a GemmFn as generate_gemm describes it. The tiling must fit (amx_tiling_fits).
std::vector<uint8_t> generate_amx_gemm(const GemmSpec& spec, const Tiling& tiling);

}  // namespace nibble::jit
