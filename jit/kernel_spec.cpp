#include "jit/kernel_spec.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <limits>
#include <utility>

#include "jit/error.h"

namespace nibble::jit {
namespace {

constexpr std::array<Activation, 6> kActivations = {Activation::silu,      Activation::gelu,
                                                    Activation::gelu_tanh, Activation::quick_gelu,
                                                    Activation::relu,      Activation::relu2};

constexpr std::array<std::pair<RowOp, std::string_view>, 11> kRowOps = {{
    {RowOp::rms_norm, "rms_norm"},
    {RowOp::layer_norm, "layer_norm"},
    {RowOp::quantize, "quantize"},
    {RowOp::rope, "rope"},
    {RowOp::softmax, "softmax"},
    {RowOp::activation, "activation"},
    {RowOp::gate, "gate"},
    {RowOp::add, "add"},
    {RowOp::scale, "scale"},
    {RowOp::softcap, "softcap"},
    {RowOp::clip, "clip"},
}};

// --- names: fields in a fixed order, those with their default value left out ---

std::string gemm_name(const GemmSpec& spec) {
  const bool f32_weights = spec.weight.type == WeightType::f32;
  std::string out =
      fmt::format("gemm_{}{}f32", weight_type_name(spec.weight.type), act_type_name(spec.act));
  // f32 weights have no groups; the field still takes part in ==, so an odd value shows.
  if (!f32_weights || spec.weight.group != WeightFormat{}.group) {
    out += fmt::format("_g{}", spec.weight.group);
  }
  if (spec.weight.minimum) {
    out += "_min";
  } else if (spec.weight.asym) {
    out += "_asym";
  }
  if (spec.weight.scale != ScaleType::f16) {
    out += fmt::format("_s{}", scale_type_name(spec.weight.scale));
  }
  out += fmt::format("_n{}_k{}", spec.n, spec.k);
  if (spec.bias) out += "_bias";
  if (spec.residual) out += "_res";
  if (spec.activation != Activation::none)
    out += fmt::format("_{}", activation_name(spec.activation));
  if (spec.gate) out += "_gate";
  return out;
}

std::string row_name(const RowSpec& spec) {
  std::string out = "row_";
  for (const auto& [op, text] : kRowOps) {
    if (op == spec.op) out += text;
  }
  out += fmt::format("_n{}", spec.n);
  if (spec.residual) out += "_res";
  if (spec.bias) out += "_bias";
  if (spec.quantize) out += "_q";
  if (spec.bf16) out += "_bf16";
  if (!spec.f32_out) out += "_nof32";
  if (spec.group != 0) out += fmt::format("_g{}", spec.group);
  if (spec.sum_group != 0) out += fmt::format("_s{}", spec.sum_group);
  if (spec.word_sums) out += "_w";
  if (spec.zero != RowSpec{}.zero) out += fmt::format("_z{}", spec.zero);
  if (spec.rotary != 0) out += fmt::format("_r{}", spec.rotary);
  if (spec.interleaved) out += "_il";
  if (spec.activation != Activation::none)
    out += fmt::format("_{}", activation_name(spec.activation));
  return out;
}

std::string attention_name(const AttentionSpec& spec) {
  std::string out =
      fmt::format("attention_d{}_{}_r{}", spec.head_dim, kv_type_name(spec.kv), spec.rows);
  if (spec.alibi) out += "_alibi";
  if (spec.softcap) out += "_softcap";
  return out;
}

// --- parsing: consumes a name from the left ---

struct Reader {
  std::string_view rest;

  bool word(std::string_view expected) {
    if (!rest.starts_with(expected)) return false;
    rest.remove_prefix(expected.size());
    return true;
  }

  // "_word" followed by the end or another field.
  bool field(std::string_view expected) {
    std::string_view after = rest;
    if (!after.starts_with('_')) return false;
    after.remove_prefix(1);
    if (!after.starts_with(expected)) return false;
    after.remove_prefix(expected.size());
    if (!after.empty() && after.front() != '_') return false;
    rest = after;
    return true;
  }

  template <typename T>
  bool number(T& value) {
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (error != std::errc{}) return false;
    rest.remove_prefix(static_cast<size_t>(end - rest.data()));
    return true;
  }

  // "_<prefix><number>"; leaves everything as it was when absent.
  template <typename T>
  bool numbered_field(std::string_view prefix, T& value) {
    const std::string_view before = rest;
    if (word("_") && word(prefix) && number(value)) return true;
    rest = before;
    return false;
  }

  Activation activation() {
    // gelu is a prefix of gelu_tanh: the longest name that fits wins.
    Activation found = Activation::none;
    std::string_view after = rest;
    for (const Activation candidate : kActivations) {
      Reader attempt{rest};
      if (!attempt.field(activation_name(candidate))) continue;
      if (attempt.rest.size() >= after.size()) continue;
      found = candidate;
      after = attempt.rest;
    }
    rest = after;
    return found;
  }

