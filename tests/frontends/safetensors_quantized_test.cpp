// Checkpoints that are quantized already: every packing is written here number by number as its
// own library writes it, and must be read as the very numbers that it stands for.
#include <gtest/gtest.h>

#include "frontends/decoder/quantized_weights.h"
#include "frontends/safetensors/open_checkpoint.h"
#include "jit/error.h"
#include "jit/packed_layout.h"
#include "quant/formats/quantize.h"
#include "tests/frontends/safetensors_writer.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble {
namespace {

using namespace frontends::decoder;
using frontends::safetensors::open_checkpoint;
using runtime::TemporaryFolder;
using Packing = QuantizationScheme::Packing;

constexpr int64_t kN = 24, kK = 48, kGroup = 16, kGroups = kK / kGroup;

int value(int64_t n, int64_t k) { return static_cast<int>((n * 7 + k * 5 + n * k) % 16); }
int zero(int64_t n, int64_t g) { return static_cast<int>((n * 3 + g * 5) % 16); }
float scale(int64_t n, int64_t g) {
  const float size = 0.03125F * static_cast<float>(1 + (n * 5 + g) % 9);
  return n % 4 == 3 ? -size : size;
}

// Words of eight 4-bit numbers, lowest first, as bytes.
class Words {
 public:
  explicit Words(int64_t count) : words_(static_cast<size_t>(count), 0) {}
  void put(int64_t word, int64_t place, int number) {
    words_[static_cast<size_t>(word)] |= static_cast<uint32_t>(number) << (4 * place);
  }
  std::string_view bytes() const {
    return {reinterpret_cast<const char*>(words_.data()), words_.size() * 4};
  }

 private:
  std::vector<uint32_t> words_;
};

// Where AutoAWQ puts column 8c + i of a word.
constexpr int64_t kAwqPlace[] = {0, 4, 1, 5, 2, 6, 3, 7};

void add_scales(test::SafetensorsWriter& writer, const char* name, bool column_first) {
  std::vector<float> scales;
  for (int64_t i = 0; i < kN * kGroups; ++i) {
    scales.push_back(column_first ? scale(i / kGroups, i % kGroups) : scale(i % kN, i / kN));
  }
  writer.add(name,
             column_first ? std::vector<int64_t>{kN, kGroups} : std::vector<int64_t>{kGroups, kN},
             scales);
}

void add_gptq(test::SafetensorsWriter& writer, int less) {
  Words values(kK / 8 * kN), zeros(kGroups * kN / 8);
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; ++k) values.put(k / 8 * kN + n, k % 8, value(n, k));
    for (int64_t g = 0; g < kGroups; ++g) {
      zeros.put(g * kN / 8 + n / 8, n % 8, (zero(n, g) - less) & 15);
    }
  }
  writer.add_raw("w.qweight", "I32", {kK / 8, kN}, values.bytes());
  writer.add_raw("w.qzeros", "I32", {kGroups, kN / 8}, zeros.bytes());
  add_scales(writer, "w.scales", false);
}

void add_awq(test::SafetensorsWriter& writer) {
  Words values(kK * kN / 8), zeros(kGroups * kN / 8);
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; ++k) values.put(k * kN / 8 + n / 8, kAwqPlace[n % 8], value(n, k));
    for (int64_t g = 0; g < kGroups; ++g) {
      zeros.put(g * kN / 8 + n / 8, kAwqPlace[n % 8], zero(n, g));
    }
  }
  writer.add_raw("w.qweight", "I32", {kK, kN / 8}, values.bytes());
  writer.add_raw("w.qzeros", "I32", {kGroups, kN / 8}, zeros.bytes());
  add_scales(writer, "w.scales", false);
}

void add_compressed(test::SafetensorsWriter& writer, bool asymmetric) {
  Words values(kN * kK / 8), zeros(kN / 8 * kGroups);
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; ++k) values.put(n * kK / 8 + k / 8, k % 8, value(n, k));
    for (int64_t g = 0; g < kGroups; ++g) zeros.put(n / 8 * kGroups + g, n % 8, zero(n, g));
  }
  writer.add_raw("w.weight_packed", "I32", {kN, kK / 8}, values.bytes());
  if (asymmetric) {
    writer.add_raw("w.weight_zero_point", "I32", {kN / 8, kGroups}, zeros.bytes());
  }
  const int64_t shape[] = {kN, kK};
  writer.add_raw("w.weight_shape", "I64", {2}, {reinterpret_cast<const char*>(shape), 16});
  add_scales(writer, "w.weight_scale", true);
}

void add_order(test::SafetensorsWriter& writer, const char* name, int64_t stride) {
  std::vector<int32_t> group_of;
  for (int64_t k = 0; k < kK; ++k) {
    group_of.push_back(static_cast<int32_t>(k * stride % kK / kGroup));
  }
  writer.add_raw(name, "I32", {kK}, {reinterpret_cast<const char*>(group_of.data()), kK * 4});
}

std::shared_ptr<const graph::QuantizedMatrix> read(const test::SafetensorsWriter& writer,
                                                   const QuantizationScheme& scheme) {
  const TemporaryFolder folder;
  Checkpoint checkpoint = open_checkpoint(folder.write("model.safetensors", writer.bytes()));
  EXPECT_TRUE(is_quantized(scheme, "w", checkpoint));
  auto matrix = quantized_matrix(scheme, "w", kN, kK, checkpoint);
  EXPECT_TRUE(checkpoint.untaken().empty());
  return matrix;
}

