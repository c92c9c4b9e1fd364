// README's table of what fuses in each family of the zoo, made anew from `nibble inspect --fusion`
// of every model there is and compared with what README says. With NIBBLE_WRITE_README=1 in the
// environment the table in README is replaced instead.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "tests/runtime/temporary_folder.h"
#include "tests/support/zoo.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

const std::string kReadme = NIBBLE_SOURCE_DIR "/README.md";
constexpr std::string_view kBegin = "<!-- Support table: ", kEnd = "<!-- Support table ends. -->";

// What a report says of a model, in the words of the table's columns after the family and forms.
struct Summary {
  std::string layers, coverage, embedding, norms, attention, mlp, residuals, logits;
  bool operator==(const Summary&) const = default;
  std::string cells() const {
    return fmt::format("{} | {} | {} | {} | {} | {} | {} | {}", layers, coverage, embedding, norms,
                       attention, mlp, residuals, logits);
  }
};

// "4 heads of 32, 1 KV heads, rope half of 8 dims, ..." as "MQA, rope half of 8 of 32 dims, ...":
// how many heads a model of the zoo has means nothing.
std::string shorter(const std::string& attention) {
  static const std::regex heads(R"((\d+) heads of (\d+), (\d+) KV heads(.*))");
  static const std::regex rope(R"((.*rope \w+) of (\d+) dims(.*))");
  std::smatch match;
  if (!std::regex_match(attention, match, heads)) return attention;
  const std::string all = match[1], width = match[2], shared = match[3];
  std::string text = shared == all ? "MHA" : shared == "1" ? "MQA" : "GQA";
  text += match[4].str();
  const std::string whole = text;
  if (!std::regex_match(whole, match, rope)) return text;
  const std::string part =
      match[2] == width ? "" : fmt::format(" of {} of {}", match[2].str(), width);
  return match[1].str() + part + match[3].str();
}

// The details of one kind in a report, each once.
std::string details(const nlohmann::json& report, const std::string& what) {
  Strings out;
  for (const auto& entry : report["entries"]) {
    if (entry["what"] != what) continue;
    std::string detail = entry["detail"];
    if (what == "attention") detail = shorter(detail);
    if (!entry["fused"].get<bool>()) detail = "NOT: " + detail;
    if (std::find(out.begin(), out.end(), detail) == out.end()) out.push_back(detail);
  }
  return fmt::format("{}", fmt::join(out, " / "));
}

int64_t fused_count(const nlohmann::json& report, const std::string& what, int64_t layer) {
  const auto& entries = report["entries"];
  return std::count_if(entries.begin(), entries.end(), [&](const nlohmann::json& entry) {
    return entry["what"] == what && entry["layer"] == layer && entry["fused"].get<bool>();
  });
}

Summary summarize(const nlohmann::json& report) {
  std::set<int64_t> layers;
  for (const auto& entry : report["entries"]) layers.insert(entry["layer"].get<int64_t>());
  layers.erase(-1);
  int64_t fused = 0;
  std::set<int64_t> norms, residuals;  // a layer
  for (const int64_t layer : layers) {
    const auto& entries = report["entries"];
    const bool whole =
        std::all_of(entries.begin(), entries.end(), [&](const nlohmann::json& entry) {
          return entry["layer"] != layer || entry["fused"].get<bool>();
        });
    fused += whole && fused_count(report, "attention", layer) == 1 &&
             fused_count(report, "qkv", layer) == 1 && fused_count(report, "mlp", layer) == 1;
    norms.insert(fused_count(report, "norm", layer));
    residuals.insert(fused_count(report, "residual", layer));
  }
  std::string mlp = details(report, "mlp");
  if (const size_t at = mlp.find(" in one matmul"); at != mlp.npos) mlp.erase(at);
  std::string logits = details(report, "logits");
  return {.layers = fmt::format("{} of {}", fused, layers.size()),
          .coverage = fmt::format("{:.0f}%", report["coverage"].get<double>() * 100),
          .embedding = details(report, "embedding"),
          .norms = fmt::format("{} {} a layer", fmt::join(norms, " or "), details(report, "norm")),
          .attention = details(report, "attention"),
          .mlp = std::move(mlp),
          .residuals = residuals == std::set<int64_t>{0}
                           ? "apart"
                           : fmt::format("{} in the matmuls", fmt::join(residuals, " or ")),
          .logits = logits.empty() ? "plain" : std::move(logits)};
}

