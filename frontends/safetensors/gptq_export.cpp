#include "frontends/safetensors/gptq_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "frontends/decoder/config.h"
#include "frontends/documents/documents.h"
#include "frontends/safetensors/describe.h"
#include "frontends/safetensors/hf_tensors.h"
#include "frontends/safetensors/tensor_file_writer.h"
#include "jit/error.h"
#include "jit/float16.h"
#include "jit/packed_numbers.h"
#include "runtime/json_text.h"

namespace nibble::frontends {
namespace safetensors {
namespace {

using graph::DType;
using nlohmann::ordered_json;

constexpr int64_t kInWord = 8;  // 4-bit numbers of an i32

// --- floats in the narrowest type that holds them ---

float as_bf16(float value) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0xFFFF0000U);
}

// The types that hold every number seen so far.
struct Narrowest {
  bool half = true, brain = true;
  void see(std::span<const float> values) {
    for (const float value : values) {
      half = half && jit::f16_to_f32(jit::f32_to_f16(value)) == value;
      brain = brain && as_bf16(value) == value;
    }
  }
  DType type() const { return half ? DType::f16 : brain ? DType::bf16 : DType::f32; }
};

void write_floats(std::span<const float> values, DType type, const ByteSink& sink) {
  if (type == DType::f32) return sink(std::as_bytes(values));
  std::vector<uint16_t> shorts(values.size());
  std::transform(values.begin(), values.end(), shorts.begin(), [&](float value) {
    return type == DType::f16 ? jit::f32_to_f16(value)
                              : static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
  });
  sink(std::as_bytes(std::span<const uint16_t>(shorts)));
}

WrittenTensor floats(std::string name, graph::Shape shape, std::vector<float> values) {
  Narrowest narrowest;
  narrowest.see(values);
  const DType type = narrowest.type();
  auto shared = std::make_shared<const std::vector<float>>(std::move(values));
  return {std::move(name), type, std::move(shape),
          [shared, type](const ByteSink& sink) { write_floats(*shared, type, sink); }};
}

// A packed matrix as [n][k] floats, column after column.
WrittenTensor dequantized(const HfMatrix& matrix) {
  const auto each = [](const HfMatrix& m, const auto& use) {
    std::vector<float> column(static_cast<size_t>(m.k()));
    for (const int64_t c : m.columns) {
      jit::unpack_column(*m.packed, c, column);
      use(column);
    }
  };
  Narrowest narrowest;
  each(matrix, [&](const std::vector<float>& column) { narrowest.see(column); });
  const DType type = narrowest.type();
  return {matrix.name + ".weight",
          type,
          {matrix.n(), matrix.k()},
          [matrix, type, each](const ByteSink& sink) {
            each(matrix,
                 [&](const std::vector<float>& column) { write_floats(column, type, sink); });
          }};
}

// --- GPTQ's four tensors ---

struct Layout {
  int64_t group = -1;  // k a scale; 0: the whole of k; -1: not known yet
  bool asym = false;
  bool v2 = false;
};

// The whole of k, spelled out.
int64_t group_of(const HfMatrix& matrix) {
  const int64_t group = matrix.packed->format.group;
  return group == 0 || group >= matrix.k() ? 0 : group;
}

std::string format_of(const HfMatrix& matrix) {
  const jit::WeightFormat& format = matrix.packed->format;
  return fmt::format("{} with {} scales", jit::weight_type_name(format.type),
                     jit::scale_type_name(format.scale));
}

void check_matrix(const graph::Graph& graph, const HfMatrix& matrix) {
  const jit::WeightFormat& format = matrix.packed->format;
  if (format.type != jit::WeightType::u4) {
    fail(
        "{}: the weight '{}' is {}, but GPTQ holds u4 in the layers: compile it with --weights "
        "int4.",
        graph.origin, matrix.name, format_of(matrix));
  }
  if (format.minimum) {
    fail(
        "{}: the weight '{}' has minimums, but GPTQ holds zero points: compile the model's floats "
        "(not a GGUF with minimums) for it.",
        graph.origin, matrix.name);
  }
  if (matrix.n() % kInWord != 0 || matrix.k() % kInWord != 0) {
    fail("{}: the weight '{}' has {} columns of {}, but GPTQ packs both in eights.", graph.origin,
         matrix.name, matrix.n(), matrix.k());
  }
  if (format.scale == jit::ScaleType::f16) return;
  const jit::PackedShape shape = jit::packed_shape(format, matrix.packed->n, matrix.k());
  for (const int64_t c : matrix.columns) {
    for (int64_t g = 0; g < shape.groups; ++g) {
      const float scale = jit::packed_scale(*matrix.packed, c, g);
      if (jit::f16_to_f32(jit::f32_to_f16(scale)) == scale) continue;
      fail(
          "{}: the weight '{}' has the scale {}, but GPTQ holds fp16: compile it with --scale "
          "f16.",
          graph.origin, matrix.name, scale);
    }
  }
}

// One group size for all: that of the matrices which are longer than a group.
Layout layout_of(const graph::Graph& graph, const std::vector<HfMatrix>& matrices, bool v2) {
  Layout layout{.v2 = v2};
  int64_t longest_whole = 0;
  std::string first, whole;
  for (const HfMatrix& matrix : matrices) {
    if (!matrix.in_layer) continue;
    check_matrix(graph, matrix);
    layout.asym = layout.asym || matrix.packed->format.asym;
    const int64_t group = group_of(matrix);
    if (group == 0) {
      if (matrix.k() > longest_whole) whole = matrix.name;
      longest_whole = std::max(longest_whole, matrix.k());
      continue;
    }
    if (layout.group < 0) first = matrix.name;
    if (layout.group > 0 && layout.group != group) {
      fail("{}: the weight '{}' has groups of {} and '{}' of {}, but GPTQ has one size for all.",
           graph.origin, first, layout.group, matrix.name, group);
    }
    layout.group = group;
  }
  if (layout.group < 0) layout.group = 0;
  if (layout.group > 0 && longest_whole > layout.group) {
    fail("{}: the weight '{}' has groups of {} and '{}' one of {}, but GPTQ has one size for all.",
         graph.origin, first, layout.group, whole, longest_whole);
  }
  return layout;
}

// The stored numbers of a column of the checkpoint.
struct Column {
  std::vector<uint8_t> q, zeros;
  std::vector<float> scales;

