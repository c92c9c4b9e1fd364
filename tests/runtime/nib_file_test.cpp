#include "runtime/nib_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "jit/error.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble::runtime {
namespace {

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string noise(size_t bytes) {
  std::mt19937_64 random(bytes);
  std::string text;
  text.reserve(bytes + 8);
  while (text.size() < bytes) {
    const uint64_t word = random();
    text.append(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  text.resize(bytes);
  return text;
}

// CRC-32C a bit at a time, straight from its definition.
uint32_t slow_crc(std::string_view text) {
  uint32_t crc = ~0U;
  for (const char c : text) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
  }
  return ~crc;
}

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c(bytes_of("")), 0u);
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283u);            // the check value of CRC-32C
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\0'))), 0x8a9136aau);  // RFC 3720, B.4
}

TEST(Crc32c, EveryPathAgrees) {
  const std::string text = noise(200'000);
  for (const size_t length : {1u, 7u, 8u, 9u, 63u, 1000u, 49151u, 49152u, 49153u, 150'001u}) {
    const std::string_view part = std::string_view(text).substr(3, length);
    const uint32_t expected = slow_crc(part);
    EXPECT_EQ(crc32c(bytes_of(part)), expected) << length;
    EXPECT_EQ(crc32c_by_table(bytes_of(part)), expected) << length;
    const size_t half = length / 3;
    const uint32_t seed = crc32c(bytes_of(part.substr(0, half)));
    EXPECT_EQ(crc32c(bytes_of(part.substr(half)), seed), expected) << length;
    EXPECT_EQ(crc32c_by_table(bytes_of(part.substr(half)), seed), expected) << length;
  }
}

class NibFileTest : public testing::Test {
 protected:
  // A file with sections of many lengths: empty, short, one chunk exactly, several chunks.
  std::string write_sample() {
    NibWriter writer(path_);
    writer.add("meta", bytes_of("{\"a\": 1}"));
    writer.add("empty", {});
    writer.add("weight/1/data", bytes_of(big_), 4096);
    writer.add("one chunk", bytes_of(std::string_view(big_).substr(0, 1 << 20)));
    writer.commit();
    return read_file(path_);
  }
  // A small one, for damage at every byte.
  std::string write_small() {
    NibWriter writer(path_);
    writer.add("meta", bytes_of("hello"));
    writer.add("data", bytes_of(std::string(300, 'd')), 512);
    writer.commit();
    return read_file(path_);
  }
  // The message that opening a file of these bytes ends in; "" when it opens.
  std::string failure(std::string_view text) {
    // Truncating a file in place makes some file systems flush it; a new one is cheap.
    std::filesystem::remove(folder_.path("damaged.nib"));
    folder_.write("damaged.nib", text);
    try {
      NibFile::open(folder_.path("damaged.nib"), &pool_);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  bool mentions(const std::string& message, std::string_view what) {
    return message.find(what) != std::string::npos &&
           message.find(folder_.path("damaged.nib")) != std::string::npos;
  }
  // Recomputes both check sums after a test has changed the directory or the header.
  static std::string sign(std::string text) {
    uint64_t offset = 0;
    std::memcpy(&offset, text.data() + 16, 8);
    const uint64_t start = std::min<uint64_t>(offset, text.size());
    const uint32_t directory = crc32c(bytes_of(std::string_view(text).substr(start)));
    std::memcpy(text.data() + 40, &directory, 4);
    const uint32_t header = crc32c(bytes_of(std::string_view(text).substr(0, 44)));
    std::memcpy(text.data() + 44, &header, 4);
    return text;
  }
  static std::string with_u64(std::string text, size_t at, uint64_t value) {
    std::memcpy(text.data() + at, &value, 8);
    return text;
  }
  static uint64_t u64_at(const std::string& text, size_t at) {
    uint64_t value;
    std::memcpy(&value, text.data() + at, 8);
    return value;
  }

  TemporaryFolder folder_;
  ThreadPool pool_{2};
  std::string path_ = folder_.path("model.nib");
  std::string big_ = noise((3 << 20) + 12345);
};

TEST_F(NibFileTest, RoundTrip) {
  const std::string text = write_sample();
  for (ThreadPool* verify : {static_cast<ThreadPool*>(nullptr), &pool_}) {
    const auto file = NibFile::open(path_, verify);
    ASSERT_EQ(file->sections().size(), 4u);
    EXPECT_EQ(text_of(file->get("meta")), "{\"a\": 1}");
    EXPECT_TRUE(file->get("empty").empty());
    EXPECT_EQ(text_of(file->get("weight/1/data")), big_);
    EXPECT_EQ(text_of(file->get("one chunk")), big_.substr(0, 1 << 20));
    EXPECT_EQ(file->size(), text.size());
    EXPECT_EQ(file->path(), path_);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file->get("weight/1/data").data()) % 4096, 0u);
    for (const auto& section : file->sections()) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(section.bytes.data()) % 64, 0u);
    }
  }
}

