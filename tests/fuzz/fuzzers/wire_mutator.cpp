// libFuzzer's mutations for inputs in protobuf's wire format: bytes that change at random would
// nearly always leave a length around them wrong. Messages are taken apart as far as they parse,
// one field somewhere is changed, doubled, dropped or swapped, and all lengths are written anew.
// Now and then the bytes are changed as any others. Linked with the targets that read protobuf.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/fuzz/scratch_folder.h"

// The names are libFuzzer's.
// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace nibble::fuzz {
namespace {

constexpr int kMostDepth = 8;
constexpr uint64_t kMostField = 64;

struct Field {
  uint64_t number = 0;
  int type = 0;  // of the wire: 0 varint, 1 64-bit, 2 bytes, 5 32-bit
  uint64_t varint = 0;
  std::string bytes;  // of types 1, 2 and 5 that are no message
  std::vector<Field> message;
  bool is_message = false;
};

std::optional<uint64_t> take_varint(std::string_view& rest) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && !rest.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(rest.front());
    rest.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

std::optional<std::vector<Field>> parse(std::string_view rest, int depth) {
  std::vector<Field> fields;
  while (!rest.empty()) {
    const auto tag = take_varint(rest);
    Field field;
    if (!tag) return std::nullopt;
    field.number = *tag >> 3;
    field.type = static_cast<int>(*tag & 7);
    if (field.number == 0 || field.number > kMostField) return std::nullopt;
    size_t length = 0;
    if (field.type == 0) {
      const auto value = take_varint(rest);
      if (!value) return std::nullopt;
      field.varint = *value;
    } else if (field.type == 1 || field.type == 5) {
      length = field.type == 1 ? 8 : 4;
    } else if (field.type == 2) {
      const auto value = take_varint(rest);
      if (!value || *value > rest.size()) return std::nullopt;
      length = static_cast<size_t>(*value);
    } else {
      return std::nullopt;
    }
    if (length > rest.size()) return std::nullopt;
    field.bytes = rest.substr(0, length);
    rest.remove_prefix(length);
    if (field.type == 2 && depth < kMostDepth && length > 1) {
      if (auto message = parse(field.bytes, depth + 1)) {
        field.message = std::move(*message);
        field.is_message = true;
      }
    }
    fields.push_back(std::move(field));
  }
  return fields;
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

std::string text_of(const std::vector<Field>& fields) {
  std::string out;
  for (const Field& field : fields) {
    put_varint(out, field.number << 3 | static_cast<uint64_t>(field.type));
    if (field.type == 0) {
      put_varint(out, field.varint);
      continue;
    }
    const std::string bytes = field.is_message ? text_of(field.message) : field.bytes;
    if (field.type == 2) put_varint(out, bytes.size());
    out += bytes;
  }
  return out;
}

class Mutator {
 public:
  explicit Mutator(unsigned seed) : random_(seed) {}

  size_t below(size_t limit) { return random_() % std::max<size_t>(1, limit); }

  // One change in a message that is picked on the way down.
  void change(std::vector<Field>& fields) {
    if (fields.empty()) return;
    const size_t at = below(fields.size());
    Field& field = fields[at];
    if (field.is_message && below(6) != 0) return change(field.message);
    switch (below(6)) {
      case 0:
        fields.erase(fields.begin() + static_cast<ptrdiff_t>(at));
        break;
      case 1:
        fields.insert(fields.begin() + static_cast<ptrdiff_t>(below(fields.size() + 1)),
                      Field(field));
        break;
      case 2:
        std::swap(field, fields[below(fields.size())]);
        break;
      case 3:  // what another field of the same kind has
        for (int tries = 0; tries < 8; ++tries) {
          const Field& other = fields[below(fields.size())];
          if (other.type != field.type || &other == &field) continue;
          const uint64_t number = field.number;
          field = Field(other);
          field.number = number;
          break;
        }
        break;
      default:
        change_value(field);
    }
  }

 private:
  void change_value(Field& field) {
    if (field.type == 0) {
      constexpr uint64_t kValues[] = {0,
                                      1,
                                      2,
                                      3,
                                      7,
                                      10,
                                      16,
                                      127,
                                      1U << 31,
                                      ~uint64_t{0},
                                      uint64_t{1} << 40,
                                      uint64_t{1} << 63,
                                      ~uint64_t{0} >> 1};
      field.varint =
          below(3) == 0 ? kValues[below(std::size(kValues))] : field.varint + below(9) - 4;
      return;
    }
    const size_t fixed = field.type == 1 ? 8 : field.type == 5 ? 4 : 0;
    if (field.is_message) field.bytes = text_of(field.message);
    field.is_message = false;
    const size_t size = field.bytes.size(), most = fixed != 0 ? fixed : size + 16;
    field.bytes.resize(most);
    const size_t made =
        LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(field.bytes.data()), size, most);
    field.bytes.resize(fixed != 0 ? fixed : made);
  }

  std::mt19937 random_;
};

}  // namespace
}  // namespace nibble::fuzz

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  using namespace nibble::fuzz;
  Mutator mutator(seed);
  const auto parts = cut_parts(data, size, 2);
  auto fields = mutator.below(8) == 0 ? std::nullopt : parse(parts[0], 0);
  if (!fields) return LLVMFuzzerMutate(data, size, most);
  for (size_t times = 1 + mutator.below(3); times > 0; --times) mutator.change(*fields);
  std::string bytes = text_of(*fields);
  if (parts.size() > 1) bytes += std::string(kCut) + std::string(parts[1]);
  if (bytes.size() > most) return LLVMFuzzerMutate(data, size, most);
  std::copy(bytes.begin(), bytes.end(), data);
  return bytes.size();
}
