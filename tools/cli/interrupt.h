// Ctrl-C as a question that loops ask, so that they end with their results told. A second Ctrl-C
// ends the program at once.
#pragma once

namespace nibble::cli {

void catch_interrupts();
bool interrupted();
// Ready for the next Ctrl-C, which is a first one again.
void forget_interrupts();

}  // namespace nibble::cli
