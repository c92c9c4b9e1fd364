// nibble chat-template and nibble chat, driven through standard input.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/runtime/temporary_folder.h"
#include "tests/support/shared_files.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using runtime::TemporaryFolder;

constexpr const char* kTemplate =
    "{{ bos_token }}{% for m in messages %}{{ '<' + m.role + '>' + m.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
constexpr const char* kTalk =
    R"({"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true})";

Outcome with_input(const std::vector<std::string>& arguments, const std::string& input) {
  Surroundings around;
  around.input = input;
  return nibble(arguments, around);
}

std::vector<json> json_lines(const std::string& text) {
  std::vector<json> out;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) out.push_back(json::parse(line));
  return out;
}

// The bundled model with a chat template beside it.
void copy_model(const TemporaryFolder& folder) {
  for (const auto& item : fs::directory_iterator(demo_model())) {
    fs::copy_file(item.path(), folder.path(item.path().filename().string()));
  }
  folder.write("chat_template.jinja", kTemplate);
}

TEST(ChatTemplateCommand, ATemplateFileAndItsTokens) {
  const TemporaryFolder folder;
  const std::string file = folder.write("t.jinja", kTemplate);
  const std::string input = folder.write("in.json", kTalk);
  const Outcome plain = nibble({"chat-template", file, "--input", input});
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.out, "<s><user>Hi\n<assistant>");
  const Outcome as_json =
      nibble({"chat-template", file, "--input", input, "--bos", "[B]", "--json"});
  EXPECT_EQ(json::parse(as_json.out), json({{"rendered", "[B]<user>Hi\n<assistant>"}}));
  const Outcome list =
      with_input({"chat-template", file, "--input", "-"}, R"([{"role": "user", "content": "Hi"}])");
  EXPECT_EQ(list.out, "<s><user>Hi\n");
}

TEST(ChatTemplateCommand, CasesAreRenderedOneByOne) {
  const TemporaryFolder folder;
  const std::string file =
      folder.write("t.jinja", "{% if x %}{{ raise_exception('no') }}{% endif %}ok");
  const Outcome outcome = with_input({"chat-template", file, "--input", "-", "--json"},
                                     R"([{"case": "a", "input": {}, "rendered": "?"},
                                         {"case": "b", "input": {"x": 1}}])");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(json::parse(outcome.out), json::parse(R"([{"case": "a", "input": {}, "rendered": "ok"},
                            {"case": "b", "input": {"x": 1}, "error": "no"}])"));
}

TEST(ChatTemplateCommand, WhatTheTemplateRaisesIsAFailureWithItsMessage) {
  const TemporaryFolder folder;
  const std::string file = folder.write("t.jinja", "{{ raise_exception('No \"system\" role') }}");
  const Outcome outcome = with_input({"chat-template", file, "--input", "-", "--json"}, "{}");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "nibble: No \"system\" role\n");
  EXPECT_EQ(json::parse(outcome.out), json({{"error", "No \"system\" role"}}));
}

TEST(ChatTemplateCommand, TheTimeCanBeGiven) {
  const TemporaryFolder folder;
  const std::string file = folder.write("t.jinja", "{{ strftime_now('%A %d %b %Y %H:%M %j') }}");
  EXPECT_EQ(
      with_input({"chat-template", file, "--input", "-", "--now", "2026-01-31 12:00"}, "{}").out,
      "Saturday 31 Jan 2026 12:00 031");
  EXPECT_EQ(with_input({"chat-template", file, "--input", "-", "--now", "noon"}, "{}").code, 2);
}