  // avx512 is a prefix of avx512_vnni.
  bool isa(Isa& out) {
    for (const Isa candidate :
         {Isa::avx512_vnni, Isa::amx_int8, Isa::avx512, Isa::avx_vnni, Isa::avx2}) {
      if (!field(isa_name(candidate))) continue;
      out = candidate;
      return true;
    }
    return false;
  }
};

std::optional<GemmSpec> read_gemm(Reader& in) {
  GemmSpec spec;
  if (in.word("u4")) {
    spec.weight.type = WeightType::u4;
  } else if (in.word("u6")) {
    spec.weight.type = WeightType::u6;
  } else if (in.word("u8")) {
    spec.weight.type = WeightType::u8;
  } else if (in.word("f32")) {
    spec.weight.type = WeightType::f32;
  } else {
    return std::nullopt;
  }
  if (in.word("s8")) {
    spec.act = ActType::s8;
  } else if (in.word("f32")) {
    spec.act = ActType::f32;
  } else if (in.word("bf16")) {
    spec.act = ActType::bf16;
  } else {
    return std::nullopt;
  }
  if (!in.word("f32")) return std::nullopt;
  in.numbered_field("g", spec.weight.group);
  spec.weight.minimum = in.field("min");
  spec.weight.asym = spec.weight.minimum || in.field("asym");
  spec.weight.scale = in.field("sf32")    ? ScaleType::f32
                      : in.field("sbf16") ? ScaleType::bf16
                      : in.field("sq8")   ? ScaleType::q8
                                          : ScaleType::f16;
  if (!in.numbered_field("n", spec.n) || !in.numbered_field("k", spec.k)) return std::nullopt;
  spec.bias = in.field("bias");
  spec.residual = in.field("res");
  spec.activation = in.activation();
  spec.gate = in.field("gate");
  return spec;
}

std::optional<RowSpec> read_row(Reader& in) {
  RowSpec spec;
  bool found = false;
  for (const auto& [op, text] : kRowOps) {
    if (found || !in.word(text)) continue;
    spec.op = op;
    found = true;
  }
  if (!found || !in.numbered_field("n", spec.n)) return std::nullopt;
  spec.residual = in.field("res");
  spec.bias = in.field("bias");
  spec.quantize = in.field("q");
  spec.bf16 = in.field("bf16");
  spec.f32_out = !in.field("nof32");
  in.numbered_field("g", spec.group);
  in.numbered_field("s", spec.sum_group);
  spec.word_sums = in.field("w");
  in.numbered_field("z", spec.zero);
  in.numbered_field("r", spec.rotary);
  spec.interleaved = in.field("il");
  spec.activation = in.activation();
  return spec;
}

std::optional<AttentionSpec> read_attention(Reader& in) {
  AttentionSpec spec;
  if (!in.numbered_field("d", spec.head_dim)) return std::nullopt;
  bool known = false;
  for (int type = 0; type < kKvTypes && !known; ++type) {
    spec.kv = static_cast<KvType>(type);
    known = in.field(kv_type_name(spec.kv));
  }
  if (!known) return std::nullopt;
  if (!in.numbered_field("r", spec.rows)) return std::nullopt;
  spec.alibi = in.field("alibi");
  spec.softcap = in.field("softcap");
  return spec;
}

bool read_tiling(Reader& in, Tiling& tiling) {
  int columns = 0;
  if (!in.number(tiling.mr) || !in.word("x") || !in.number(columns) || !in.word("x") ||
      !in.number(tiling.k_unroll)) {
    return false;
  }
  if (columns % kColumnBlock != 0) return false;
  tiling.nr = columns / static_cast<int>(kColumnBlock);
  tiling.panel = in.word("p");
  tiling.apart = in.word("a");
  if (in.word("f") && !in.number(tiling.prefetch_l1)) return false;
  return !in.word("s") || in.number(tiling.prefetch_l2);
}

}  // namespace

std::string name(const KernelSpec& spec) {
  if (const auto* gemm = std::get_if<GemmSpec>(&spec)) return gemm_name(*gemm);
  if (const auto* row = std::get_if<RowSpec>(&spec)) return row_name(*row);
  return attention_name(std::get<AttentionSpec>(spec));
}

std::string name(const KernelKey& key) {
  std::string out = fmt::format("{}_{}", name(key.spec), isa_name(key.isa));
  if (std::holds_alternative<GemmSpec>(key.spec)) out += fmt::format("_{}", name(key.tiling));
  return out;
}

std::string name(const Tiling& tiling) {
  std::string out =
      fmt::format("{}x{}x{}", tiling.mr, int64_t{tiling.nr} * kColumnBlock, tiling.k_unroll);
  if (tiling.panel) out += "p";
  if (tiling.apart) out += "a";
  if (tiling.prefetch_l1 != 0) out += fmt::format("f{}", tiling.prefetch_l1);
  if (tiling.prefetch_l2 != 0) out += fmt::format("s{}", tiling.prefetch_l2);
  return out;
}

ActivationGroups activation_groups(const WeightFormat& weights) {
  const int32_t zero = weights.asym ? 1 : middle_value(weights.type);
  if (weights.scale != ScaleType::q8) return {.group = weights.group, .zero = zero};
  return {
      .group = kSuperBlock, .sum_group = weights.group, .word_sums = weights.minimum, .zero = zero};
}

int64_t row_scales(const RowSpec& spec) {
  return spec.group == 0 ? 1 : (spec.n + spec.group - 1) / spec.group;
}

int64_t row_sum_words(const RowSpec& spec) {
  const int64_t sums = spec.sum_group == 0 ? row_scales(spec) : spec.n / spec.sum_group;
  return spec.word_sums ? (sums + 1) / 2 : sums;
}

void set_groups(RowSpec& spec, const ActivationGroups& groups) {
  spec.group = groups.group;
  spec.sum_group = groups.sum_group;
  spec.word_sums = groups.word_sums;
  spec.zero = groups.zero;
}

void check_gemm_spec(const GemmSpec& spec) {
  const std::string what = gemm_name(spec);
  const PackedShape shape = packed_shape(spec.weight, spec.n, spec.k);
  if (spec.gate && spec.n % (2 * kColumnBlock) != 0) {
    fail("No kernel {} exists: a gate needs pairs of column blocks, so n must be a multiple of 32.",
         what);
  }
  if (spec.act != ActType::f32 && spec.weight.type == WeightType::f32) {
    fail("No kernel {} exists: f32 weights take f32 activations, not {}.", what,
         act_type_name(spec.act));
  }
  if (spec.act == ActType::bf16 && !multiplies_bf16(spec.weight)) {
    fail(
        "No kernel {} exists: u6 and weights with minimums or q8 scales take s8 or f32 "
        "activations.",
        what);
  }
  if (spec.act != ActType::s8) return;
  const int64_t largest =
      spec.weight.asym ? top_value(spec.weight.type) : middle_value(spec.weight.type);
  const int64_t longest = std::numeric_limits<int32_t>::max() / (largest * 128);
  const int64_t group = std::min(shape.group, shape.kpad);
  if (group > longest) {
    fail("No kernel {} exists: a group of {} products overflows int32; expected at most {}.", what,
         group, longest);
  }
}

std::optional<KernelKey> parse_kernel_name(std::string_view text) {
  Reader in{text};
  KernelKey key;
  const auto accept = [&key](auto spec) {
    if (spec) key.spec = *spec;
    return spec.has_value();
  };
  const bool gemm = in.word("gemm_");
  bool known = gemm && accept(read_gemm(in));
  if (!gemm && in.word("row_")) known = accept(read_row(in));
  if (!gemm && in.word("attention")) known = accept(read_attention(in));
  if (!known || !in.isa(key.isa)) return std::nullopt;
  if (gemm && (!in.word("_") || !read_tiling(in, key.tiling))) return std::nullopt;
  // One spelling only: no leading zeros, no default written out, nothing after the end.
  if (!in.rest.empty() || name(key) != text) return std::nullopt;
  return key;
}

std::optional<Tiling> parse_tiling_name(std::string_view text) {
  Reader in{text};
  Tiling tiling;
  if (!read_tiling(in, tiling) || name(tiling) != text) return std::nullopt;
  return tiling;
}

std::string_view act_type_name(ActType act) {
  switch (act) {
    case ActType::s8:
      return "s8";
    case ActType::f32:
      return "f32";
    case ActType::bf16:
      return "bf16";
  }
  return "unknown";
}

std::string_view activation_name(Activation activation) {
  switch (activation) {
    case Activation::none:
      return "none";
    case Activation::silu:
      return "silu";
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_tanh";
    case Activation::quick_gelu:
      return "quick_gelu";
    case Activation::relu:
      return "relu";
    case Activation::relu2:
      return "relu2";
  }
  return "unknown";
}

std::optional<Activation> parse_activation(std::string_view name) {
  if (name == "none") return Activation::none;
  for (const Activation activation : kActivations) {
    if (activation_name(activation) == name) return activation;
  }
  return std::nullopt;
}

std::string_view kv_type_name(KvType type) {
  switch (type) {
    case KvType::f32:
      return "f32";
    case KvType::f16:
      return "f16";
    case KvType::bf16:
      return "bf16";
    case KvType::int8:
      return "int8";
    case KvType::int16:
      return "int16";
    case KvType::bf16_pairs:
      return "bf16pairs";
  }
  return "unknown";
}

std::optional<KvType> parse_kv_type(std::string_view name) {
  for (int type = 0; type < kKvTypes; ++type) {
    if (kv_type_name(static_cast<KvType>(type)) == name) return static_cast<KvType>(type);
  }
  return std::nullopt;
}

size_t KernelKeyHash::operator()(const KernelKey& key) const {
  return std::hash<std::string>{}(name(key));
}

}  // namespace nibble::jit
