#include "jit/kernel_catalog.h"

#include <algorithm>
#include <set>
#include <utility>

#include "jit/attention.h"

namespace nibble::jit {
namespace {

constexpr int64_t kDecodeRows = 1;
constexpr int64_t kFourRows = 4;
constexpr int64_t kMoreRows = 8;
constexpr int64_t kPrefillRows = 512;

GemmSpec gemm(WeightFormat weight, ActType act, int64_t n, int64_t k) {
  return {.weight = weight, .act = act, .n = n, .k = k};
}

WeightFormat weights(WeightType type, int64_t group, bool asym = false,
                     ScaleType scale = ScaleType::f16) {
  return {.type = type, .group = group, .asym = asym, .scale = scale};
}

// Large square matmuls: what models spend their time on.
void add_formats(std::vector<GemmSpec>& out) {
  constexpr int64_t kSide = 4096;
  const auto add = [&out](WeightFormat weight, ActType act) {
    out.push_back(gemm(weight, act, kSide, kSide));
  };
  for (const int64_t group : {16, 32, 64, 128, 256, 512, 1024, 0}) {
    add(weights(WeightType::u4, group), ActType::s8);
  }
  for (const int64_t group : {32, 128}) {
    add(weights(WeightType::u4, group, true), ActType::s8);
    add(weights(WeightType::u4, group, false, ScaleType::f32), ActType::s8);
    add(weights(WeightType::u4, group, true, ScaleType::f32), ActType::s8);
    add(weights(WeightType::u8, group), ActType::s8);
    add(weights(WeightType::u8, group, true), ActType::s8);
    add(weights(WeightType::u4, group), ActType::f32);
    add(weights(WeightType::u4, group, true), ActType::f32);
    add(weights(WeightType::u8, group), ActType::f32);
    add(weights(WeightType::u4, group), ActType::bf16);
    add(weights(WeightType::u4, group, true), ActType::bf16);
    add(weights(WeightType::u8, group), ActType::bf16);
  }
  for (const ActType act : {ActType::s8, ActType::f32}) {
    add(weights(WeightType::u6, 16), act);
    add(weights(WeightType::u6, 32, true), act);
  }
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const ActType act : {ActType::s8, ActType::f32}) {
      WeightFormat with_minimums = weights(type, 32, true);
      with_minimums.minimum = true;
      add(with_minimums, act);
      add(weights(type, 128, false, ScaleType::bf16), act);
    }
  }
  // K-quants: Q4_K, Q6_K and the two in one matrix; Q3_K.
  for (const ActType act : {ActType::s8, ActType::f32}) {
    add(weights(WeightType::u4, 16, false, ScaleType::q8), act);
    add(weights(WeightType::u6, 16, false, ScaleType::q8), act);
    for (const auto& [type, group] :
         {std::pair{WeightType::u4, 32}, std::pair{WeightType::u6, 16}}) {
      WeightFormat with_minimums = weights(type, group, true, ScaleType::q8);
      with_minimums.minimum = true;
      add(with_minimums, act);
    }
  }
  add(weights(WeightType::u8, 0), ActType::s8);
  add(weights(WeightType::u4, 0), ActType::bf16);
  add(weights(WeightType::u4, 32, false, ScaleType::f32), ActType::f32);
  add(weights(WeightType::u8, 128, true, ScaleType::f32), ActType::f32);
  add(WeightFormat{.type = WeightType::f32}, ActType::f32);
}

// n no multiple of 16, k no multiple of the group or of 8, and k shorter than a group.
void add_tails(std::vector<GemmSpec>& out) {
  struct Shape {
    int64_t n, k, group;
  };
  for (const Shape s : {Shape{100, 200, 64}, Shape{17, 77, 32}, Shape{33, 24, 128}, Shape{5, 1, 0},
                        Shape{250, 1000, 0}}) {
    for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
      for (const ActType act : {ActType::s8, ActType::f32, ActType::bf16}) {
        if (act == ActType::bf16 && type == WeightType::u6) continue;
        out.push_back(gemm(weights(type, s.group), act, s.n, s.k));
        out.push_back(gemm(weights(type, s.group, true, ScaleType::f32), act, s.n, s.k));
        if (act == ActType::bf16) continue;
        WeightFormat with_minimums = weights(type, s.group, true, ScaleType::bf16);
        with_minimums.minimum = true;
        out.push_back(gemm(with_minimums, act, s.n, s.k));
      }
    }
    out.push_back(gemm(WeightFormat{.type = WeightType::f32}, ActType::f32, s.n, s.k));
  }
}

// One super-block and two, columns that fill no block, groups of every length.
void add_super_blocks(std::vector<GemmSpec>& out) {
  for (const int64_t group : {16, 32, 64, 128}) {
    for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
      for (const ActType act : {ActType::s8, ActType::f32}) {
        WeightFormat format = weights(type, group, false, ScaleType::q8);
        out.push_back(gemm(format, act, 100, 512));
        format.asym = format.minimum = true;
        out.push_back(gemm(format, act, 17, 256));
        out.push_back(gemm(format, act, 33, 768));
        GemmSpec gate = gemm(format, act, 192, 256);
        gate.gate = true;
        gate.activation = Activation::silu;
        out.push_back(gate);
      }
    }
  }
}

