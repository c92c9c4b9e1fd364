// Writes one message of the protobuf wire format, field by field, in the order of the calls. The
// counterpart of wire.h, for the models that we export: their messages are small (weights lie in a
// file of their own), so each is put together in memory. It knows no schema: who calls it does.
// Source: protobuf.dev, "Encoding".
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nibble::frontends {

class WireWriter {
 public:
  WireWriter& integer(uint32_t field, int64_t value);
  WireWriter& real(uint32_t field, float value);
  WireWriter& text(uint32_t field, std::string_view value);  // of `bytes` fields too
  WireWriter& message(uint32_t field, const WireWriter& value);
  WireWriter& integers(uint32_t field, std::span<const int64_t> values);  // packed

  const std::string& bytes() const { return bytes_; }

 private:
  void put_varint(uint64_t value);
  void put_tag(uint32_t field, uint32_t type);

  std::string bytes_;
};

}  // namespace nibble::frontends
