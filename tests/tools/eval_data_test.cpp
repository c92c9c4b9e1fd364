// Texts and questions as they are published, and lines that are not.
#include "tools/cli/eval_data.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "jit/error.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble::cli {
namespace {

using runtime::TemporaryFolder;

// The one question of a line, as "context|continuation (length)" a choice and the label.
std::vector<std::string> question(const std::string& line) {
  const TemporaryFolder folder;
  const auto items = read_choices(folder.write("one.jsonl", line + "\n"));
  EXPECT_EQ(items.size(), 1U);
  std::vector<std::string> out;
  for (size_t i = 0; i < items[0].choices.size(); ++i) {
    const Pair& pair = items[0].choices[i];
    out.push_back(fmt::format("{}|{} ({})", pair.context, pair.continuation, items[0].lengths[i]));
  }
  out.push_back(std::to_string(items[0].label));
  return out;
}

using Lines = std::vector<std::string>;

TEST(EvalData, HellaSwag) {
  EXPECT_EQ(question(R"({"ctx": "A man runs. He", "endings": ["stops.", "flies."], "label": "1"})"),
            (Lines{"A man runs. He| stops. (6)", "A man runs. He| flies. (6)", "1"}));
  const std::string long_form =
      R"({"activity_label": "Roof work", "ctx": "unused", "ctx_a": "A man is up. ", )"
      R"("ctx_b": "he Looks", "endings": ["[step] down  there.", "on [title] Rest [substeps] )"
      R"(now."], "label": 0, "ind": 4})";
  EXPECT_EQ(question(long_form),
            (Lines{"Roof work: A man is up. He looks| down there. (12)",
                   "Roof work: A man is up. He looks| on. Rest now. (13)", "0"}));
}

TEST(EvalData, Piqa) {
  EXPECT_EQ(
      question(R"({"goal": "To dry", "sol1": "wait", "sol2": "blow \u00e9", "label": 1})"),
      (Lines{"Question: To dry\nAnswer:| wait (4)", "Question: To dry\nAnswer:| blow é (6)", "1"}));
}

TEST(EvalData, WinoGrandeScoresWhatComesBehind) {
  EXPECT_EQ(question(R"({"sentence": "The cup missed the bag as the _ was small .", )"
                     R"("option1": "cup", "option2": "bag", "answer": "2"})"),
            (Lines{"The cup missed the bag as the cup| was small . (11)",
                   "The cup missed the bag as the bag| was small . (11)", "1"}));
}

TEST(EvalData, AnyQuestion) {
  EXPECT_EQ(question(R"({"context": "2 + 2 =", "choices": ["4", "5", " 6"], "label": 0})"),
            (Lines{"2 + 2 =| 4 (1)", "2 + 2 =| 5 (1)", "2 + 2 =| 6 (2)", "0"}));
  EXPECT_EQ(question(R"({"context": "", "choices": ["a", "b"], "label": 1})"),
            (Lines{"|a (1)", "|b (1)", "1"}));
  EXPECT_EQ(question(R"({"context": "x ", "choices": ["a", "b"], "label": 1})"),
            (Lines{"x |a (1)", "x |b (1)", "1"}));
}

TEST(EvalData, BlankLinesAndCarriageReturnsAreNothing) {
  const TemporaryFolder folder;
  const auto items = read_choices(
      folder.write("two.jsonl",
                   "\n{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"label\": 0}\r\n  \n"
                   "{\"context\": \"d\", \"choices\": [\"a\", \"b\"], \"label\": 1}"));
  ASSERT_EQ(items.size(), 2U);
  EXPECT_EQ(items[0].line, 2);
  EXPECT_EQ(items[1].line, 4);
}

template <typename Read>
std::string failure(const std::string& name, const std::string& contents, Read&& read) {
  const TemporaryFolder folder;
  try {
    read(folder.write(name, contents));
  } catch (const Error& error) {
    std::string message = error.what();
    const size_t at = message.find(folder.folder() + "/");
    EXPECT_NE(at, std::string::npos) << message;
    return message.erase(0, at + folder.folder().size() + 1);
  }
  return "";
}

void expect_bad(const std::string& line, const std::string& expected) {
  const std::string good = R"({"context": "c", "choices": ["a", "b"], "label": 0})";
  const std::string found = failure("q.jsonl", good + "\n" + line + "\n",
                                    [](const std::string& path) { read_choices(path); });
  EXPECT_EQ(found.substr(0, 15), "q.jsonl: line 2") << found;
  EXPECT_NE(found.find(expected), std::string::npos) << line << "\n" << found;
}

