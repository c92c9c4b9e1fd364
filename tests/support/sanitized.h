// Whether this build looks for faults, and is several times as slow.
#pragma once

namespace nibble::test {

constexpr bool sanitized() {
#ifdef __has_feature  // Clang's way to say it
  return __has_feature(address_sanitizer);
#elif defined(__SANITIZE_ADDRESS__)
  return true;
#else
  return false;
#endif
}

}  // namespace nibble::test