// The family that a folder of the zoo holds, and by which exporter: the longest name of a family
// that its own contains, and what is around it.
std::pair<std::string, std::string> family_of(const std::string& folder) {
  std::string family;
  for (const std::string& name : zoo_families()) {
    if (folder == name) return {name, "ONNX"};
    if (folder.find(name) != folder.npos && name.size() > family.size()) family = name;
  }
  if (family.empty()) return {folder, "ONNX"};
  std::string around = folder;
  around.replace(around.find(family), family.size(), "");
  std::replace(around.begin(), around.end(), '-', ' ');
  const size_t two = around.find("  ");
  if (two != around.npos) around.erase(two, 1);
  return {family, "ONNX (" + around + ")"};
}

nlohmann::json fusion_of(const std::string& model) {
  const Outcome outcome = nibble({"inspect", model, "--fusion", "--json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return outcome.code == 0 ? nlohmann::json::parse(outcome.out) : nlohmann::json();
}

// A family's forms, together where their reports say the same.
using Forms = std::vector<std::pair<Summary, Strings>>;

std::map<std::string, Forms> read_zoo() {
  std::map<std::string, Forms> families;
  std::set<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(shared_folder() / "models/zoo")) {
    if (entry.is_directory()) folders.insert(entry.path());
  }
  const auto add = [&](const std::string& family, const std::string& form, const fs::path& model) {
    SCOPED_TRACE(model);
    const nlohmann::json report = fusion_of(model.string());
    if (report.is_null()) return;
    const Summary summary = summarize(report);
    Forms& forms = families[family];
    const auto same = std::find_if(forms.begin(), forms.end(),
                                   [&](const auto& form) { return form.first == summary; });
    if (same == forms.end()) {
      forms.push_back({summary, {form}});
    } else {
      same->second.push_back(form);
    }
  };
  for (const fs::path& folder : folders) {
    const auto [family, form] = family_of(folder.filename().string());
    if (fs::exists(folder / "model.onnx")) add(family, form, folder / "model.onnx");
    if (fs::exists(folder / "model.safetensors")) {
      add(family, "safetensors", folder / "model.safetensors");
    }
  }
  return families;
}

std::string make_table() {
  std::string table =
      "| family | in the test models as | layers fused | nodes fused | embedding | norms | "
      "attention | MLP | residual adds | "
      "logits |\n|---|---|---|---|---|---|---|---|---|---|\n";
  for (auto& [family, all] : read_zoo()) {
    for (const auto& [summary, forms] : all) {
      Strings sorted = forms;
      std::sort(sorted.begin(), sorted.end());
      table += fmt::format("| {} | {} | {} |\n", family, fmt::join(sorted, ", "), summary.cells());
    }
  }
  return table;
}

// README in three: to the end of the line that begins the table, the table, and the rest.
struct Parts {
  std::string before, table, after;
};
Parts split(const std::string& readme) {
  size_t begin = readme.find(kBegin);
  if (begin != readme.npos) begin = readme.find('\n', begin);
  const size_t end = begin == readme.npos ? readme.npos : readme.find(kEnd, begin);
  if (end == readme.npos) return {};
  return {readme.substr(0, begin + 1), readme.substr(begin + 1, end - begin - 1),
          readme.substr(end)};
}

TEST(SupportTable, HasEveryFamilyFusedInFull) {
  const Parts parts = split(runtime::read_file(kReadme));
  ASSERT_FALSE(parts.after.empty()) << kReadme << " has no place for the table";
  for (const std::string& family : zoo_families()) {
    const size_t at = parts.table.find(fmt::format("\n| {} | ", family));
    ASSERT_NE(at, parts.table.npos) << family;
    const std::string row = parts.table.substr(at + 1, parts.table.find('\n', at + 1) - at - 1);
    EXPECT_NE(row.find("| 2 of 2 | 100% |"), row.npos) << row;
  }
}

TEST(SupportTable, SaysWhatTheProgramSays) {
  NIBBLE_NEED_MODELS();
  const Parts parts = split(runtime::read_file(kReadme));
  ASSERT_FALSE(parts.after.empty()) << kReadme << " has no place for the table";
  const std::string table = make_table();
  if (std::getenv("NIBBLE_WRITE_README") != nullptr) {
    std::ofstream(kReadme, std::ios::binary) << parts.before << table << parts.after;
    return;
  }
  EXPECT_EQ(parts.table, table) << "README.md says how to write the table anew";
}

}  // namespace
}  // namespace nibble::test
