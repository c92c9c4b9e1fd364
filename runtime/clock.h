// The time by the steady clock: what every duration is measured with, in seconds.
#pragma once

namespace nibble::runtime {

double seconds_now();

}  // namespace nibble::runtime
