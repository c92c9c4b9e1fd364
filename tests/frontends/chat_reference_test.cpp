// Chat templates against transformers: real models' templates where the shared files are, and small
// ones that each show a rule of the language, everywhere.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "frontends/chat/chat_template.h"
#include "tests/support/shared_files.h"

namespace nibble::frontends {
namespace {

using Json = ChatTemplate::Json;

// What the references were rendered with: 2026-01-31 12:00.
ChatTemplate::Options options() {
  ChatTemplate::Options out;
  std::tm time = {};
  time.tm_year = 126;
  time.tm_mday = 31;
  time.tm_hour = 12;
  time.tm_wday = 6;
  time.tm_yday = 30;
  out.now = time;
  return out;
}

// {"rendered": text} or {"error": message}.
Json result(const std::string& source, const Json& variables) {
  try {
    return {{"rendered", ChatTemplate::parse(source).render(variables, options())}};
  } catch (const chat::TemplateError& error) {
    return {{"error", error.what()}};
  }
}

Json expected(const Json& reference) {
  if (reference.contains("error")) return {{"error", reference["error"]}};
  return {{"rendered", reference["rendered"]}};
}

TEST(ChatReference, RealTemplatesRenderTheSameBytesOrFailWithTheSameMessage) {
  const std::filesystem::path folder = test::shared_folder() / "data" / "chat-templates";
  if (test::shared_folder().empty() || !std::filesystem::exists(folder)) {
    GTEST_SKIP() << test::skip_reason();
  }
  int count = 0;
  for (const auto& model : std::filesystem::directory_iterator(folder)) {
    const std::string source = test::read_text(model.path() / "template.jinja");
    for (const Json& reference : Json::parse(test::read_text(model.path() / "reference.json"))) {
      SCOPED_TRACE(model.path().string() + ": " + reference["case"].get<std::string>());
      Json variables = {{"tools", nullptr}, {"documents", nullptr}};
      variables.update(reference["input"]);
      variables["bos_token"] = "<s>";
      variables["eos_token"] = "</s>";
      EXPECT_EQ(result(source, variables), expected(reference));
      ++count;
    }
  }
  EXPECT_GE(count, 48);
}

// chat_cases.json: templates and what transformers makes of them with its "variables".
TEST(ChatReference, EveryRuleOfTheLanguageIsJinjas) {
  const std::filesystem::path path =
      std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests/frontends/chat_cases.json";
  const Json all = Json::parse(test::read_text(path));
  for (const Json& each : all["cases"]) {
    SCOPED_TRACE(each["template"].get<std::string>());
    EXPECT_EQ(result(each["template"], all["variables"]), expected(each));
  }
  EXPECT_GT(all["cases"].size(), 800U);
}

}  // namespace
}  // namespace nibble::frontends
