#include "runtime/json_text.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/support/error_of.h"

namespace nibble::runtime {
namespace {

using test::error_of;

std::string nested(int depth) {
  std::string text(static_cast<size_t>(depth), '[');
  return text + std::string(static_cast<size_t>(depth), ']');
}

TEST(JsonText, IsReadWithAndWithoutTheOrderOfItsKeys) {
  const std::string text = R"({"b": [1, 2.5, null], "a": {"\"": true}, "b": 3})";
  EXPECT_EQ(parse_json(text, "x").dump(), R"({"a":{"\"":true},"b":3})");
  EXPECT_EQ(parse_ordered_json(text, "x").dump(), R"({"b":3,"a":{"\"":true}})");
}

TEST(JsonText, WhatIsNoJsonIsAnErrorOfItsOrigin) {
  for (const char* text : {"", "{", "[1,]", "{} x", "\"\xff\"", "\"\\", "nul", "]"}) {
    const std::string error = error_of([&] { parse_json(text, "a.json"); });
    EXPECT_EQ(error.find("a.json: this is not valid JSON: "), 0U) << text << ": " << error;
    EXPECT_EQ(error_of([&] { parse_ordered_json(text, "a.json"); }), error);
  }
}

TEST(JsonText, NestingIsLimited) {
  EXPECT_EQ(parse_json(nested(5), "x", 5).dump(), nested(5));
  EXPECT_EQ(error_of([] { parse_json(nested(6), "a.json", 5); }),
            "a.json: objects and lists lie in each other more than 5 deep.");
  EXPECT_NO_THROW(parse_json(nested(kMostJsonDepth), "x"));
  EXPECT_NE(error_of([] { parse_ordered_json(nested(kMostJsonDepth + 1), "x"); }), "");
  // Side by side is not within, and text is only text.
  EXPECT_NO_THROW(parse_json(R"([[], [], {"a": {}}, {}])", "x", 3));
  EXPECT_NO_THROW(parse_json(R"(["[[[[", "\"[[[[", "\\", "{{{{"])", "x", 1));
  EXPECT_NE(error_of([] { parse_json(R"(["\\", [[]]])", "x", 2); }), "");
  // Enough to end the stack of a parser that calls itself.
  EXPECT_NE(error_of([] { parse_json(std::string(1 << 20, '['), "x"); }), "");
}

}  // namespace
}  // namespace nibble::runtime
