// What a call has to say against itself.
#pragma once

#include <string>

#include "jit/error.h"

namespace nibble::test {

// The message of the Error that call() throws; "" when it throws none.
template <typename Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace nibble::test
