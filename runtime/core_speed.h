// How fast one core is beside another of a different kind: a few milliseconds of what decoding
// does, 8-bit dot products over a buffer that fits the second-level cache. The unit means nothing.
// Called by the thread pool on machines whose cores differ.
#pragma once

namespace nibble::runtime {

// Dot products a second on this processor (OS number); 0 when no thread can be bound to it, or
// AVX2 is missing. Takes about 3 ms.
double measure_core_speed(unsigned pu);

}  // namespace nibble::runtime