TEST(EvalData, BadLinesAreNamedWithTheirKeys) {
  expect_bad("{\"context\": ", "is not valid JSON");
  expect_bad("{\"context\": \"\xff\"}", "is not valid JSON");
  expect_bad("[1]", "should be a JSON object, found array");
  expect_bad("{}", "is no question that is known");
  expect_bad(R"({"choices": ["a", "b"], "label": 0})", "has no \"context\"");
  expect_bad(R"({"context": 7, "choices": ["a", "b"], "label": 0})",
             "a string as \"context\", found 7");
  expect_bad(R"({"context": "c", "choices": ["a"], "label": 0})",
             "an array of at least two strings as \"choices\", found [\"a\"]");
  expect_bad(R"({"context": "c", "choices": ["a", null], "label": 0})", "found [\"a\",null]");
  expect_bad(R"({"context": "c", "choices": ["a", " "], "label": 0})", "a choice without text");
  expect_bad(R"({"context": "c", "choices": ["a", "b"]})", "has no \"label\"");
  for (const char* label : {"2", "-1", "\"\"", "\"one\"", "\"1x\"", "0.5", "null",
                            "99999999999999999999", "18446744073709551615"}) {
    expect_bad(fmt::format(R"({{"context": "c", "choices": ["a", "b"], "label": {}}})", label),
               fmt::format("a number from 0 to 1 as \"label\", found {}",
                           std::string(label).starts_with("9999") ? "1e+20" : label));
  }
  expect_bad(R"({"ctx": "c", "endings": "ab", "label": 0})", "\"endings\"");
  expect_bad(R"({"goal": "g", "sol1": "a", "label": 0})", "has no \"sol2\"");
  expect_bad(R"({"sentence": "s", "option1": "a", "option2": "b", "answer": "1"})", "a _ in its");
  expect_bad(R"({"sentence": "the _", "option1": "a", "option2": "b", "answer": "1"})",
             "should go on behind the _");
  expect_bad(R"({"sentence": "_ s", "option1": "a", "option2": "b", "answer": "0"})",
             "a number from 1 to 2 as \"answer\", found \"0\"");
}

TEST(EvalData, ClozeCutsBeforeTheLastWord) {
  const TemporaryFolder folder;
  const ClozeData data =
      read_cloze(folder.write("c.txt", "One two  three.\r\nTitle\n\n Some  \"words here!\" \n"));
  ASSERT_EQ(data.items.size(), 2U);
  EXPECT_EQ(data.items[0].pair.context, "One two ");
  EXPECT_EQ(data.items[0].pair.continuation, " three.");
  EXPECT_EQ(data.items[1].pair.context, "Some  \"words");
  EXPECT_EQ(data.items[1].pair.continuation, " here!\"");
  EXPECT_EQ(data.items[1].line, 4);
  EXPECT_EQ(data.skipped, 1);
  const ClozeData json = read_cloze(folder.write("c.jsonl", R"({"text": "a\nb c"})"));
  ASSERT_EQ(json.items.size(), 1U);
  EXPECT_EQ(json.items[0].pair.context, "a\nb");
  const auto read = [](const std::string& path) { read_cloze(path); };
  EXPECT_EQ(failure("c.txt", "Title\n", read), "c.txt: no line has a text of two words or more.");
  EXPECT_NE(failure("c.jsonl", "{\"txt\": \"a b\"}", read).find("line 1 has no \"text\""),
            std::string::npos);
}

TEST(EvalData, Texts) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_text(folder.write("t.txt", "a\nb\n")), "a\nb\n");
  EXPECT_EQ(read_text(folder.write("t.jsonl", "{\"text\": \"a\"}\n\n{\"text\": \"b\\nc\"}\n")),
            "a\n\nb\nc");
  EXPECT_EQ(read_text(folder.write("empty.txt", "")), "");
  const auto read = [](const std::string& path) { read_text(path); };
  EXPECT_NE(failure("t.jsonl", "{\"text\": \"a\"}\n{\"text\": 1}\n", read).find("line 2"),
            std::string::npos);
  EXPECT_THROW(read_text(folder.path("absent")), Error);
  EXPECT_THROW(read_choices(folder.write("none.jsonl", "\n")), Error);
}

}  // namespace
}  // namespace nibble::cli
