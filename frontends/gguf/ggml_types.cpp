#include "frontends/gguf/ggml_types.h"

namespace nibble::frontends::gguf {
namespace {

constexpr int64_t kSuper = 256;  // weights of a K-quant's block

constexpr GgmlBlock kBlocks[] = {
    {GgmlType::f32, "f32", 1, 4},          {GgmlType::f16, "f16", 1, 2},
    {GgmlType::bf16, "bf16", 1, 2},        {GgmlType::q4_0, "q4_0", 32, 18},
    {GgmlType::q4_1, "q4_1", 32, 20},      {GgmlType::q5_0, "q5_0", 32, 22},
    {GgmlType::q5_1, "q5_1", 32, 24},      {GgmlType::q8_0, "q8_0", 32, 34},
    {GgmlType::q2_k, "q2_k", kSuper, 84},  {GgmlType::q3_k, "q3_k", kSuper, 110},
    {GgmlType::q4_k, "q4_k", kSuper, 144}, {GgmlType::q5_k, "q5_k", kSuper, 176},
    {GgmlType::q6_k, "q6_k", kSuper, 210}, {GgmlType::i8, "i8", 1, 1},
    {GgmlType::i16, "i16", 1, 2},          {GgmlType::i32, "i32", 1, 4},
    {GgmlType::i64, "i64", 1, 8},          {GgmlType::f64, "f64", 1, 8},
};

}  // namespace

const GgmlBlock* ggml_block(uint32_t type) {
  for (const GgmlBlock& block : kBlocks) {
    if (static_cast<uint32_t>(block.type) == type) return &block;
  }
  return nullptr;
}

const GgmlBlock& ggml_block(GgmlType type) { return *ggml_block(static_cast<uint32_t>(type)); }

std::string_view ggml_type_names() {
  return "f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k";
}

bool is_weight(GgmlType type) {
  return type != GgmlType::f64 && (type < GgmlType::i8 || type > GgmlType::i64);
}

}  // namespace nibble::frontends::gguf
