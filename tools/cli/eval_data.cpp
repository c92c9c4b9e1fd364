#include "tools/cli/eval_data.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "jit/error.h"
#include "runtime/json_text.h"
#include "runtime/mapped_file.h"

namespace nibble::cli {
namespace {

using nlohmann::json;

constexpr const char* kBlanks = " \t\r\n\f\v";

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

// Each line that is not blank, with its number from 1.
void for_each_line(const std::string& path,
                   const std::function<void(int64_t, std::string_view)>& visit) {
  const auto file = runtime::MappedFile::open(path);
  const auto bytes = file->bytes();
  std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (int64_t line = 1; !rest.empty(); ++line) {
    const std::string_view text = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), text.size() + 1));
    if (!trim(text).empty()) visit(line, text);
  }
}

// One JSON object of a file, whose keys are asked for by name and kind.
class Record {
 public:
  Record(const std::string& path, int64_t line, std::string_view text) : path_(path), line_(line) {
    object_ = runtime::parse_json(text, fmt::format("{}: line {}", path, line));
    if (!object_.is_object()) {
      bad(fmt::format("should be a JSON object, found {}", object_.type_name()));
    }
  }

  bool has(const char* key) const { return object_.contains(key); }

  const std::string& text(const char* key) const {
    return value(key, "a string", [](const json& v) { return v.is_string(); })
        .get_ref<const std::string&>();
  }

  std::vector<std::string> texts(const char* key) const {
    return value(key, "an array of at least two strings",
                 [](const json& v) {
                   return v.is_array() && v.size() >= 2 &&
                          std::all_of(v.begin(), v.end(),
                                      [](const json& item) { return item.is_string(); });
                 })
        .get<std::vector<std::string>>();
  }

  // Which of `count` choices, numbered from `first`; a number, or a string of one.
  int64_t choice(const char* key, int64_t first, size_t count) const {
    const int64_t last = first + static_cast<int64_t>(count) - 1;
    const std::string expected = fmt::format("a number from {} to {}", first, last);
    const json& found = value(key, expected.c_str(),
                              [](const json& v) { return v.is_number_integer() || v.is_string(); });
    int64_t number = first - 1;
    if (found.is_string()) {
      const auto& digits = found.get_ref<const std::string&>();
      const char* end = digits.data() + digits.size();
      const auto [stop, error] = std::from_chars(digits.data(), end, number);
      if (error != std::errc() || stop != end) number = first - 1;
    } else {
      number = found.get<int64_t>();
    }
    if (number < first || number > last) wrong(key, expected, found);
    return number - first;
  }

  [[noreturn]] void bad(const std::string& what) const {
    fail("{}: line {} {}.", path_, line_, what);
  }

 private:
  template <typename Fits>
  const json& value(const char* key, const char* expected, Fits&& fits) const {
    const auto found = object_.find(key);
    if (found == object_.end()) bad(fmt::format("has no \"{}\", expected {}", key, expected));
    if (!fits(*found)) wrong(key, expected, *found);
    return *found;
  }
  [[noreturn]] void wrong(const char* key, const std::string& expected, const json& found) const {
    std::string text = found.dump(-1, ' ', false, json::error_handler_t::replace);
    if (text.size() > 60) text = std::string(found.type_name()) + " of other contents";
    bad(fmt::format("should have {} as \"{}\", found {}", expected, key, text));
  }

  const std::string& path_;
  int64_t line_;
  json object_;
};

bool is_json_lines(const std::string& path) { return path.ends_with(".jsonl"); }

// Unicode characters, which are what published scores count.
int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
}

bool is_blank(char c) { return std::string_view(kBlanks).find(c) != std::string_view::npos; }

