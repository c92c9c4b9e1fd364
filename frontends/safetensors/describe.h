// The description of the decoder that a config.json configures: the registry of families.
#pragma once

#include <string>
#include <vector>

#include "frontends/decoder/config.h"
#include "frontends/decoder/description.h"

namespace nibble::frontends::safetensors {

// Throws Error naming the key, what is expected and what was found: for a model_type that is not
// known, and for every value that cannot be honoured.
decoder::Description describe(const decoder::Config& config);
std::vector<std::string> described_families();

}  // namespace nibble::frontends::safetensors