TEST_F(NibFileTest, FindsAndMisses) {
  write_small();
  const auto file = NibFile::open(path_, nullptr);
  EXPECT_TRUE(file->find("meta").has_value());
  EXPECT_FALSE(file->find("met").has_value());
  try {
    file->get("nope");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), path_ + ": there is no section named 'nope' in the file.");
  }
}

TEST_F(NibFileTest, SectionsOutliveTheFileObject) {
  write_small();
  const auto file = NibFile::open(path_, nullptr);
  std::filesystem::remove(path_);
  EXPECT_EQ(text_of(file->get("meta")), "hello");
}

TEST_F(NibFileTest, AFileWithoutSectionsIsAFile) {
  NibWriter(path_).commit();
  EXPECT_TRUE(NibFile::open(path_, &pool_)->sections().empty());
}

TEST_F(NibFileTest, TheSameContentIsTheSameFile) { EXPECT_EQ(write_sample(), write_sample()); }

TEST_F(NibFileTest, TheWriterRefusesNonsense) {
  NibWriter writer(path_);
  writer.add("a", bytes_of("x"));
  EXPECT_THROW(writer.add("a", bytes_of("y")), Error);
  EXPECT_THROW(writer.add("", bytes_of("y")), Error);
  EXPECT_THROW(writer.add(std::string(5000, 'n'), bytes_of("y")), Error);
  for (const uint64_t alignment : {0u, 32u, 96u, 8192u}) {
    EXPECT_THROW(writer.add("b", bytes_of("y"), alignment), Error) << alignment;
  }
}

TEST_F(NibFileTest, WithoutCommitThereIsNoFile) {
  {
    NibWriter writer(path_);
    writer.add("a", bytes_of(big_));
  }
  EXPECT_EQ(folder_.entries(), 0);
}

TEST_F(NibFileTest, EveryFlippedBitIsRefused) {
  const std::string good = write_small();
  ASSERT_EQ(failure(good), "");
  for (size_t at = 0; at < good.size(); ++at) {
    for (const int bit : {0, 3, 7}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      EXPECT_NE(failure(bad), "") << "byte " << at << " bit " << bit;
    }
  }
}

TEST_F(NibFileTest, DamageInALargeSectionIsPlaced) {
  std::string bad = write_sample();
  const size_t data = bad.find(big_.substr(0, 64));
  ASSERT_NE(data, std::string::npos);
  bad[data + (2 << 20) + 77] ^= 1;
  const std::string message = failure(bad);
  EXPECT_TRUE(mentions(message, "'weight/1/data'")) << message;
  EXPECT_TRUE(mentions(message, "in the MiB from 2097152")) << message;
  // Without verification only the frame is checked.
  EXPECT_NO_THROW(NibFile::open(folder_.path("damaged.nib"), nullptr));
}

