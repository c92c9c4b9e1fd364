// What the writers of random_model.h share.
#pragma once

#include <string>
#include <string_view>

#include "tests/support/random_model.h"

namespace nibble::test {

inline constexpr float kRandomEpsilon = 1e-5F;
inline constexpr float kRandomRopeBase = 10000.0F;

// Throws std::runtime_error when the disk is full.
void write_bytes(const std::string& path, std::string_view bytes);
void write_config(const RandomModel& model, const std::string& folder);

}  // namespace nibble::test