  explicit Column(const HfMatrix& m) {
    const jit::PackedShape shape = jit::packed_shape(m.packed->format, m.packed->n, m.k());
    q.resize(static_cast<size_t>(m.k()));
    zeros.resize(static_cast<size_t>(shape.groups));
    scales.resize(zeros.size());
  }
  void read(const HfMatrix& m, size_t c) {
    jit::unpack_quantized(*m.packed, m.columns[c], q, scales, zeros);
  }
};

void write_words(const std::vector<uint32_t>& words, const ByteSink& sink) {
  sink(std::as_bytes(std::span(words)));
}

void write_values(const HfMatrix& m, const ByteSink& sink) {
  const size_t n = m.columns.size();
  std::vector<uint32_t> words(n * static_cast<size_t>(m.k() / kInWord));
  Column column(m);
  for (size_t c = 0; c < n; ++c) {
    column.read(m, c);
    for (size_t kk = 0; kk < column.q.size(); ++kk) {
      words[kk / kInWord * n + c] |= uint32_t{column.q[kk]} << (kk % kInWord * 4);
    }
  }
  write_words(words, sink);
}

void write_zeros(const HfMatrix& m, bool v2, const ByteSink& sink) {
  const size_t width = m.columns.size() / kInWord;
  Column column(m);
  std::vector<uint32_t> words(column.zeros.size() * width);
  for (size_t c = 0; c < m.columns.size(); ++c) {
    column.read(m, c);
    for (size_t g = 0; g < column.zeros.size(); ++g) {
      const uint32_t stored = (column.zeros[g] + (v2 ? 0U : 15U)) & 15U;  // v1: less 1, modulo 16
      words[g * width + c / kInWord] |= stored << (c % kInWord * 4);
    }
  }
  write_words(words, sink);
}

void write_scales(const HfMatrix& m, const ByteSink& sink) {
  const size_t n = m.columns.size();
  Column column(m);
  std::vector<uint16_t> halves(column.scales.size() * n);
  for (size_t c = 0; c < n; ++c) {
    column.read(m, c);
    for (size_t g = 0; g < column.scales.size(); ++g) {
      halves[g * n + c] = jit::f32_to_f16(column.scales[g]);
    }
  }
  sink(std::as_bytes(std::span<const uint16_t>(halves)));
}

void write_group_numbers(const HfMatrix& m, const ByteSink& sink) {
  const int64_t group = group_of(m) == 0 ? m.k() : group_of(m);
  std::vector<uint32_t> numbers(static_cast<size_t>(m.k()));
  for (size_t kk = 0; kk < numbers.size(); ++kk) {
    numbers[kk] = static_cast<uint32_t>(static_cast<int64_t>(kk) / group);
  }
  write_words(numbers, sink);
}

void add_quantized(const HfMatrix& m, const Layout& layout, std::vector<WrittenTensor>& tensors) {
  const auto groups = static_cast<int64_t>(Column(m).zeros.size());
  const int64_t n = m.n(), k = m.k();
  const bool v2 = layout.v2;
  tensors.push_back({m.name + ".qweight", DType::i32, {k / kInWord, n}, [m](const ByteSink& sink) {
                       write_values(m, sink);
                     }});
  tensors.push_back(
      {m.name + ".qzeros", DType::i32, {groups, n / kInWord}, [m, v2](const ByteSink& sink) {
         write_zeros(m, v2, sink);
       }});
  tensors.push_back({m.name + ".scales", DType::f16, {groups, n}, [m](const ByteSink& sink) {
                       write_scales(m, sink);
                     }});
  tensors.push_back({m.name + ".g_idx", DType::i32, {k}, [m](const ByteSink& sink) {
                       write_group_numbers(m, sink);
                     }});
}

// --- config.json ---

// The model's configuration without what its source said of quantization, and with what the graph
// says of the tie.
ordered_json plain_configuration(const graph::Graph& graph) {
  if (!graph.documents.contains("config.json")) {
    fail(
        "{}: there is no config.json among its documents, which says how a Hugging Face folder "
        "names its tensors.",
        graph.origin);
  }
  ordered_json config =
      runtime::parse_ordered_json(documents::configuration_text(graph), graph.origin);
  config.erase("quantization_config");
  config.erase("compression_config");
  return config;
}

ordered_json quantization_of(const Layout& layout) {
  return {{"quant_method", "gptq"},
          {"bits", 4},
          {"group_size", layout.group == 0 ? -1 : layout.group},
          {"desc_act", false},
          {"sym", !layout.asym},
          {"lm_head", false},
          {"checkpoint_format", layout.v2 ? "gptq_v2" : "gptq"}};
}

// A head that is tied in the configuration may be quantized by itself in the graph.
HfTensors named_tensors(const graph::Graph& graph, ordered_json& config) {
  const std::string origin = graph.origin + ": config.json";
  const auto described = [&] { return describe(decoder::Config::parse(config.dump(), origin)); };
  if (described().tied && !is_tied(graph)) config["tie_word_embeddings"] = false;
  return hf_tensors(graph, decoder::Config::parse(config.dump(), origin));
}

}  // namespace
}  // namespace safetensors

