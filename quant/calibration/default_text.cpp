#include "quant/calibration/default_text.h"

namespace nibble::quant {
namespace {

constexpr char kText[] = {
#include <default_text_bytes.inc>
};

}  // namespace

std::string_view default_calibration_text() { return {kText, sizeof(kText)}; }

}  // namespace nibble::quant
