// The text that weights are calibrated on when the user names none: default.txt, which is part of
// the program. Written for this purpose, and as mixed as what language models meet: stories,
// explanations, reports, letters, manuals, sums, tables, code and data, in a dozen languages. It is
// not for evaluation: perplexity on a text that quantization has seen flatters.
#pragma once

#include <string_view>

namespace nibble::quant {

// UTF-8, some 58 kB. Documents are separated by one blank line each and contain none.
std::string_view default_calibration_text();

}  // namespace nibble::quant
