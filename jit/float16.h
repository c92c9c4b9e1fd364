// IEEE half <-> float on plain x86-64, round to nearest even, as vcvtps2ph and vcvtph2ps do it.
#pragma once

#include <cstdint>

namespace nibble::jit {

float f16_to_f32(uint16_t half);
uint16_t f32_to_f16(float value);

}  // namespace nibble::jit
