#include "runtime/decoder.h"

#include "jit/error.h"

namespace nibble::runtime {

bool Decoder::rewind(int64_t position) {
  if (position == 0) reset();
  return position == this->position();
}

void Decoder::check_ids(std::span<const int32_t> ids) const {
  if (ids.empty()) fail("At least one id is needed to go on, but none was given.");
  const int64_t vocab = vocab_size();
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      fail("The id {} at index {} is outside this model's vocabulary of {} ids.", ids[i], i, vocab);
    }
  }
  const int64_t held = position(), most = context_length();
  const auto count = static_cast<int64_t>(ids.size());
  if (count > most - held) {
    fail("The context holds {} positions: {} are taken and {} more do not fit.", most, held, count);
  }
}

}  // namespace nibble::runtime
