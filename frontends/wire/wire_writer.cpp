#include "frontends/wire/wire_writer.h"

#include <bit>

#include "frontends/wire/wire.h"

namespace nibble::frontends {
namespace {

constexpr auto kVarint = static_cast<uint32_t>(WireType::varint);
constexpr auto kBytes = static_cast<uint32_t>(WireType::bytes);
constexpr auto kFixed32 = static_cast<uint32_t>(WireType::fixed32);

}  // namespace

void WireWriter::put_varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>((value & 0x7F) | 0x80);
  bytes_ += static_cast<char>(value);
}

void WireWriter::put_tag(uint32_t field, uint32_t type) { put_varint(uint64_t{field} << 3 | type); }

WireWriter& WireWriter::integer(uint32_t field, int64_t value) {
  put_tag(field, kVarint);
  put_varint(static_cast<uint64_t>(value));
  return *this;
}

WireWriter& WireWriter::real(uint32_t field, float value) {
  put_tag(field, kFixed32);
  const auto bits = std::bit_cast<uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) bytes_ += static_cast<char>(bits >> shift);
  return *this;
}

WireWriter& WireWriter::text(uint32_t field, std::string_view value) {
  put_tag(field, kBytes);
  put_varint(value.size());
  bytes_ += value;
  return *this;
}

WireWriter& WireWriter::message(uint32_t field, const WireWriter& value) {
  return text(field, value.bytes());
}

WireWriter& WireWriter::integers(uint32_t field, std::span<const int64_t> values) {
  WireWriter packed;
  for (const int64_t value : values) packed.put_varint(static_cast<uint64_t>(value));
  return text(field, packed.bytes());
}

}  // namespace nibble::frontends
