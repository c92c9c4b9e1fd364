#include "tools/cli/interrupt.h"

#include <csignal>

namespace nibble::cli {
namespace {

volatile std::sig_atomic_t asked_to_stop = 0;

void on_interrupt(int) { asked_to_stop = 1; }

}  // namespace

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() { return asked_to_stop != 0; }

void forget_interrupts() {
  asked_to_stop = 0;
  catch_interrupts();
}

}  // namespace nibble::cli
