// The reader of .safetensors files: what it takes, and every lie that a header can tell.
#include <gtest/gtest.h>

#include "frontends/safetensors/tensor_file.h"
#include "jit/error.h"
#include "tests/frontends/safetensors_writer.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble {
namespace {

using frontends::safetensors::read_tensor_file;
using frontends::safetensors::TensorFile;
using test::safetensors_bytes;

TensorFile read(const std::string& bytes) {
  const runtime::TemporaryFolder folder;
  return read_tensor_file(folder.write("model.safetensors", bytes));
}

std::string reading_error(const std::string& bytes) {
  try {
    read(bytes);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(SafetensorsFile, TensorsAreWhereTheHeaderSays) {
  const std::string header = R"({"b":{"dtype":"F32","shape":[1,2],"data_offsets":[2,10]},)"
                             R"("a":{"shape":[],"data_offsets":[0,2],"dtype":"BF16"},)"
                             R"("none":{"dtype":"I64","shape":[0,5],"data_offsets":[10,10]},)"
                             R"("__metadata__":{"format":"pt","other":"text"}}     )";
  std::string data = "\x80\x3f";
  const float values[] = {2.5F, -3.0F};
  data.append(reinterpret_cast<const char*>(values), sizeof(values));
  const TensorFile file = read(safetensors_bytes(header, data));
  ASSERT_EQ(file.tensors.size(), 3U);
  EXPECT_EQ(file.tensors[0].name, "a");
  EXPECT_EQ(graph::to_f32(file.tensors[0].tensor), std::vector<float>{1.0F});
  EXPECT_EQ(file.tensors[1].name, "b");
  EXPECT_EQ(file.tensors[1].tensor.shape, (graph::Shape{1, 2}));
  EXPECT_EQ(graph::to_f32(file.tensors[1].tensor), (std::vector<float>{2.5F, -3.0F}));
  EXPECT_EQ(file.tensors[2].tensor.bytes, 0U);
}

TEST(SafetensorsFile, AFileWithoutTensorsIsNoError) {
  EXPECT_TRUE(read(safetensors_bytes("{}", "")).tensors.empty());
}

struct Lie {
  const char* header;
  size_t data_bytes;
  const char* complaint;  // part of the message
};

TEST(SafetensorsFile, LiesAreNamed) {
  const Lie lies[] = {
      {"", 0, "does not begin with '{'"},
      {" {}", 0, "does not begin with '{'"},
      {"{", 0, "not valid JSON"},
      {"{}x", 0, "not valid JSON"},
      {"{\"a\xff\":{}}", 0, "not valid JSON"},
      {R"({"a":1})", 0, "should be an object"},
      {R"({"a":null})", 0, "should be an object"},
      {R"({"a":[]})", 0, "should be an object"},
      {R"({"a":{}})", 0, "tensor 'a' has no dtype"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "tensor 'a' has no data_offsets"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "tensor 'a' has no shape"},
      {R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", 4, "\"F8_E4M3\""},
      {R"({"a":{"dtype":7,"shape":[4],"data_offsets":[0,4]}})", 4, "a number"},
      {R"({"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", 4, "text"},
      {R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, "an array"},
      {R"({"a":{"dtype":"F32","shape":[{}],"data_offsets":[0,4]}})", 4, "an object"},
      {R"({"a":{"dtype":"F32","shape":{},"data_offsets":[0,4]}})", 4, "an object"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "negative number -1"},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "1.0"},
      {R"({"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}})", 4, "1e0"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "two offsets"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}})", 4, "more than two"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "there are 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, "there are 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,0]}})", 4,
       "there are 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}})", 4,
       "18446744073709551616"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "takes 8 bytes"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0,
       "too large"},
      {R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]}})", 0,
       "too large"},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4,
       "more than 8 dimensions"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8, "end at byte 4"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "a hole"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "they overlap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "'a' twice"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "twice"},
      {R"({"a":{"dtype":"F32","shape":[],"shape":[1],"data_offsets":[0,4]}})", 4, "twice"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}})", 4, "not known"},
      {R"({"__metadata__":{"a":1}})", 0, "__metadata__ should be text"},
      {R"({"__metadata__":{"a":{}}})", 0, "__metadata__ should be text"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "twice"},
  };
  for (const Lie& lie : lies) {
    const std::string message =
        reading_error(safetensors_bytes(lie.header, std::string(lie.data_bytes, '\0')));
    EXPECT_NE(message.find(lie.complaint), std::string::npos)
        << lie.header << "\n  found: " << message << "\n  expected: " << lie.complaint;
  }
}

TEST(SafetensorsFile, LengthsThatLieAreNamed) {
  EXPECT_NE(reading_error("1234567").find("only 7"), std::string::npos);
  std::string bytes = safetensors_bytes("{}", "");
  bytes[0] = 3;
  EXPECT_NE(reading_error(bytes).find("only 2 follow"), std::string::npos);
  for (int i = 0; i < 8; ++i) bytes[static_cast<size_t>(i)] = '\xff';
  EXPECT_NE(reading_error(bytes).find("allowed at most"), std::string::npos);
}

TEST(SafetensorsFile, DeepNestingEndsAtItsThirdLevel) {
  const std::string deep(100000, '[');
  EXPECT_NE(reading_error(safetensors_bytes("{\"a\":" + deep, "")).find("an array"),
            std::string::npos);
}

TEST(SafetensorsFile, MoreTensorsThanAnyModelHas) {
  std::string header = "{";
  for (int i = 0; i <= 1 << 17; ++i)
    header += "\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},";
  header.back() = '}';
  EXPECT_NE(reading_error(safetensors_bytes(header, "")).find("more than 131072 tensors"),
            std::string::npos);
}

// Every prefix of a good file is refused.
TEST(SafetensorsFile, TruncatedFilesAreRefused) {
  test::SafetensorsWriter writer;
  writer.add("weight", {2, 3}, {1, 2, 3, 4, 5, 6});
  const std::string bytes = writer.bytes();
  EXPECT_EQ(reading_error(bytes), "");
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(reading_error(bytes.substr(0, length)), "") << length;
  }
}

}  // namespace
}  // namespace nibble
