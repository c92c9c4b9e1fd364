// What libFuzzer calls. NIBBLE_FUZZ_TARGET is the target that this program is for.
#include "tests/fuzz/targets.h"

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return nibble::fuzz::NIBBLE_FUZZ_TARGET(data, size);
}
