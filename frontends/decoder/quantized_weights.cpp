#include "frontends/decoder/quantized_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "jit/error.h"

namespace nibble::frontends::decoder {
namespace {

using graph::DType;
using graph::QuantizedMatrix;
using graph::Shape;
using graph::TensorData;
using Packing = QuantizationScheme::Packing;

constexpr int64_t kInWord = 8;  // 4-bit numbers of an i32

int64_t words(int64_t count) { return (count + kInWord - 1) / kInWord; }

void read_group(const Config& config, QuantizationScheme& scheme) {
  const int64_t group = config.integer({"group_size"}, -1);
  if (group != -1 && (group < 8 || group > (1 << 20))) {
    config.refuse({"group_size"}, "-1 or 8 and more");
  }
  scheme.group = std::max<int64_t>(group, 0);
}

void need_4_bits(const Config& config) {
  if (config.integer({"bits", "w_bit", "num_bits"}, 4) != 4) {
    config.refuse({"bits", "w_bit", "num_bits"}, "4");
  }
}

void read_gptq(const Config& config, QuantizationScheme& scheme) {
  scheme.packing = Packing::gptq;
  const std::string format = config.text({"checkpoint_format"}, "gptq");
  if (format != "gptq" && format != "gptq_v2") {
    config.refuse({"checkpoint_format"}, "gptq or gptq_v2");
  }
  scheme.zeros_less_one = format == "gptq";
  scheme.group_varies = config.has({"dynamic"});
}

void read_auto_round(const Config& config, QuantizationScheme& scheme) {
  const std::string packing = config.text({"packing_format"}, "auto_round:auto_gptq");
  scheme.packing = packing == "auto_round:auto_awq" ? Packing::awq : Packing::gptq;
  scheme.zeros_less_one = packing == "auto_round:auto_gptq";
  scheme.group_varies = config.has({"extra_config"});
  const bool known = scheme.zeros_less_one || packing == "auto_round:auto_awq" ||
                     packing == "auto_round" || packing == "auto_round:gptqmodel";
  if (!known) {
    config.refuse({"packing_format"},
                  "auto_round or auto_round: with auto_gptq, gptqmodel or auto_awq");
  }
}

void read_compressed(const Config& config, QuantizationScheme& scheme) {
  scheme.packing = Packing::compressed;
  if (config.text({"format"}, "") != "pack-quantized") config.refuse({"format"}, "pack-quantized");
  const auto groups = config.object({"config_groups"});
  if (!groups) config.refuse({"config_groups"}, "an object");
  const auto group = groups->object({"group_0"});
  if (!group || groups->has({"group_1"})) config.refuse({"config_groups"}, "group_0 alone");
  group->only_absent("input_activations");
  group->only_absent("output_activations");
  const auto weights = group->object({"weights"});
  if (!weights) group->refuse({"weights"}, "an object");
  need_4_bits(*weights);
  if (weights->text({"type"}, "int") != "int") weights->refuse({"type"}, "int");
  const std::string strategy = weights->text({"strategy"}, "group");
  if (strategy != "group" && strategy != "channel") {
    weights->refuse({"strategy"}, "group or channel");
  }
  if (strategy == "group") read_group(*weights, scheme);
}

// Four-bit numbers in words, seen as bytes.
TensorData as_nibbles(const TensorData& tensor) {
  TensorData nibbles = tensor;
  nibbles.dtype = DType::u4;
  nibbles.shape = {static_cast<int64_t>(tensor.bytes) * 2};
  return nibbles;
}

class MatrixReader {
 public:
  MatrixReader(const QuantizationScheme& scheme, std::string name, int64_t n, int64_t k,
               Checkpoint& checkpoint)
      : scheme_(scheme), name_(std::move(name)), checkpoint_(checkpoint) {
    m_.n = n;
    m_.k = k;
    m_.bits = 4;
    m_.default_zero = 8;
  }

  std::shared_ptr<const QuantizedMatrix> read() {
    const bool compressed = scheme_.packing == Packing::compressed;
    read_scales(compressed ? ".weight_scale" : ".scales", compressed);
    if (compressed) {
      read_compressed();
    } else {
      read_gptq_or_awq();
    }
    m_.check(fmt::format("{}: the weight '{}'", checkpoint_.path(), name_));
    return std::make_shared<const QuantizedMatrix>(std::move(m_));
  }

 private:
  const TensorData& take(const char* suffix, const Shape& shape) {
    const TensorData& tensor = checkpoint_.take(name_ + suffix);
    if (tensor.shape == shape && tensor.dtype == DType::i32) return tensor;
    fail("{}: the tensor '{}{}' is {} {}, but i32 {} is expected.", checkpoint_.path(), name_,
         suffix, graph::dtype_name(tensor.dtype), graph::to_string(tensor.shape),
         graph::to_string(shape));
  }

