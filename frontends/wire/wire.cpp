#include "frontends/wire/wire.h"

#include <bit>
#include <cstring>
#include <iterator>

#include "jit/error.h"

namespace nibble::frontends {
namespace {

constexpr int kMostVarintBytes = 10;  // 64 bits, 7 a byte

// Length of the UTF-8 sequence at the start of `text`, 0 when there is no valid one.
size_t utf8_sequence(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, and what lies past U+10FFFF.
  const uint8_t second = byte(1);
  if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
      (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) {
    return 0;
  }
  return length;
}

std::string_view wire_type_name(uint64_t type) {
  constexpr std::string_view kNames[] = {"varint",        "64-bit",      "length-delimited",
                                         "group (start)", "group (end)", "32-bit"};
  return type < std::size(kNames) ? kNames[type] : "unknown";
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = utf8_sequence(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

size_t WireReader::offset(std::span<const std::byte> at) const {
  return static_cast<size_t>(at.data() - file_.bytes.data());
}

std::optional<uint64_t> decode_varint(std::span<const std::byte>& rest) {
  uint64_t value = 0;
  for (int i = 0; i < kMostVarintBytes && !rest.empty(); ++i) {
    const auto byte = std::to_integer<uint64_t>(rest.front());
    rest = rest.subspan(1);
    if (i == kMostVarintBytes - 1 && byte > 1) return std::nullopt;  // past 64 bits
    value |= (byte & 0x7F) << (7 * i);
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

uint64_t WireReader::take_varint(std::span<const std::byte>& rest, std::string_view what) const {
  const size_t start = offset(rest);
  if (const auto value = decode_varint(rest)) return *value;
  fail(
      "{}: truncated or damaged at byte {}: {} {} should be an integer of up to 64 bits, but it "
      "does not end.",
      file_.path, start, message_.name, what);
}

std::span<const std::byte> WireReader::take(uint64_t count, std::string_view what) {
  if (count > rest_.size()) {
    fail("{}: truncated or damaged at byte {}: {} {} says it is {} bytes long, but {} are left.",
         file_.path, offset(rest_), message_.name, what, count, rest_.size());
  }
  const auto taken = rest_.first(static_cast<size_t>(count));
  rest_ = rest_.subspan(static_cast<size_t>(count));
  return taken;
}

const FieldSpec* WireReader::find_spec(uint64_t number, std::span<const std::byte> tag) const {
  for (const FieldSpec& spec : message_.fields) {
    if (spec.number == number) return &spec;
  }
  if (message_.open && number != 0) return nullptr;
  fail("{}: unknown field {} of {} at byte {}: {}.", file_.path, number, message_.name, offset(tag),
       file_.unknown_field);
}

void WireReader::take_payload(Field& field) {
  const auto payload_at = rest_;
  switch (field.type) {
    case WireType::varint:
      field.varint = take_varint(rest_, field.name);
      field.bytes = payload_at.first(payload_at.size() - rest_.size());
      break;
    case WireType::fixed64:
      field.bytes = take(8, field.name);
      break;
    case WireType::fixed32:
      field.bytes = take(4, field.name);
      break;
    case WireType::bytes:
      field.bytes = take(take_varint(rest_, field.name), field.name);
      break;
    default:
      fail("{}: damaged at byte {}: {}.{} is of wire type {}.", file_.path, offset(payload_at),
           message_.name, field.name, wire_type_name(static_cast<uint64_t>(field.type)));
  }
}

bool WireReader::next(Field& field) {
  while (!rest_.empty()) {
    const auto tag_at = rest_;
    const uint64_t tag = take_varint(rest_, "tag");
    const uint64_t type = tag & 7;
    const FieldSpec* spec = find_spec(tag >> 3, tag_at);
    field = Field{};
    field.type = static_cast<WireType>(type);
    if (spec == nullptr) {
      field.name = "(unknown field)";
      take_payload(field);
      continue;
    }
    const bool packed = spec->repeated && type == static_cast<uint64_t>(WireType::bytes);
    if (field.type != spec->type && !packed) {
      fail("{}: damaged at byte {}: {}.{} should be of wire type {}, but it is {}.", file_.path,
           offset(tag_at), message_.name, spec->name,
           wire_type_name(static_cast<uint64_t>(spec->type)), wire_type_name(type));
    }
    const uint64_t bit = uint64_t{1} << (spec - message_.fields.data());
    if (!spec->repeated && (seen_ & bit) != 0) {
      fail("{}: damaged at byte {}: {}.{} occurs twice, but it should occur once.", file_.path,
           offset(tag_at), message_.name, spec->name);
    }
    seen_ |= bit;
    field.number = spec->number;
    field.name = spec->name;
    take_payload(field);
    return true;
  }
  return false;
}

std::string_view WireReader::text(const Field& field) const {
  const std::string_view text(reinterpret_cast<const char*>(field.bytes.data()),
                              field.bytes.size());
  // A NUL would cut off messages and paths.
  if (!is_utf8(text) || text.find('\0') != std::string_view::npos) {
    fail("{}: damaged at byte {}: {}.{} should be text in UTF-8, but it is not.", file_.path,
         offset(field.bytes), message_.name, field.name);
  }
  return text;
}

float WireReader::fixed32_as_float(const Field& field) const {
  static_assert(std::endian::native == std::endian::little);
  float value;
  std::memcpy(&value, field.bytes.data(), sizeof(value));
  return value;
}

}  // namespace nibble::frontends
