#include "frontends/chat/number_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "frontends/chat/budget.h"
#include "frontends/chat/value.h"

namespace nibble::frontends::chat {
namespace {

std::string print(double size, char type, int precision, bool alternate) {
  const char shape[] = {'%',
                        alternate ? '#' : '.',
                        alternate ? '.' : '*',
                        alternate ? '*' : type,
                        alternate ? type : '\0',
                        '\0'};
  const int count = std::snprintf(nullptr, 0, shape, precision, size);
  foresee(static_cast<size_t>(count), 1);
  std::string out(static_cast<size_t>(count), '\0');
  std::snprintf(out.data(), out.size() + 1, shape, precision, size);
  return out;
}

// As 'g', but with an exponent already where ".0" would not fit into the precision.
std::string general_with_point(double size, int precision, bool alternate) {
  const std::string scientific = print(size, 'e', precision - 1, alternate);
  const int exponent = std::stoi(scientific.substr(scientific.find('e') + 1));
  std::string out = print(size, 'g', precision, alternate);
  if (exponent == precision - 1 && out.find('e') == std::string::npos) {
    std::string digits = scientific.substr(0, scientific.find('e'));
    if (!alternate && digits.find('.') != std::string::npos) {
      digits.erase(digits.find_last_not_of('0') + 1);
      if (digits.back() == '.') digits.pop_back();
    }
    return digits + scientific.substr(scientific.find('e'));
  }
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  if (out.back() == '.') out += '0';
  return out;
}

}  // namespace

std::string real_digits(double size, char type, int64_t precision, bool alternate, bool point) {
  const bool upper = type == 'E' || type == 'F' || type == 'G';
  if (std::isnan(size)) return upper ? "NAN" : "nan";
  if (std::isinf(size)) return upper ? "INF" : "inf";
  if (type == 'r') return repr_of_real(size);
  const bool general = type == 'g' || type == 'G';
  const int places = static_cast<int>(general ? std::max<int64_t>(precision, 1) : precision);
  if (point) return general_with_point(size, places, alternate);
  return print(size, type, places, alternate);
}

std::string integer_digits(uint64_t size, int base, bool upper) {
  std::array<char, 65> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), size, base).ptr;
  std::string out(buffer.data(), end);
  if (upper) std::transform(out.begin(), out.end(), out.begin(), ::toupper);
  return out;
}

std::string group_digits(const std::string& digits, char separator, size_t group, size_t width) {
  foresee(width + digits.size(), 2);
  std::string out;  // from the end
  for (size_t i = 0; i < digits.size() || out.size() < width; ++i) {
    if (i > 0 && i % group == 0) out += separator;
    out += i < digits.size() ? digits[digits.size() - 1 - i] : '0';
  }
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace nibble::frontends::chat