std::string with_blank(const std::string& context, const std::string& choice) {
  const bool apart =
      context.empty() || is_blank(context.back()) || (!choice.empty() && is_blank(choice.front()));
  return apart ? choice : " " + choice;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

// HellaSwag's texts from WikiHow have marks in brackets.
std::string without_brackets(std::string_view raw) {
  std::string text(trim(raw));
  replace_all(text, " [title]", ". ");
  for (size_t open = 0; (open = text.find('[', open)) != std::string::npos;) {
    const size_t close = text.find(']', open);
    if (close == std::string::npos || text.find('\n', open) < close) {
      ++open;
    } else {
      text.erase(open, close - open + 1);
    }
  }
  replace_all(text, "  ", " ");
  return text;
}

// The first letter large and all others small, of ASCII.
std::string capitalize(std::string text) {
  for (size_t i = 0; i < text.size(); ++i) {
    char& c = text[i];
    if (i == 0 && c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    if (i > 0 && c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

void add_choice(ChoiceItem& item, const std::string& context, const std::string& choice) {
  item.choices.push_back({context, with_blank(context, choice)});
  item.lengths.push_back(characters(choice));
}

void read_hellaswag(const Record& record, ChoiceItem& item) {
  std::string context = record.has("ctx_a") && record.has("ctx_b")
                            ? record.text("ctx_a") + " " + capitalize(record.text("ctx_b"))
                            : record.text("ctx");
  if (record.has("activity_label")) context = record.text("activity_label") + ": " + context;
  context = without_brackets(context);
  for (const std::string& ending : record.texts("endings")) {
    add_choice(item, context, without_brackets(ending));
  }
  item.label = record.choice("label", 0, item.choices.size());
}

void read_piqa(const Record& record, ChoiceItem& item) {
  const std::string context = "Question: " + record.text("goal") + "\nAnswer:";
  for (const char* key : {"sol1", "sol2"}) add_choice(item, context, record.text(key));
  item.label = record.choice("label", 0, 2);
}

void read_winogrande(const Record& record, ChoiceItem& item) {
  const std::string& sentence = record.text("sentence");
  const size_t gap = sentence.find('_');
  if (gap == std::string::npos) record.bad("should have a _ in its \"sentence\"");
  const std::string end(trim(std::string_view(sentence).substr(gap + 1)));
  if (end.empty()) record.bad("should go on behind the _ of its \"sentence\"");
  for (const char* key : {"option1", "option2"}) {
    add_choice(item, sentence.substr(0, gap) + record.text(key), end);
  }
  item.label = record.choice("answer", 1, 2);
}

void read_any(const Record& record, ChoiceItem& item) {
  for (const std::string& choice : record.texts("choices")) {
    add_choice(item, record.text("context"), choice);
  }
  item.label = record.choice("label", 0, item.choices.size());
}

ChoiceItem read_choice(const Record& record, int64_t line) {
  ChoiceItem item;
  item.line = line;
  if (record.has("endings")) {
    read_hellaswag(record, item);
  } else if (record.has("goal")) {
    read_piqa(record, item);
  } else if (record.has("sentence")) {
    read_winogrande(record, item);
  } else if (record.has("choices")) {
    read_any(record, item);
  } else {
    record.bad(
        "is no question that is known: it has neither \"endings\" (HellaSwag) nor \"goal\" (PIQA) "
        "nor \"sentence\" (WinoGrande) nor \"choices\"");
  }
  for (const Pair& pair : item.choices) {
    if (trim(pair.continuation).empty()) record.bad("has a choice without text");
  }
  return item;
}

}  // namespace

std::string read_text(const std::string& path) {
  if (!is_json_lines(path)) {
    const auto file = runtime::MappedFile::open(path);
    const auto bytes = file->bytes();
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::string text;
  for_each_line(path, [&](int64_t line, std::string_view record) {
    if (!text.empty()) text += "\n\n";
    text += Record(path, line, record).text("text");
  });
  return text;
}

ClozeData read_cloze(const std::string& path) {
  ClozeData data;
  for_each_line(path, [&](int64_t line, std::string_view raw) {
    const std::string whole =
        is_json_lines(path) ? Record(path, line, raw).text("text") : std::string(raw);
    const std::string_view text = trim(whole);
    const size_t blank = text.find_last_of(kBlanks);
    if (blank == std::string_view::npos) {
      ++data.skipped;
      return;
    }
    data.items.push_back(
        {line, {std::string(text.substr(0, blank)), std::string(text.substr(blank))}});
  });
  if (data.items.empty()) fail("{}: no line has a text of two words or more.", path);
  return data;
}

bool is_cloze(const std::string& path) {
  if (!is_json_lines(path)) return true;
  std::optional<bool> cloze;
  for_each_line(path, [&](int64_t line, std::string_view text) {
    if (!cloze) cloze = Record(path, line, text).has("text");
  });
  if (!cloze) fail("{}: the file has no questions.", path);
  return *cloze;
}

std::vector<ChoiceItem> read_choices(const std::string& path) {
  std::vector<ChoiceItem> items;
  for_each_line(path, [&](int64_t line, std::string_view text) {
    items.push_back(read_choice(Record(path, line, text), line));
  });
  if (items.empty()) fail("{}: the file has no questions.", path);
  return items;
}

}  // namespace nibble::cli