// The numbers themselves, and those of the packed matrix that is made of them.
void expect_numbers(const std::shared_ptr<const graph::QuantizedMatrix>& matrix, bool zeros) {
  runtime::ThreadPool pool(1);
  const auto source = graph::MatrixSource::whole(matrix);
  std::string why_not;
  const auto format = source.packed_format(why_not);
  ASSERT_TRUE(format) << why_not;
  EXPECT_EQ(format->type, jit::WeightType::u4);
  EXPECT_EQ(format->group, kGroup);
  const auto packed = quant::quantize_matrix(source, *format, quant::RtnRange::full, "w", pool);
  for (int64_t n = 0; n < kN; ++n) {
    std::vector<float> wanted, found(kK), unpacked(kK);
    for (int64_t k = 0; k < kK; ++k) {
      const int middle = zeros ? zero(n, k / kGroup) : 8;
      wanted.push_back(static_cast<float>(value(n, k) - middle) * scale(n, k / kGroup));
    }
    matrix->read_column(n, found);
    EXPECT_EQ(found, wanted) << "column " << n;
    jit::unpack_column(packed.view, n, unpacked);
    EXPECT_EQ(unpacked, wanted) << "packed column " << n;
  }
}

TEST(SafetensorsQuantized, GptqBothVersions) {
  for (const bool first : {true, false}) {
    test::SafetensorsWriter writer;
    add_gptq(writer, first ? 1 : 0);
    add_order(writer, "w.g_idx", 1);
    expect_numbers(read(writer, {Packing::gptq, first, kGroup, false}), true);
  }
}

TEST(SafetensorsQuantized, GroupsMayDifferFromTheConfigurationWhereItSaysSo) {
  test::SafetensorsWriter writer;
  add_gptq(writer, 0);
  expect_numbers(read(writer, {Packing::gptq, false, 48, true}), true);
  EXPECT_THROW(read(writer, {Packing::gptq, false, 48, false}), Error);
}

TEST(SafetensorsQuantized, Awq) {
  test::SafetensorsWriter writer;
  add_awq(writer);
  expect_numbers(read(writer, {Packing::awq, false, kGroup, false}), true);
}

TEST(SafetensorsQuantized, CompressedTensors) {
  for (const bool asymmetric : {true, false}) {
    test::SafetensorsWriter writer;
    add_compressed(writer, asymmetric);
    expect_numbers(read(writer, {Packing::compressed, false, kGroup, false}), asymmetric);
  }
}

// desc_act: every k has the scale and zero point of its own group.
TEST(SafetensorsQuantized, GroupsInAnotherOrder) {
  test::SafetensorsWriter writer;
  add_gptq(writer, 1);
  add_order(writer, "w.g_idx", 5);
  const auto matrix = read(writer, {Packing::gptq, true, kGroup, false});
  std::vector<float> found(kK);
  for (int64_t n = 0; n < kN; ++n) {
    matrix->read_column(n, found);
    for (int64_t k = 0; k < kK; ++k) {
      const int64_t g = k * 5 % kK / kGroup;
      EXPECT_EQ(found[static_cast<size_t>(k)],
                static_cast<float>(value(n, k) - zero(n, g)) * scale(n, g));
    }
  }
  std::string why_not;
  EXPECT_FALSE(graph::MatrixSource::whole(matrix).packed_format(why_not));
  EXPECT_NE(why_not.find("g_idx"), std::string::npos);
}

TEST(SafetensorsQuantized, ConfigurationsSayThePacking) {
  const auto scheme = [](const char* text) {
    return read_quantization(
        Config::parse(std::string("{\"quantization_config\":") + text + "}", "x"));
  };
  EXPECT_EQ(read_quantization(Config::parse("{}", "x")).packing, Packing::none);
  const auto v1 = scheme(R"({"quant_method":"gptq","bits":4,"group_size":128,"desc_act":true})");
  EXPECT_TRUE(v1.packing == Packing::gptq && v1.zeros_less_one && v1.group == 128);
  const auto v2 =
      scheme(R"({"quant_method":"gptq","bits":4,"group_size":-1,"checkpoint_format":"gptq_v2"})");
  EXPECT_TRUE(v2.packing == Packing::gptq && !v2.zeros_less_one && v2.group == 0);
  const auto round = scheme(
      R"({"quant_method":"auto-round","bits":4,"group_size":32,"packing_format":"auto_round"})");
  EXPECT_TRUE(round.packing == Packing::gptq && !round.zeros_less_one);
  const auto awq = scheme(R"({"quant_method":"awq","bits":4,"group_size":64,"version":"gemm"})");
  EXPECT_TRUE(awq.packing == Packing::awq && awq.group == 64);
  const auto packed = scheme(
      R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":)"
      R"({"weights":{"num_bits":4,"type":"int","strategy":"group","group_size":128}}}})");
  EXPECT_TRUE(packed.packing == Packing::compressed && packed.group == 128);
  for (const char* text :
       {R"({"quant_method":"gptq","bits":3,"group_size":128})",
        R"({"quant_method":"bitsandbytes"})",
        R"({"quant_method":"gptq","bits":4,"group_size":128,"checkpoint_format":"marlin"})",
        R"({"quant_method":"awq","bits":4,"group_size":64,"version":"gemv"})",
        R"({"quant_method":"compressed-tensors","format":"float-quantized"})"}) {
    EXPECT_THROW(scheme(text), Error) << text;
  }
}

}  // namespace
}  // namespace nibble