void write_gptq(const graph::Graph& graph, const std::string& folder, const GptqOptions& options) {
  namespace fs = std::filesystem;
  nlohmann::ordered_json config = safetensors::plain_configuration(graph);
  const safetensors::HfTensors named = safetensors::named_tensors(graph, config);
  const auto layout = safetensors::layout_of(graph, named.matrices, options.v2);
  std::vector<safetensors::WrittenTensor> tensors;
  for (const safetensors::HfMatrix& matrix : named.matrices) {
    if (matrix.in_layer) {
      safetensors::add_quantized(matrix, layout, tensors);
    } else {
      tensors.push_back(safetensors::dequantized(matrix));
    }
  }
  for (const safetensors::HfVector& vector : named.vectors) {
    tensors.push_back(safetensors::floats(vector.name, {static_cast<int64_t>(vector.values.size())},
                                          vector.values));
  }
  for (const safetensors::HfTable& table : named.tables) {
    tensors.push_back(
        safetensors::floats(table.name, table.tensor.shape, graph::to_f32(table.tensor)));
  }
  config["quantization_config"] = safetensors::quantization_of(layout);

  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("{}: the folder cannot be made: {}.", folder, error.message());
  safetensors::write_tensor_file((fs::path(folder) / "model.safetensors").string(), tensors);
  documents::write_documents(graph, config.dump(2) + "\n", folder);
}

}  // namespace nibble::frontends
