// Reads tokenizer.model: SentencePiece's ModelProto. Only the fields that bear on tokenizing are
// looked at; the others, of training, are passed over.
#include "frontends/tokenizer/sentencepiece_model.h"
#include "frontends/wire/wire.h"

namespace nibble::frontends {
namespace {

constexpr FieldSpec kModelFields[] = {
    {1, "pieces", WireType::bytes, true},
    {2, "trainer_spec", WireType::bytes},
    {3, "normalizer_spec", WireType::bytes},
    {5, "denormalizer_spec", WireType::bytes},
};
constexpr FieldSpec kPieceFields[] = {
    {1, "piece", WireType::bytes}, {2, "score", WireType::fixed32}, {3, "type", WireType::varint}};
constexpr FieldSpec kTrainerFields[] = {
    {3, "model_type", WireType::varint},     {24, "treat_whitespace_as_suffix", WireType::varint},
    {35, "byte_fallback", WireType::varint}, {41, "bos_id", WireType::varint},
    {42, "eos_id", WireType::varint},
};
constexpr FieldSpec kNormalizerFields[] = {
    {2, "precompiled_charsmap", WireType::bytes},
    {3, "add_dummy_prefix", WireType::varint},
    {4, "remove_extra_whitespaces", WireType::varint},
    {5, "escape_whitespaces", WireType::varint},
};
constexpr MessageSpec kModel{"ModelProto", kModelFields, true};
constexpr MessageSpec kPiece{"SentencePiece", kPieceFields, true};
constexpr MessageSpec kTrainer{"TrainerSpec", kTrainerFields, true};
constexpr MessageSpec kNormalizer{"NormalizerSpec", kNormalizerFields, true};

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

SentencePieceModel::Piece read_piece(const WireFile& file, std::span<const std::byte> bytes) {
  SentencePieceModel::Piece piece;
  WireReader reader(file, kPiece, bytes);
  for (Field field; reader.next(field);) {
    if (field.number == 1) {
      piece.text = reader.text(field);
    } else if (field.number == 2) {
      piece.score = reader.fixed32_as_float(field);
    } else {
      if (field.varint < 1 || field.varint > 6) {
        fail("{}: the piece \"{}\" is of type {}, which is not known.", file.path, piece.text,
             field.varint);
      }
      piece.type = static_cast<PieceType>(field.varint);
    }
  }
  return piece;
}

void read_trainer(const WireFile& file, std::span<const std::byte> bytes, SentencePieceModel& out) {
  WireReader reader(file, kTrainer, bytes);
  for (Field field; reader.next(field);) {
    switch (field.number) {
      case 3:
        if (field.varint != 1 && field.varint != 2) {
          fail("{}: trainer_spec.model_type is {}, but only 1 (Unigram) and 2 (BPE) are supported.",
               file.path, field.varint);
        }
        out.kind = static_cast<SentencePieceModel::Kind>(field.varint);
        break;
      case 24:
        out.whitespace_as_suffix = field.varint != 0;
        break;
      case 35:
        out.byte_fallback = field.varint != 0;
        break;
      case 41:
        out.bos_id = static_cast<int64_t>(field.varint);
        break;
      default:
        out.eos_id = static_cast<int64_t>(field.varint);
    }
  }
}

void read_normalizer(const WireFile& file, std::span<const std::byte> bytes,
                     SentencePieceModel& out) {
  WireReader reader(file, kNormalizer, bytes);
  for (Field field; reader.next(field);) {
    switch (field.number) {
      case 2:
        out.charsmap = Charsmap(as_text(field.bytes),
                                file.path + ": the field normalizer_spec.precompiled_charsmap");
        break;
      case 3:
        out.add_dummy_prefix = field.varint != 0;
        break;
      case 4:
        out.remove_extra_whitespaces = field.varint != 0;
        break;
      default:
        out.escape_whitespaces = field.varint != 0;
    }
  }
}

// Applied to decoded text; no model of a decoder has one.
void refuse_denormalizer(const WireFile& file, std::span<const std::byte> bytes) {
  WireReader reader(file, kNormalizer, bytes);
  for (Field field; reader.next(field);) {
    if (field.number == 2 && !field.bytes.empty()) {
      fail("{}: denormalizer_spec has a precompiled_charsmap, which is not supported.", file.path);
    }
  }
}

}  // namespace

SentencePieceModel parse_sentencepiece(std::string_view bytes, const std::string& origin) {
  SentencePieceModel model;
  model.origin = origin;
  const WireFile file{origin, std::as_bytes(std::span(bytes)), "this is no SentencePiece model"};
  WireReader reader(file, kModel, file.bytes);
  for (Field field; reader.next(field);) {
    switch (field.number) {
      case 1:
        if (static_cast<int64_t>(model.pieces.size()) >= kMostIds) {
          fail("{}: more than {} pieces.", origin, kMostIds);
        }
        model.pieces.push_back(read_piece(file, field.bytes));
        break;
      case 2:
        read_trainer(file, field.bytes, model);
        break;
      case 3:
        read_normalizer(file, field.bytes, model);
        break;
      default:
        refuse_denormalizer(file, field.bytes);
    }
  }
  return model;
}

}  // namespace nibble::frontends
