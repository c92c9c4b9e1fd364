// What every way of running a model offers to those who generate text: append ids, get logits.
// Implemented by Session (the compiled plan) and by graph::InterpretedDecoder (the reference).
#pragma once

#include <cstdint>
#include <span>

namespace nibble::runtime {

class Decoder {
 public:
  virtual ~Decoder() = default;

  virtual int64_t vocab_size() const = 0;
  virtual int64_t context_length() const = 0;  // most positions that fit
  virtual int64_t position() const = 0;        // positions held now

  // Forgets all positions.
  virtual void reset() = 0;

  // Forgets the positions from `position` (0 to position()) on. False, and nothing forgotten, where
  // this decoder cannot.
  virtual bool rewind(int64_t position);

  // Appends ids (at least one) and returns the logits after the last one, valid until the next
  // call. Throws Error when an id is not in [0, vocab_size()) or the context would overflow;
  // nothing is appended then.
  virtual std::span<const float> forward(std::span<const int32_t> ids) = 0;

  // The same, with the logits after every id: out is [ids.size()][vocab_size()].
  virtual void forward_all(std::span<const int32_t> ids, std::span<float> out) = 0;

 protected:
  // The checks above, for implementations to call first.
  void check_ids(std::span<const int32_t> ids) const;
};

}  // namespace nibble::runtime
