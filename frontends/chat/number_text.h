// How the two formatting languages of Python write the digits of numbers: what "%8.2f" and
// "{:08,.2f}" share. Signs, prefixes and padding are theirs.
#pragma once

#include <cstdint>
#include <string>

namespace nibble::frontends::chat {

constexpr int64_t kWidest = 1'000'000;  // of a field or its precision

// Of a finite or infinite number or NaN, without a sign. `type`: one of eEfFgG, or 'r' for the
// shortest digits that read back as the same number. `alternate`: keeps the point and, for g, the
// zeros at the end; `point`: ".0" where there would be no point, as repr() writes.
std::string real_digits(double size, char type, int64_t precision, bool alternate, bool point);
// `base`: 2, 8, 10 or 16.
std::string integer_digits(uint64_t size, int base, bool upper);
// What an int64 is without its sign.
inline uint64_t size_of(int64_t number) {
  return number < 0 ? 0 - static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
}
// Separators between groups of `group` digits, counted from the end; zeros in front until there
// are `width` characters, which never begin with a separator.
std::string group_digits(const std::string& digits, char separator, size_t group, size_t width);

}  // namespace nibble::frontends::chat
