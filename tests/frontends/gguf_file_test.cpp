// The GGUF reader: what a sound file says, and one sentence for every way of being damaged.
#include "frontends/gguf/gguf_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <limits>

#include "frontends/gguf/ggml_numbers.h"
#include "frontends/gguf/gguf_parts.h"
#include "jit/error.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/error_of.h"
#include "tests/support/gguf_builder.h"

namespace nibble::frontends::gguf {
namespace {

using test::GgufBuilder;

class GgufFileTest : public ::testing::Test {
 protected:
  File read(const std::string& bytes) { return File::open(folder_.write("model.gguf", bytes)); }
  std::string refusal(const std::string& bytes) {
    try {
      read(bytes);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  void expect_refused(const std::string& bytes, const std::string& part) {
    const std::string message = refusal(bytes);
    EXPECT_NE(message.find(part), std::string::npos) << "found: " << message;
    EXPECT_NE(message.find("model.gguf"), std::string::npos) << message;
  }
  runtime::TemporaryFolder folder_;
};

TEST_F(GgufFileTest, ReadsWhatIsThere) {
  for (const uint32_t version : {2U, 3U}) {
    GgufBuilder make(version);
    make.string("general.architecture", "llama").u32("llama.block_count", 7).f32("eps", 0.5F);
    make.boolean("flag", true).strings("tokens", {"a", "", "bc"});
    make.numbers<int32_t>("types", 5, {1, -3}).numbers<float>("scores", 6, {0.5F, -1.0F});
    make.raw("small", 1, std::string(1, '\xFE'))
        .raw("large", 10, GgufBuilder::number(~uint64_t{0}));
    make.raw("long", 12, GgufBuilder::number(0.25));
    make.tensor("a", 0, {3, 2}, GgufBuilder::floats({1, 2, 3, 4, 5, 6}));
    make.tensor("b", 0, {1}, GgufBuilder::floats({7}));
    const File file = read(make.file());
    EXPECT_EQ(file.text("general.architecture"), "llama");
    EXPECT_EQ(file.integer("llama.block_count"), 7);
    EXPECT_EQ(file.integer("small"), -2);
    EXPECT_EQ(file.integer("absent", 9), 9);
    EXPECT_EQ(file.real("eps"), 0.5);
    EXPECT_EQ(file.real("long"), 0.25);
    EXPECT_TRUE(file.boolean("flag", false));
    ASSERT_EQ(file.texts("tokens").size(), 3U);
    EXPECT_EQ(file.texts("tokens")[2], "bc");
    EXPECT_EQ(file.integers("types"), (std::vector<int64_t>{1, -3}));
    EXPECT_EQ(file.reals("scores"), (std::vector<float>{0.5F, -1.0F}));
    const Tensor& a = file.tensor("a", std::array<int64_t, 2>{2, 3});
    float last;
    std::memcpy(&last, &a.data[20], 4);
    EXPECT_EQ(last, 6.0F);
    ASSERT_NE(file.find("b"), nullptr);
    EXPECT_EQ(file.find("b")->data.size(), 4U);
    EXPECT_EQ(file.find("c"), nullptr);
    EXPECT_THROW(file.integer("absent"), Error);
    EXPECT_THROW(file.integer("large"), Error);
    EXPECT_THROW(file.integer("eps"), Error);
    EXPECT_THROW(file.text("flag"), Error);
    EXPECT_THROW(file.texts("types"), Error);
    EXPECT_THROW(file.reals("types"), Error);
    EXPECT_THROW(file.tensor("a", std::array<int64_t, 2>{3, 2}), Error);
    EXPECT_THROW(file.tensor("c", std::array<int64_t, 1>{1}), Error);
  }
}

TEST_F(GgufFileTest, TensorsStandAtTheFilesOwnAlignment) {
  GgufBuilder make;
  make.u32("general.alignment", 256).align(256);
  make.tensor("a", 0, {1}, GgufBuilder::floats({1})).tensor("b", 0, {1}, GgufBuilder::floats({2}));
  const File file = read(make.file());
  EXPECT_EQ((file.find("b")->data.data() - file.find("b")->file->bytes().data()) % 256, 0);
  expect_refused(GgufBuilder().u32("general.alignment", 24).file(), "power of two");
}

TEST_F(GgufFileTest, EveryShorterFileIsRefused) {
  GgufBuilder make;
  make.string("k", "value").strings("l", {"x", "y"}).numbers<float>("n", 6, {1, 2});
  make.tensor("a", 0, {2}, GgufBuilder::floats({1, 2}));
  const std::string whole = make.file();
  EXPECT_EQ(refusal(whole), "");
  for (size_t n = 1; n < whole.size(); ++n) EXPECT_NE(refusal(whole.substr(0, n)), "") << n;
}

// Whatever a flipped bit makes of it, the file is read or refused, and what is read is inside it.
TEST_F(GgufFileTest, FlippedBitsNeverLeadOutside) {
  GgufBuilder make;
  make.string("k", "v").strings("l", {"x", "yy"}).numbers<float>("n", 6, {1, 2}).boolean("b", true);
  make.tensor("a", 8, {32, 2}, std::string(68, '\1')).tensor("c", 0, {2, 2}, std::string(16, '\2'));
  const std::string whole = make.file();
  unsigned sum = 0;
  for (size_t bit = 0; bit < 8 * whole.size(); bit += 3) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    try {
      const File file = read(damaged);
      for (const Tensor& tensor : file.tensors()) {
        for (const std::byte b : tensor.data) sum += std::to_integer<unsigned>(b);
      }
    } catch (const Error&) {
    }
  }
  EXPECT_GT(sum, 0U);
}

TEST_F(GgufFileTest, DamageIsNamed) {
  expect_refused("", "");
  expect_refused("GGML" + std::string(20, '\0'), "does not begin with 'GGUF'");
  expect_refused(GgufBuilder(1).file(), "version 1");
  expect_refused(GgufBuilder(0x03000000).file(), "big-endian");
  const auto head = [](uint64_t tensors, uint64_t values) {
    return "GGUF" + GgufBuilder::number(3) + GgufBuilder::number(tensors) +
           GgufBuilder::number(values);
  };
  expect_refused(head(~uint64_t{0}, 0), "number of tensors");
  expect_refused(head(0, uint64_t{1} << 40), "number of metadata entries");
  expect_refused(head(0, 1) + GgufBuilder::number(~uint64_t{0}), "key of a metadata entry");
  expect_refused(GgufBuilder().raw("k", 13, "").file(), "type 13");
  expect_refused(GgufBuilder().raw("k", 8, GgufBuilder::number(~uint64_t{0})).file(), "'k'");
  expect_refused(GgufBuilder().raw("k", 7, "\2").file(), "boolean of value 2");
  expect_refused(GgufBuilder().u32("k", 1).u32("k", 1).file(), "twice");
  const std::string many = GgufBuilder::number(uint64_t{1} << 62);
  expect_refused(GgufBuilder().raw("k", 9, GgufBuilder::number(10) + many).file(), "room for");
  expect_refused(GgufBuilder().raw("k", 9, GgufBuilder::number(8) + many).file(), "room for");
  expect_refused(
      GgufBuilder().raw("k", 9, GgufBuilder::number(9) + GgufBuilder::number(uint64_t{1})).file(),
      "list of lists");
}

TEST_F(GgufFileTest, DamagedTensorsAreNamed) {
  const std::string one = GgufBuilder::floats({1});
  expect_refused(GgufBuilder().tensor("t", 0, {}, one).file(), "0 dimensions");
  expect_refused(GgufBuilder().tensor("t", 0, {1, 1, 1, 1, 1}, one).file(), "5 dimensions");
  expect_refused(GgufBuilder().tensor("t", 0, {0}, one).file(), "dimension of 0");
  expect_refused(GgufBuilder().tensor("t", 0, {uint64_t{1} << 32, uint64_t{1} << 32}, one).file(),
                 "elements");
  expect_refused(GgufBuilder().tensor("t", 0, {~uint64_t{0}}, one).file(), "elements");
  expect_refused(GgufBuilder().tensor("t", 4, {32}, one).file(), "type 4");
  expect_refused(GgufBuilder().tensor("t", 2, {33}, one).file(), "multiple of the 32");
  expect_refused(GgufBuilder().tensor("t", 0, {2}, one).file(), "ends past");
  expect_refused(GgufBuilder().tensor_at("t", 0, {1}, 4, one).file(), "multiple of 32");
  expect_refused(GgufBuilder().tensor_at("t", 0, {1}, ~uint64_t{31}, one).file(), "ends past");
  expect_refused(GgufBuilder().tensor("t", 0, {1}, one).tensor("t", 0, {1}, one).file(), "twice");
  expect_refused(
      GgufBuilder().tensor("t", 0, {16}, std::string(64, 'x')).tensor_at("u", 0, {1}, 32).file(),
      "overlap");
}

TEST_F(GgufFileTest, AlignmentsThatMakeNoSense) {
  for (const uint32_t alignment : {0U, 1U, 4U, 24U, 1U << 21, 1U << 31, ~0U}) {
    expect_refused(GgufBuilder().u32("general.alignment", alignment).file(), "power of two");
  }
  expect_refused(GgufBuilder().string("general.alignment", "32").file(), "general.alignment");
  // A directory that fits, and data that begin past the end.
  GgufBuilder far;
  far.u32("general.alignment", 1 << 20).tensor_at("t", 0, {1}, 0);
  expect_refused(far.file(), "ends past");
}

TEST_F(GgufFileTest, MoreThanAnyModelHas) {
  const auto head = [](uint64_t tensors, uint64_t values) {
    return "GGUF" + GgufBuilder::number(3) + GgufBuilder::number(tensors) +
           GgufBuilder::number(values);
  };
  expect_refused(head((1 << 17) + 1, 0), "at most 131072");
  expect_refused(head(0, (1 << 16) + 1), "at most 65536");
  const File file =
      read(GgufBuilder().numbers<int8_t>("k", 1, std::vector<int8_t>((1 << 22) + 1, 7)).file());
  try {
    file.integers("k");
    ADD_FAILURE() << "bytes became integers of eight bytes without end";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("at most 4194304"), std::string::npos) << error.what();
  }
}

// ---- weights ----

// Bytes of a fixed generator; scales in place of some.
std::vector<std::byte> block_bytes(int64_t count) {
  uint32_t x = 7;
  std::vector<std::byte> out;
  for (int64_t i = 0; i < count; ++i) {
    x = (x * 1103515245U + 12345U) & 0x7FFFFFFFU;
    out.push_back(static_cast<std::byte>(x >> 16 & 255U));
  }
  return out;
}

struct Golden {
  const char* name;
  GgmlType type;
  uint64_t hash;  // FNV-1a of the bytes of two blocks' floats
  float some[4];  // the first, the 18th, the last of the first block, the 6th of the second
};

// By dequantize() of ggml's Python package (gguf 0.17), in fp32.
constexpr Golden kGolden[] = {
    {"Q4_0",
     GgmlType::q4_0,
     0xe526a634f6d87e94U,
     {-0.194946289F, 0.0487365723F, -0.0974731445F, -0.389892578F}},
    {"Q4_1",
     GgmlType::q4_1,
     0x609ae47ab10bea4cU,
     {-0.0143127441F, -0.0630493164F, -0.0630493164F, 0.131896973F}},
    {"Q5_0",
     GgmlType::q5_0,
     0x02e42f7919740e78U,
     {-0.682312012F, 0.0974731445F, -0.682312012F, -0.292419434F}},
    {"Q5_1",
     GgmlType::q5_1,
     0x5a76358fc6b8256aU,
     {0.667999268F, 1.10662842F, 0.473052979F, 1.00915527F}},
    {"Q8_0",
     GgmlType::q8_0,
     0x5e84b50c5c33f67cU,
     {5.65344238F, 1.7545166F, -5.75091553F, 1.46209717F}},
    {"Q2_K",
     GgmlType::q2_k,
     0xd33ec1a2aff27cd8U,
     {0.524642944F, 1.32449341F, 0.154815674F, -0.050163269F}},
    {"Q3_K",
     GgmlType::q3_k,
     0xe84ee04fd1cdf406U,
     {-0.877258301F, 1.02346802F, 1.16967773F, -4.24008179F}},
    {"Q4_K",
     GgmlType::q4_k,
     0x8a900108e7245e72U,
     {7.84235382F, 8.76834869F, 0.154815674F, 7.86094666F}},
    {"Q5_K",
     GgmlType::q5_k,
     0x88a95feee6c35a93U,
     {23.5842667F, 0.434394836F, 2.78659058F, 13.0184174F}},
    {"Q6_K",
     GgmlType::q6_k,
     0x3c3538bd01022303U,
     {-152.837891F, -139.386597F, 12.2816162F, 13.3050842F}},
};

// Where blocks keep fp16 numbers: the common scale, and the minimum or its scale.
void put_halves(GgmlType type, std::byte* block) {
  const auto put = [&](int at, uint16_t bits) { std::memcpy(block + at, &bits, 2); };
  switch (type) {
    case GgmlType::q2_k:
      put(80, 0x2A3D);
      return put(82, 0x2123);
    case GgmlType::q3_k:
      return put(108, 0x2A3D);
    case GgmlType::q6_k:
      return put(208, 0x2A3D);
    case GgmlType::q4_k:
    case GgmlType::q5_k:
      put(0, 0x2A3D);
      return put(2, 0x2123);
    case GgmlType::q4_1:
    case GgmlType::q5_1:
      put(0, 0x2A3D);
      return put(2, 0xB123);
    default:
      return put(0, 0x2A3D);
  }
}

TEST(GgmlTypes, DequantizeLikeGgml) {
  for (const Golden& golden : kGolden) {
    const GgmlBlock& block = ggml_block(golden.type);
    auto bytes = block_bytes(2 * block.bytes);
    put_halves(golden.type, bytes.data());
    put_halves(golden.type, bytes.data() + block.bytes);
    std::vector<float> out(static_cast<size_t>(2 * block.elements));
    dequantize(golden.type, bytes, out);
    const auto n = static_cast<size_t>(block.elements);
    EXPECT_EQ(out[0], golden.some[0]) << golden.name;
    EXPECT_EQ(out[17], golden.some[1]) << golden.name;
    EXPECT_EQ(out[n - 1], golden.some[2]) << golden.name;
    EXPECT_EQ(out[n + 5], golden.some[3]) << golden.name;
    uint64_t hash = 0xCBF29CE484222325U;
    for (const std::byte b : std::as_bytes(std::span(out))) {
      hash = (hash ^ std::to_integer<uint64_t>(b)) * 0x100000001B3U;
    }
    EXPECT_EQ(hash, golden.hash) << golden.name;
  }
}

// What gguf-split writes: the metadata in the first part, tensors in all.
GgufBuilder part(uint16_t no, uint16_t count, const std::string& tensor) {
  GgufBuilder make;
  if (no == 0) make.string("general.architecture", "llama").u32("split.tensors.count", 3);
  make.raw("split.no", 2, GgufBuilder::number(no));
  make.raw("split.count", 2, GgufBuilder::number(count));
  make.tensor(tensor, 0, {1}, GgufBuilder::floats({static_cast<float>(no)}));
  return make;
}

TEST_F(GgufFileTest, PartsAreOneFile) {
  std::vector<std::string> paths;
  for (uint16_t i = 0; i < 3; ++i) {
    paths.push_back(folder_.write(fmt::format("m-{:05}-of-00003.gguf", i + 1),
                                  part(i, 3, fmt::format("t{}", i)).file()));
  }
  for (const std::string& path : paths) {
    EXPECT_EQ(part_paths(path), paths);
    const File file = File::open(path);
    EXPECT_EQ(file.path(), paths[0]);
    EXPECT_EQ(file.text("general.architecture"), "llama");
    ASSERT_EQ(file.tensors().size(), 3U);
    for (int i = 0; i < 3; ++i) {
      const Tensor* tensor = file.find(fmt::format("t{}", i));
      ASSERT_NE(tensor, nullptr);
      float value = -1;
      std::memcpy(&value, tensor->data.data(), sizeof(value));
      EXPECT_EQ(value, static_cast<float>(i));
      EXPECT_EQ(tensor->file->path(), paths[static_cast<size_t>(i)]);
    }
  }
}

TEST_F(GgufFileTest, PartsThatDoNotBelongTogetherAreRefused) {
  const auto refusal_of = [&](const GgufBuilder& second) {
    folder_.write("m-00002-of-00002.gguf", second.file());
    return test::error_of([&] { File::open(folder_.path("m-00001-of-00002.gguf")); });
  };
  const auto expect_part = [](const std::string& message, const std::string& wanted) {
    EXPECT_NE(message.find(wanted), std::string::npos) << message;
  };
  folder_.write("m-00001-of-00002.gguf", part(0, 2, "a").file());
  expect_part(test::error_of([&] { File::open(folder_.path("m-00001-of-00002.gguf")); }),
              "m-00002-of-00002.gguf");
  expect_part(refusal_of(part(0, 2, "b")),
              "the metadata says part 0 (from 0) of 2, but 1 of 2 is expected");
  expect_part(refusal_of(part(1, 3, "b")), "part 1 (from 0) of 3");
  expect_part(refusal_of(part(1, 2, "a")), "tensor 'a' is in an earlier part too");
  expect_part(refusal_of(part(1, 2, "b")), "is 3, but the 2 parts hold 2 tensors");
  expect_refused(part(0, 2, "a").file(), "a part is named NAME-00001-of-00002.gguf");
}

TEST_F(GgufFileTest, AFileOfNoPartsOrOneIsWhole) {
  for (const uint16_t count : {uint16_t{0}, uint16_t{1}}) {
    GgufBuilder make;
    make.raw("split.count", 2, GgufBuilder::number(count));
    make.tensor("a", 0, {1}, GgufBuilder::floats({1}));
    EXPECT_EQ(read(make.file()).tensors().size(), 1U) << count;
  }
}

TEST(GgufParts, OtherNamesAreOfNoPart) {
  for (const char* path :
       {"", "m.gguf", "m-00001-of-00002.bin", "m-00003-of-00002.gguf", "-00001-of-00002.gguf",
        "m-00000-of-00002.gguf", "m-0001-of-00002.gguf", "m-000+1-of-00002.gguf",
        "m_00001-of-00002.gguf", "m-00001-of_00002.gguf"}) {
    EXPECT_EQ(part_paths(path), std::vector<std::string>()) << path;
  }
}

TEST(GgmlTypes, OnlyQuantizedTypesHaveNumbers) {
  for (const GgmlType type : {GgmlType::f32, GgmlType::bf16, GgmlType::i8}) {
    EXPECT_FALSE(packed_format(type)) << ggml_block(type).name;
  }
  EXPECT_EQ(
      packed_format(GgmlType::q6_k),
      (jit::WeightFormat{.type = jit::WeightType::u6, .group = 16, .scale = jit::ScaleType::q8}));

  EXPECT_FALSE(is_weight(GgmlType::i32));
  EXPECT_FALSE(is_weight(GgmlType::f64));
  EXPECT_TRUE(is_weight(GgmlType::bf16));
  EXPECT_TRUE(is_weight(GgmlType::q6_k));
  const std::array<std::byte, 8> bytes{};
  float out = 0;
  EXPECT_THROW(dequantize(GgmlType::i32, bytes, {&out, 1}), Error);
}

}  // namespace
}  // namespace nibble::frontends::gguf