TEST_F(NibFileTest, EveryTruncationIsRefused) {
  const std::string good = write_small();
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(failure(std::string_view(good).substr(0, length)), "") << length;
  }
  const std::string message = failure(std::string_view(good).substr(0, good.size() - 1));
  EXPECT_TRUE(mentions(message, "truncated")) << message;
  EXPECT_TRUE(mentions(failure(good + "x"), "longer than its header says"));
}

TEST_F(NibFileTest, ANewerVersionIsNamed) {
  std::string newer = write_small();
  newer[8] = 2;
  EXPECT_TRUE(mentions(failure(newer), "newer Nibble, or its header is damaged"));
  const std::string message = failure(sign(newer));
  EXPECT_TRUE(mentions(message,
                       "format version 2, but this Nibble reads up to version 1: it was "
                       "written by a newer Nibble."))
      << message;
}

TEST_F(NibFileTest, OtherFilesAreNamed) {
  EXPECT_TRUE(mentions(failure(""), "does not begin with NIBBLE"));
  EXPECT_TRUE(mentions(failure("GGUF and so on"), "does not begin with NIBBLE"));
  std::string unix_ends = write_small();
  unix_ends.erase(6, 1);  // \r\n became \n
  EXPECT_TRUE(mentions(failure(unix_ends), "text mode"));
}

// Files with correct check sums that lie: what a hostile writer would send.
TEST_F(NibFileTest, LyingHeadersAreRefused) {
  const std::string good = write_small();
  std::string flags = good;
  flags[12] = 1;
  EXPECT_TRUE(mentions(failure(sign(flags)), "flags 1"));
  std::string version = good;
  version[8] = 0;
  EXPECT_TRUE(mentions(failure(sign(version)), "found version 0"));
  for (const uint64_t value : {uint64_t{0}, uint64_t{65}, u64_at(good, 16) + 128, UINT64_MAX,
                               UINT64_MAX - 63, uint64_t{1} << 63}) {
    EXPECT_NE(failure(sign(with_u64(good, 16, value))), "") << value;
    EXPECT_NE(failure(sign(with_u64(good, 24, value))), "") << value;
    EXPECT_NE(failure(sign(with_u64(good, 32, value))), "") << value;
  }
}

TEST_F(NibFileTest, LyingDirectoriesAreRefused) {
  const std::string good = write_small();
  const size_t directory = u64_at(good, 16);
  const size_t second = directory + 24 + 4 + 4;  // the first entry: head, "meta", one check
  ASSERT_EQ(good.substr(second + 24, 4), "data");
  for (const size_t field : {0u, 8u, 16u}) {
    for (const uint64_t value :
         {uint64_t{0}, uint64_t{1}, uint64_t{63}, uint64_t{1} << 20, uint64_t{1} << 40,
          uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 63, UINT64_MAX - 511}) {
      EXPECT_NE(failure(sign(with_u64(good, directory + field, value))), "") << field << value;
      EXPECT_NE(failure(sign(with_u64(good, second + field, value))), "") << field << value;
    }
  }
  // The second section on top of the first.
  EXPECT_TRUE(mentions(failure(sign(with_u64(good, second, 64))), "overlaps"));
  // Two of one name.
  std::string twins = good;
  twins.replace(second + 24, 4, "meta");
  EXPECT_TRUE(mentions(failure(sign(twins)), "two sections named 'meta'"));
  // Bytes between sections that nothing accounts for.
  std::string gap = good;
  gap[100] = 1;
  EXPECT_TRUE(mentions(failure(gap), "unknown bytes"));
}

TEST_F(NibFileTest, MissingFilesAndFoldersAreNamed) {
  EXPECT_THROW(NibFile::open(folder_.path("missing.nib"), nullptr), Error);
  EXPECT_THROW(NibFile::open(folder_.folder(), nullptr), Error);
  EXPECT_THROW(NibWriter(folder_.path("no/such.nib")), Error);
}

}  // namespace
}  // namespace nibble::runtime