void add_epilogues(std::vector<GemmSpec>& out) {
  constexpr Activation kAll[] = {Activation::silu,       Activation::gelu, Activation::gelu_tanh,
                                 Activation::quick_gelu, Activation::relu, Activation::relu2};
  const auto add_all = [&out, &kAll](GemmSpec base) {
    const auto add = [&](bool bias, bool residual, Activation activation, bool gate) {
      GemmSpec spec = base;
      spec.bias = bias;
      spec.residual = residual;
      spec.activation = activation;
      spec.gate = gate;
      out.push_back(spec);
    };
    add(true, false, Activation::none, false);
    add(false, true, Activation::none, false);
    add(true, true, Activation::none, false);
    add(false, false, Activation::none, true);
    for (const Activation activation : kAll) {
      add(false, false, activation, false);
      add(false, false, activation, true);
      add(true, true, activation, false);
      add(true, true, activation, true);
    }
  };
  add_all(gemm(weights(WeightType::u4, 32), ActType::s8, 352, 296));
  add_all(gemm(weights(WeightType::u4, 32), ActType::f32, 352, 296));
  GemmSpec last = gemm(WeightFormat{.type = WeightType::f32}, ActType::f32, 352, 296);
  last.bias = last.residual = last.gate = true;
  last.activation = Activation::silu;
  out.push_back(last);
  last.weight = weights(WeightType::u4, 32);
  last.act = ActType::bf16;
  out.push_back(last);
}

void add_norms(std::vector<RowSpec>& out, int64_t n) {
  for (const RowOp op : {RowOp::rms_norm, RowOp::layer_norm}) {
    for (const bool residual : {false, true}) {
      const RowSpec plain{.op = op, .n = n, .residual = residual, .bias = op == RowOp::layer_norm};
      out.push_back(plain);
      RowSpec quantized = plain;
      quantized.quantize = true;
      quantized.f32_out = false;
      quantized.group = 32;
      out.push_back(quantized);
      quantized.f32_out = true;
      quantized.group = 0;
      quantized.zero = 1;
      out.push_back(quantized);
      RowSpec rounded = plain;
      rounded.quantize = rounded.bf16 = true;
      out.push_back(rounded);
      rounded.f32_out = false;
      out.push_back(rounded);
    }
  }
  out.push_back({.op = RowOp::layer_norm, .n = n});
}

void add_elementwise(std::vector<RowSpec>& out, int64_t n) {
  for (const int64_t group : {32, 128, 0}) {
    out.push_back({.op = RowOp::quantize, .n = n, .group = group});
    out.push_back({.op = RowOp::quantize, .n = n, .group = group, .zero = 1});
  }
  out.push_back({.op = RowOp::quantize, .n = n, .bf16 = true});
  if (n % kSuperBlock == 0) {
    out.push_back(
        {.op = RowOp::quantize, .n = n, .group = kSuperBlock, .sum_group = 16, .zero = 32});
    out.push_back({.op = RowOp::quantize,
                   .n = n,
                   .group = kSuperBlock,
                   .sum_group = 32,
                   .word_sums = true,
                   .zero = 1});
  }
  for (const Activation activation :
       {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::quick_gelu,
        Activation::relu, Activation::relu2}) {
    out.push_back({.op = RowOp::activation, .n = n, .activation = activation});
    out.push_back({.op = RowOp::gate, .n = n, .activation = activation});
  }
  out.push_back({.op = RowOp::add, .n = n});
}

std::vector<RowSpec> row_specs() {
  std::vector<RowSpec> out;
  for (const int64_t n : {4096, 100, 3}) {
    add_norms(out, n);
    add_elementwise(out, n);
  }
  for (const bool interleaved : {false, true}) {
    out.push_back({.op = RowOp::rope, .n = 128, .rotary = 128, .interleaved = interleaved});
    out.push_back({.op = RowOp::rope, .n = 80, .rotary = 32, .interleaved = interleaved});
    out.push_back({.op = RowOp::rope, .n = 20, .rotary = 6, .interleaved = interleaved});
  }
  for (const RowOp op : {RowOp::softmax, RowOp::scale, RowOp::softcap, RowOp::clip}) {
    out.push_back({.op = op});
  }
  return out;
}

std::vector<AttentionSpec> attention_specs() {
  std::vector<AttentionSpec> out;
  for (const KvType kv :
       {KvType::f32, KvType::f16, KvType::bf16, KvType::int16, KvType::int8, KvType::bf16_pairs}) {
    for (const int64_t head_dim : {64, 80, 128, 256, 20}) {
      for (const int rows : {1, 4, most_attention_rows(kv)}) {
        out.push_back({.head_dim = head_dim, .kv = kv, .rows = rows});
      }
    }
    out.push_back({.head_dim = 64, .kv = kv, .rows = 4, .alibi = true});
    out.push_back({.head_dim = 64, .kv = kv, .rows = 4, .softcap = true});
    out.push_back({.head_dim = 128, .kv = kv, .rows = 1, .alibi = true, .softcap = true});
  }
  return out;
}

}  // namespace

std::vector<KernelKey> kernel_catalog(Isa isa) {
  std::vector<KernelKey> out;
  if (!has_emitter(isa)) return out;
  std::set<std::string> names;
  const auto add = [&](const KernelSpec& spec, Tiling tiling) {
    const KernelKey key{.spec = spec, .isa = isa, .tiling = tiling};
    if (names.insert(name(key)).second) out.push_back(key);
  };
  std::vector<GemmSpec> gemms;
  add_formats(gemms);
  add_tails(gemms);
  add_super_blocks(gemms);
  add_epilogues(gemms);
  for (const GemmSpec& spec : gemms) {
    for (const int64_t m : {kDecodeRows, kFourRows, kMoreRows, kPrefillRows}) {
      add(spec, default_tiling(spec, isa, m));
    }
  }
  for (const RowSpec& spec : row_specs()) add(spec, Tiling{});
  for (const AttentionSpec& spec : attention_specs()) add(spec, Tiling{});
  return out;
}

}  // namespace nibble::jit
