// A bounded reader of the protobuf wire format. It walks the fields of one message inside a mapped
// file, copies nothing and never looks past the message's end. Stricter than protobuf's own parser,
// so that damage is found and not skipped: an unknown field number (where the message is not open),
// another wire type than the schema's, and a singular field that occurs twice are errors. Called by
// the readers of ONNX models and of SentencePiece's tokenizer.model. Source: protobuf.dev,
// "Encoding".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace nibble::frontends {

// The file that is being read: its bytes, to tell offsets, and for messages its path, the format's
// name and what an unknown field means.
struct WireFile {
  std::string path;
  std::span<const std::byte> bytes;
  std::string_view unknown_field =
      "this is no ONNX model, or it is damaged, or it is of a newer ONNX than this program knows";
};

enum class WireType : uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

// One field of a message's schema. Repeated scalars are accepted packed and one by one.
struct FieldSpec {
  uint32_t number;
  std::string_view name;
  WireType type;
  bool repeated = false;
};

struct MessageSpec {
  std::string_view name;
  std::span<const FieldSpec> fields;
  bool open = false;  // unknown fields are passed over: the message says more than we ask
};

struct Field {
  uint32_t number = 0;
  std::string_view name;
  WireType type = WireType::varint;
  uint64_t varint = 0;               // of varint fields
  std::span<const std::byte> bytes;  // the payload; of scalars their encoded bytes
};

class WireReader {
 public:
  WireReader(const WireFile& file, const MessageSpec& message, std::span<const std::byte> bytes)
      : file_(file), message_(message), rest_(bytes) {}

  // False at the end of the message. Throws Error naming the file, the offset, the message and the
  // field.
  bool next(Field& field);

  // The payload as text. Throws Error when it is not UTF-8 or holds a NUL.
  std::string_view text(const Field& field) const;
  float fixed32_as_float(const Field& field) const;
  // Appends the integers of a repeated varint field, packed or not.
  template <typename Sink>
  void varints(const Field& field, Sink&& sink) const {
    if (field.type == WireType::varint) return sink(field.varint);
    for (std::span<const std::byte> rest = field.bytes; !rest.empty();) {
      sink(take_varint(rest, field.name));
    }
  }

  const WireFile& file() const { return file_; }

 private:
  uint64_t take_varint(std::span<const std::byte>& rest, std::string_view what) const;
  std::span<const std::byte> take(uint64_t count, std::string_view what);
  // nullptr for an unknown field of an open message.
  const FieldSpec* find_spec(uint64_t number, std::span<const std::byte> tag) const;
  void take_payload(Field& field);
  size_t offset(std::span<const std::byte> at) const;

  const WireFile& file_;
  const MessageSpec& message_;
  std::span<const std::byte> rest_;
  uint64_t seen_ = 0;  // bit i: field i of the schema has occurred
};

bool is_utf8(std::string_view text);

// The varint at the start of `rest`, which is moved past it; nullopt when it does not end or is
// longer than 64 bits.
std::optional<uint64_t> decode_varint(std::span<const std::byte>& rest);

}  // namespace nibble::frontends
