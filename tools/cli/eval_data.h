// The texts and questions that `nibble eval` reads: plain text, or JSON lines as benchmarks are
// published. Errors name the file, the line and the key. Knows no model and no tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::cli {

// A text to predict as a whole: the contents of a file; of a .jsonl the "text" of every line, with
// an empty line between two.
std::string read_text(const std::string& path);

// A context, and what may follow it.
struct Pair {
  std::string context, continuation;
};

struct ClozeItem {
  int64_t line = 0;  // in its file, from 1
  Pair pair;         // all up to the last blank, and the last word with that blank
};
struct ClozeData {
  std::vector<ClozeItem> items;
  int64_t skipped = 0;  // texts of a single word, which have no context
};
// A paragraph a line; of a .jsonl the "text" of every line. The last word goes to the end of the
// line, punctuation and all.
ClozeData read_cloze(const std::string& path);

struct ChoiceItem {
  int64_t line = 0;
  std::vector<Pair> choices;
  std::vector<int64_t> lengths;  // characters of each choice as it is written in the data
  int64_t label = 0;             // the right one
};
// Whether the file is for read_cloze: one without JSON, or whose first line has a "text".
bool is_cloze(const std::string& path);

// JSON lines, each of one of these forms, worded as lm-evaluation-harness words them:
//   HellaSwag   {"ctx", "endings", "label"}, also with "activity_label", "ctx_a" and "ctx_b"
//   PIQA        {"goal", "sol1", "sol2", "label"}
//   WinoGrande  {"sentence" with a _, "option1", "option2", "answer": "1" or "2"}: the context is
//               what differs, and the choice is scored by what comes behind it
//   any         {"context", "choices", "label"}: a blank goes between the two where there is none
std::vector<ChoiceItem> read_choices(const std::string& path);

}  // namespace nibble::cli