TEST(ChatTemplateCommand, FoldersOfEveryForm) {
  const TemporaryFolder folder;
  const auto rendered = [&](const std::string& model, const std::string& input = kTalk,
                            const std::string& name = "") {
    std::vector<std::string> arguments = {"chat-template", folder.path(model), "--input", "-"};
    if (!name.empty()) arguments.insert(arguments.end(), {"--name", name});
    const Outcome outcome = with_input(arguments, input);
    return outcome.code == 0 ? outcome.out : outcome.err;
  };
  folder.write("text/tokenizer_config.json",
               R"({"chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}",
                   "bos_token": {"content": "<B>", "lstrip": false}, "eos_token": "<E>"})");
  EXPECT_EQ(rendered("text"), "<B><E>");
  folder.write("list/tokenizer_config.json",
               R"({"chat_template": [{"name": "default", "template": "D"},
                                     {"name": "tool_use", "template": "T"},
                                     {"name": "rag", "template": "R"}]})");
  EXPECT_EQ(rendered("list"), "D");
  EXPECT_EQ(rendered("list", R"({"messages": [], "tools": [{}]})"), "T");
  EXPECT_EQ(rendered("list", kTalk, "rag"), "R");
  EXPECT_NE(rendered("list", kTalk, "x").find("there are: default, tool_use, rag"),
            std::string::npos);
  folder.write("file/tokenizer_config.json", R"({"chat_template": "old", "bos_token": "<B>"})");
  folder.write("file/chat_template.jinja", "{{ bos_token }}new");
  EXPECT_EQ(rendered("file"), "<B>new");
  folder.write("processor/chat_template.json", R"({"chat_template": "P"})");
  EXPECT_EQ(rendered("processor"), "P");
  folder.write("map/tokenizer_config.json", R"({"chat_template": "{{ bos_token }}"})");
  folder.write("map/special_tokens_map.json", R"({"bos_token": "<M>"})");
  EXPECT_EQ(rendered("map"), "<M>");
  folder.write("none/tokenizer_config.json", "{}");
  EXPECT_NE(rendered("none").find("has no chat template"), std::string::npos);
  folder.write("bad/tokenizer_config.json", "{");
  EXPECT_NE(rendered("bad").find("not valid JSON"), std::string::npos);
  folder.write("wrong/tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_NE(rendered("wrong").find("should be a text or a list"), std::string::npos);
}

TEST(ChatTemplateCommand, TheTemplateTravelsInANib) {
  const TemporaryFolder folder, out;
  copy_model(folder);
  const std::string nib = out.path("tale.nib");
  ASSERT_EQ(nibble({"compile", folder.folder(), "-o", nib}).code, 0);
  for (const std::string& model : {nib, folder.folder()}) {
    const Outcome outcome = with_input({"chat-template", model, "--input", "-"}, kTalk);
    EXPECT_EQ(outcome.out, "<|endoftext|><user>Hi\n<assistant>") << outcome.err;
  }
}

TEST(ChatTemplateCommand, RealTemplatesAsTheReferenceHasThem) {
  const fs::path folder = shared_folder() / "data" / "chat-templates";
  if (shared_folder().empty() || !fs::exists(folder)) GTEST_SKIP() << skip_reason();
  for (const auto& model : fs::directory_iterator(folder)) {
    const std::string reference = (model.path() / "reference.json").string();
    const Outcome outcome = nibble({"chat-template", (model.path() / "template.jinja").string(),
                                    "--input", reference, "--json"});
    EXPECT_EQ(json::parse(outcome.out), json::parse(runtime::read_file(reference))) << model.path();
  }
}

TEST(Chat, WhatIsHeldIsNotComputedAgainAndTheAnswersAreThoseOfTheWholePrompt) {
  const TemporaryFolder folder;
  copy_model(folder);
  const std::string saved = folder.path("talk.json");
  const Outcome outcome =
      with_input({"chat", folder.folder(), "--system", "Tell.", "-n", "12", "--greedy", "--json"},
                 "Once upon a time\n\nThe king\n/save " + saved + "\n/stats\n/exit\nnever read\n");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::vector<json> lines = json_lines(outcome.out);
  ASSERT_EQ(lines.size(), 3U) << outcome.out;
  EXPECT_EQ(lines[0]["reused_tokens"], 0);
  // At least what was the prompt of the first answer, less the last id.
  EXPECT_GE(lines[1]["reused_tokens"].get<int>(), lines[0]["prompt_tokens"].get<int>() - 1);
  EXPECT_EQ(lines[2]["answers"], 2);
  const json messages = json::parse(runtime::read_file(saved))["messages"];
  ASSERT_EQ(messages.size(), 5U);
  EXPECT_EQ(messages[0], json({{"role", "system"}, {"content", "Tell."}}));
  EXPECT_EQ(messages[4]["content"], lines[1]["answer"]);

  json before = {{"messages", messages}, {"add_generation_prompt", true}};
  before["messages"].erase(4);
  const Outcome prompt =
      with_input({"chat-template", folder.folder(), "--input", "-"}, before.dump());
  const Outcome tokens = nibble({"tokenize", folder.folder(), prompt.out, "--json"});
  ASSERT_EQ(prompt.code, 0) << prompt.err;
  ASSERT_EQ(tokens.code, 0) << tokens.err;
  std::string ids;
  const json encoded = json::parse(tokens.out)["ids"];
  for (const int id : encoded) ids += (ids.empty() ? "" : ",") + std::to_string(id);
  const Outcome whole =
      nibble({"run", folder.folder(), "--ids", ids, "-n", "12", "--greedy", "--json"});
  EXPECT_EQ(json::parse(whole.out)["text"], lines[1]["answer"]) << prompt.out << ids;
}