  // The group is the configuration's, unless tensors may have their own.
  void read_scales(const char* suffix, bool column_first) {
    m_.scales = checkpoint_.take(name_ + suffix);
    const Shape& shape = m_.scales.shape;
    m_.group = scheme_.group > 0 ? std::min(scheme_.group, m_.k) : m_.k;
    if (scheme_.group_varies && shape.size() == 2 && shape[0] > 0 && m_.k % shape[0] == 0) {
      m_.group = m_.k / shape[0];
    }
    const int64_t groups = m_.groups();
    const Shape expected = column_first ? Shape{m_.n, groups} : Shape{groups, m_.n};
    if (shape != expected) {
      fail("{}: the tensor '{}{}' has shape {}, but {} is expected by config.json.",
           checkpoint_.path(), name_, suffix, graph::to_string(shape), graph::to_string(expected));
    }
    m_.scale_at = column_first ? graph::Strides{groups, 1} : graph::Strides{1, m_.n};
  }

  void read_gptq_or_awq() {
    const int64_t width = words(m_.n) * kInWord;  // of rows that run along n
    const bool awq = scheme_.packing == Packing::awq;
    if (awq) {
      m_.values = as_nibbles(take(".qweight", {m_.k, words(m_.n)}));
      m_.value_at = {.column = 1, .step = width, .awq_order = true};
    } else {
      m_.values = as_nibbles(take(".qweight", {words(m_.k), m_.n}));
      m_.value_at = {.column = kInWord, .step = 1, .block = kInWord, .block_step = kInWord * m_.n};
    }
    m_.zeros = as_nibbles(take(".qzeros", {m_.groups(), words(m_.n)}));
    m_.zero_at = {.column = 1, .step = width, .awq_order = awq};
    m_.zero_plus = scheme_.zeros_less_one ? 1 : 0;
    if (!awq && checkpoint_.has(name_ + ".g_idx")) read_groups(".g_idx");
  }

  void read_compressed() {
    m_.values = as_nibbles(take(".weight_packed", {m_.n, words(m_.k)}));
    m_.value_at = {words(m_.k) * kInWord, 1};
    if (checkpoint_.has(name_ + ".weight_zero_point")) {
      m_.zeros = as_nibbles(take(".weight_zero_point", {words(m_.n), m_.groups()}));
      m_.zero_at = {.column = 1, .step = kInWord, .column_word = kInWord * (m_.groups() - 1)};
    }
    if (checkpoint_.has(name_ + ".weight_shape")) {
      const std::vector<int64_t> shape = to_i64(checkpoint_.take(name_ + ".weight_shape"));
      if (shape != std::vector<int64_t>{m_.n, m_.k}) {
        fail("{}: the tensor '{}.weight_shape' says {}, but {} is expected by config.json.",
             checkpoint_.path(), name_, graph::to_string(shape), graph::to_string({m_.n, m_.k}));
      }
    }
    if (checkpoint_.has(name_ + ".weight_g_idx")) read_groups(".weight_g_idx");
  }

  // Kept where the groups are no runs of neighbours; -1 throughout means that they are.
  void read_groups(const char* suffix) {
    const TensorData& tensor = take(suffix, {m_.k});
    const std::vector<int64_t> group_of = to_i64(tensor);
    bool runs = true, unset = true;
    for (int64_t kk = 0; kk < m_.k; ++kk) {
      const int64_t g = group_of[static_cast<size_t>(kk)];
      runs = runs && g == kk / m_.group;
      unset = unset && g == -1;
    }
    if (!runs && !unset) m_.k_group = tensor;
  }

  const QuantizationScheme& scheme_;
  const std::string name_;
  Checkpoint& checkpoint_;
  QuantizedMatrix m_;
};

}  // namespace

QuantizationScheme read_quantization(const Config& config) {
  QuantizationScheme scheme;
  const auto own = config.object({"quantization_config", "compression_config"});
  if (!own) return scheme;
  const std::string method = own->text({"quant_method"}, "");
  if (method == "compressed-tensors") {
    read_compressed(*own, scheme);
    return scheme;
  }
  need_4_bits(*own);
  read_group(*own, scheme);
  if (method == "gptq") {
    read_gptq(*own, scheme);
  } else if (method == "awq") {
    scheme.packing = Packing::awq;
    if (own->text({"version"}, "gemm") != "gemm") own->refuse({"version"}, "gemm");
    own->only("zero_point", true);
  } else if (method == "auto-round" || method == "intel/auto-round") {
    read_auto_round(*own, scheme);
  } else {
    own->refuse({"quant_method"}, "gptq, awq, auto-round or compressed-tensors");
  }
  return scheme;
}

bool is_quantized(const QuantizationScheme& scheme, const std::string& name,
                  const Checkpoint& checkpoint) {
  if (scheme.packing == Packing::none || checkpoint.has(name + ".weight")) return false;
  return checkpoint.has(name +
                        (scheme.packing == Packing::compressed ? ".weight_packed" : ".qweight"));
}

std::shared_ptr<const QuantizedMatrix> quantized_matrix(const QuantizationScheme& scheme,
                                                        const std::string& name, int64_t n,
                                                        int64_t k, Checkpoint& checkpoint) {
  return MatrixReader(scheme, name, n, k, checkpoint).read();
}

}  // namespace nibble::frontends::decoder
