// The tasks of `nibble quantize --task`: questions as `nibble eval cloze` and `choice` read them,
// answered by the model in fp32 and by what became of it, so that the loss of accuracy can be
// compared question by question.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "frontends/tokenizer/tokenizer.h"
#include "graph/graph.h"
#include "quant/scores/continuations.h"
#include "runtime/decoder.h"

namespace nibble::cli {

struct Task {
  std::string name;  // its file's
  // A text's last words, each right when greedy decoding makes it; otherwise questions of several
  // choices, of which the likeliest is the answer ("acc" of `nibble eval choice`).
  bool cloze = false;
  std::vector<quant::Continuation> items;  // of all questions, one after another
  std::vector<size_t> choices;             // of each question: how many items are its
  std::vector<int64_t> labels;             // of each question: the right choice

  // For each question 1 if the answer is right, else 0; a score an item.
  std::vector<uint8_t> right(std::span<const quant::ContinuationScore> scores) const;
};

// Reads the files: text or .jsonl with "text" is a cloze task, any other .jsonl one of choices. Of
// each the first `most` questions (0: all). Contexts lose ids from their front where they are
// longer than the model's. Throws Error as eval_data.h does, naming the file and the line.
std::vector<Task> read_tasks(const std::vector<std::string>& paths, int64_t most,
                             const graph::Graph& graph, const frontends::Tokenizer& tokenizer);

// Positions that a decoder needs for them; 0 without tasks.
int64_t longest_item(const std::vector<Task>& tasks);
// What the tasks are known by: their names, kinds, labels and a check of their ids.
std::string tasks_identity(const std::vector<Task>& tasks);

// Called with the items that are done.
using TaskProgress = std::function<void(int64_t done, int64_t total)>;
std::vector<uint8_t> answer(const Task& task, runtime::Decoder& decoder,
                            const TaskProgress& progress);

}  // namespace nibble::cli
