#include "quant/calibration/default_text.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

namespace nibble::quant {
namespace {

std::vector<std::string_view> documents(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const size_t end = text.find("\n\n");
    out.push_back(text.substr(0, end));
    text.remove_prefix(end == text.npos ? text.size() : end + 2);
  }
  return out;
}

// The code points of a text, with 0xFFFFFFFF for each byte that is not part of valid UTF-8: that is
// alone, in an overlong form, of a surrogate, or of a value beyond U+10FFFF.
std::vector<uint32_t> code_points(std::string_view text) {
  constexpr uint32_t kBad = 0xFFFFFFFF;
  std::vector<uint32_t> out;
  for (size_t at = 0; at < text.size();) {
    const auto first = static_cast<uint8_t>(text[at]);
    const size_t length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : 4;
    uint32_t point = length == 1 ? first : first & (0x7FU >> length);
    bool good = (first < 0x80 || first >= 0xC2) && first < 0xF5 && at + length <= text.size();
    for (size_t i = 1; good && i < length; ++i) {
      const auto next = static_cast<uint8_t>(text[at + i]);
      good = next >> 6 == 2;
      point = point << 6 | (next & 0x3FU);
    }
    constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
    good = good && point >= kSmallest[length] && point <= 0x10FFFF &&
           (point < 0xD800 || point > 0xDFFF);
    out.push_back(good ? point : kBad);
    at += good ? length : 1;
  }
  return out;
}

TEST(DefaultTextTest, IsTheFileByteForByte) {
  const std::string path = NIBBLE_SOURCE_DIR "/quant/calibration/default.txt";
  std::ifstream file(path, std::ios::binary);
  const std::string wanted{std::istreambuf_iterator<char>(file), {}};
  ASSERT_GE(wanted.size(), 50'000U) << path;
  EXPECT_TRUE(default_calibration_text() == wanted)
      << "the program holds another text than " << path;
}

TEST(DefaultTextTest, IsUtf8WithoutControlCharacters) {
  size_t place = 0;
  for (const uint32_t point : code_points(default_calibration_text())) {
    ASSERT_LE(point, 0x10FFFFU) << "not UTF-8 after " << place << " characters";
    ASSERT_TRUE(point >= 0x20 || point == '\n') << "a control character after " << place;
    ASSERT_NE(point, 0xFFFDU) << "a replacement character after " << place;
    ++place;
  }
}

TEST(DefaultTextTest, DocumentsAreManyDifferentAndNeitherShortNorLong) {
  const auto all = documents(default_calibration_text());
  EXPECT_GE(all.size(), 90U);
  std::set<std::string_view> beginnings;
  for (const std::string_view document : all) {
    EXPECT_GE(document.size(), 150U) << document;
    EXPECT_LE(document.size(), 2500U) << document;
    EXPECT_NE(document.front(), '\n') << "two blank lines before: " << document;
    EXPECT_TRUE(beginnings.insert(document.substr(0, 40)).second)
        << "begins as another: " << document;
  }
}

// Each script uses other rows of the embedding and other directions of the activations.
TEST(DefaultTextTest, SpeaksInManyScripts) {
  struct Script {
    const char* name;
    uint32_t first, last;
    size_t least;
    size_t found = 0;
  };
  Script scripts[] = {{"Latin", 'A', 'z', 25'000},          {"digits", '0', '9', 1'000},
                      {"accented Latin", 0xC0, 0x17F, 150}, {"Cyrillic", 0x400, 0x4FF, 800},
                      {"Arabic", 0x600, 0x6FF, 700},        {"Devanagari", 0x900, 0x97F, 800},
                      {"kana", 0x3040, 0x30FF, 300},        {"Han", 0x4E00, 0x9FFF, 600},
                      {"Hangul", 0xAC00, 0xD7A3, 350}};
  for (const uint32_t point : code_points(default_calibration_text())) {
    for (Script& script : scripts) script.found += point >= script.first && point <= script.last;
  }
  for (const Script& script : scripts) EXPECT_GE(script.found, script.least) << script.name;
}

}  // namespace
}  // namespace nibble::quant
