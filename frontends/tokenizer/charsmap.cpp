#include "frontends/tokenizer/charsmap.h"

#include <cstring>

#include "jit/error.h"

namespace nibble::frontends {
namespace {

uint32_t label(uint32_t unit) { return unit & 0x800000FFU; }
uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & 0x200U) >> 6); }
bool ends_text(uint32_t unit) { return (unit & 0x100U) != 0; }

int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

}  // namespace

Charsmap::Charsmap(std::string_view blob, const std::string& where) {
  if (blob.empty()) return;
  uint32_t bytes = 0;
  if (blob.size() < sizeof bytes) fail("{} is cut off: it has {} bytes.", where, blob.size());
  for (int i = 3; i >= 0; --i)
    bytes = (bytes << 8) | static_cast<uint8_t>(blob[static_cast<size_t>(i)]);
  blob.remove_prefix(sizeof bytes);
  if (bytes == 0 || bytes % 4 != 0 || bytes > blob.size()) {
    fail("{} says that its trie has {} bytes, but it should be a multiple of 4 up to {}.", where,
         bytes, blob.size());
  }
  units_.resize(bytes / 4);
  for (size_t i = 0; i < bytes; ++i) {
    units_[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(blob[i])) << (8 * (i % 4));
  }
  replacements_ = blob.substr(bytes);
  replacements_ += '\0';
}

Charsmap::Match Charsmap::find(std::string_view text, bool shortest, bool stop_at_nul) const {
  Match match;
  if (units_.empty()) return match;
  size_t node = offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    if (stop_at_nul && byte == 0) break;
    node ^= byte;
    if (node >= units_.size() || label(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= offset(unit);
    if (!ends_text(unit)) continue;
    if (node >= units_.size()) break;
    const size_t place = units_[node] & 0x7FFFFFFFU;
    if (place >= replacements_.size()) break;
    match = {i + 1, replacements_.c_str() + place};
    if (shortest) break;
  }
  return match;
}

std::optional<std::string> decode_base64(std::string_view text) {
  std::string out;
  out.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  int count = 0;
  while (text.ends_with('=')) text.remove_suffix(1);
  for (char c : text) {
    const int digit = base64_digit(c);
    if (digit < 0) return std::nullopt;
    bits = (bits << 6) | static_cast<uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out += static_cast<char>(bits >> count);
  }
  if (count == 6) return std::nullopt;  // a digit too many
  return out;
}

}  // namespace nibble::frontends
