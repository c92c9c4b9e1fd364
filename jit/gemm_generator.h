// Writes the machine code of one dequantizing matmul: the loop nest of gemm_generator.cpp over the
// eight verbs of an Emitter. Called by the CodeCache, which owns executable memory and names.
#pragma once

#include <cstdint>
#include <vector>

#include "jit/gemm.h"
#include "jit/kernel_spec.h"

namespace nibble::jit {

// Counts what changes the speed of generated matmuls: measurements of older kernels say nothing of
// newer ones, so a tuning database of another version is not used (runtime/tuning_db.h).
inline constexpr int kGeneratorVersion = 7;

// Position-independent code of a GemmFn (System V ABI): constants lie inside the blob and are read
// RIP-relative. Throws Error when !tiling_fits(spec, isa, tiling). Whether this machine can run the
// code is the caller's business, except that avx_vnni picks its encoding by cpu().
std::vector<uint8_t> generate_gemm(const GemmSpec& spec, Isa isa, const Tiling& tiling);

}  // namespace nibble::jit