TEST(Chat, ResetAndSystemBeginAnew) {
  const TemporaryFolder folder;
  copy_model(folder);
  const std::string saved = folder.path("talk.json");
  const Outcome outcome =
      with_input({"chat", folder.folder(), "-n", "6", "--greedy", "--json"},
                 "Once\n/reset\nOnce\n/system Be brief.\nOnce\n/sytem\n/save " + saved + "\n");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::vector<json> lines = json_lines(outcome.out);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0]["answer"], lines[1]["answer"]);
  EXPECT_NE(outcome.err.find("Did you mean '/system'?"), std::string::npos) << outcome.err;
  const json messages = json::parse(runtime::read_file(saved))["messages"];
  ASSERT_EQ(messages.size(), 3U);
  EXPECT_EQ(messages[0]["content"], "Be brief.");
}

TEST(Chat, WithoutATemplatePlainLinesAndAWarning) {
  const Outcome outcome = with_input({"chat", demo_model(), "-n", "8", "--greedy"}, "Hello\n");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_NE(outcome.err.find("nibble: warning: "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("no chat template"), std::string::npos) << outcome.err;
  EXPECT_GT(outcome.out.size(), 2U);
  EXPECT_EQ(outcome.out.back(), '\n');
}

TEST(Chat, WhatATemplateRefusesWasNotSaid) {
  const TemporaryFolder folder;
  copy_model(folder);
  folder.write("chat_template.jinja",
               "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('Not that.') "
               "}}{% endif %}{{ m.content }}{% endfor %}");
  const Outcome outcome =
      with_input({"chat", folder.folder(), "-n", "4", "--greedy", "--json"}, "bad\ngood\n");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_NE(outcome.err.find("Not that."), std::string::npos) << outcome.err;
  EXPECT_EQ(json_lines(outcome.out).size(), 1U) << outcome.out;
}

TEST(Chat, AFullContextIsSaidAndTheProgramGoesOn) {
  const Outcome outcome =
      with_input({"chat", demo_model(), "--context", "24", "--greedy", "--json"},
                 "Once upon a time there was\nand then there was another\n/stats\n");
  EXPECT_EQ(outcome.code, 0);
  const std::vector<json> lines = json_lines(outcome.out);
  ASSERT_GE(lines.size(), 2U) << outcome.out;
  EXPECT_EQ(lines.back()["position"], 24);
  EXPECT_NE(outcome.err.find("/reset begins anew"), std::string::npos) << outcome.err;
}

TEST(Chat, CtrlCStopsTheAnswerAndNotTheProgram) {
  Surroundings around;
  around.input = "Once upon a time\n/stats\nAnd then\n";
  around.interrupt_after_output = true;
  const Outcome outcome =
      nibble({"chat", demo_model(), "--weights", "f32", "--no-fuse", "-n", "100"}, around);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.signal, 0);
  EXPECT_NE(outcome.err.find("[interrupted]"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("[1 answers"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("[interrupted]"), outcome.err.rfind("[interrupted]")) << outcome.err;
}

TEST(Chat, WrongCommandLines) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"chat"},
                                                    {"chat-template", "x.jinja"},
                                                    {"chat", demo_model(), "--vars", "[1]"},
                                                    {"chat", demo_model(), "--temp", "-1"}}) {
    const Outcome outcome = nibble(arguments);
    EXPECT_EQ(outcome.code, 2) << testing::PrintToString(arguments) << outcome.err;
    EXPECT_EQ(outcome.messages(), 1) << outcome.err;
  }
}

}  // namespace
}  // namespace nibble::test
