#include "tools/cli/quantize_tasks.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "jit/error.h"
#include "runtime/nib_file.h"
#include "tools/cli/eval.h"
#include "tools/cli/eval_data.h"

namespace nibble::cli {
namespace {

class TaskReader {
 public:
  TaskReader(const std::string& path, int64_t most, const graph::Graph& graph,
             const frontends::Tokenizer& tokenizer)
      : path_(path),
        most_(most),
        graph_(graph),
        tokenizer_(tokenizer),
        bos_(usual_bos(graph, tokenizer)) {}

  Task read() {
    task_.cloze = is_cloze(path_);
    if (task_.cloze) {
      for (const ClozeItem& item : read_cloze(path_).items) {
        if (!wants_more()) break;
        add(item.pair, item.line);
        end_question(1, 0);
      }
    } else {
      for (const ChoiceItem& item : read_choices(path_)) {
        if (!wants_more()) break;
        for (const Pair& pair : item.choices) add(pair, item.line);
        end_question(item.choices.size(), item.label);
      }
    }
    return std::move(task_);
  }

 private:
  bool wants_more() const { return most_ == 0 || std::ssize(task_.choices) < most_; }

  void end_question(size_t choices, int64_t label) {
    task_.choices.push_back(choices);
    task_.labels.push_back(label);
  }

  void add(const Pair& pair, int64_t line) {
    quant::Continuation ids = encode_pair(graph_, tokenizer_, bos_, pair, path_, line);
    if (graph_.context_length > 0) {
      const int64_t room = graph_.context_length - std::ssize(ids.continuation) + 1;
      if (room < 1) {
        fail("{}: line {} has {} ids to score, more than the model's context of {}.", path_, line,
             ids.continuation.size(), graph_.context_length);
      }
      const int64_t over = std::max<int64_t>(0, std::ssize(ids.context) - room);
      ids.context.erase(ids.context.begin(), ids.context.begin() + over);
    }
    task_.items.push_back(std::move(ids));
  }

  const std::string& path_;
  int64_t most_;
  const graph::Graph& graph_;
  const frontends::Tokenizer& tokenizer_;
  std::optional<int32_t> bos_;
  Task task_;
};

std::string name_of(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

}  // namespace

std::vector<uint8_t> Task::right(std::span<const quant::ContinuationScore> scores) const {
  std::vector<uint8_t> answers;
  size_t first = 0;
  for (size_t q = 0; q < choices.size(); ++q) {
    const auto own = scores.subspan(first, choices[q]);
    first += choices[q];
    if (cloze) {
      answers.push_back(own[0].greedy ? 1 : 0);
      continue;
    }
    // The first of the likeliest.
    const auto best = std::max_element(own.begin(), own.end(), [](const auto& a, const auto& b) {
      return a.log_prob < b.log_prob;
    });
    answers.push_back(best - own.begin() == labels[q] ? 1 : 0);
  }
  return answers;
}

std::vector<Task> read_tasks(const std::vector<std::string>& paths, int64_t most,
                             const graph::Graph& graph, const frontends::Tokenizer& tokenizer) {
  std::vector<Task> tasks;
  for (const std::string& path : paths) {
    tasks.push_back(TaskReader(path, most, graph, tokenizer).read());
    const auto same = [&](const std::string& other) { return name_of(other) == name_of(path); };
    const bool unique = std::count_if(paths.begin(), paths.end(), same) == 1;
    tasks.back().name = unique ? name_of(path) : path;
  }
  return tasks;
}

int64_t longest_item(const std::vector<Task>& tasks) {
  int64_t longest = 0;
  for (const Task& task : tasks) {
    for (const quant::Continuation& item : task.items) {
      longest = std::max(longest, std::ssize(item.context) + std::ssize(item.continuation) - 1);
    }
  }
  return longest;
}

std::string tasks_identity(const std::vector<Task>& tasks) {
  std::string text;
  for (const Task& task : tasks) {
    std::vector<int32_t> ids;
    for (const quant::Continuation& item : task.items) {
      for (const auto* part : {&item.context, &item.continuation}) {
        ids.push_back(static_cast<int32_t>(part->size()));
        ids.insert(ids.end(), part->begin(), part->end());
      }
    }
    for (size_t q = 0; q < task.choices.size(); ++q) {
      ids.push_back(static_cast<int32_t>(task.choices[q]));
      ids.push_back(static_cast<int32_t>(task.labels[q]));
    }
    text += fmt::format("task {} {} of {}, check {}\n", task.cloze ? "cloze" : "choice", task.name,
                        task.choices.size(), runtime::crc32c(std::as_bytes(std::span(ids))));
  }
  return text;
}

std::vector<uint8_t> answer(const Task& task, runtime::Decoder& decoder,
                            const TaskProgress& progress) {
  quant::ContinuationScorer scorer(decoder);
  std::vector<quant::ContinuationScore> scores;
  for (const quant::Continuation& item : task.items) {
    scores.push_back(scorer.score(item.context, item.continuation));
    if (progress) progress(std::ssize(scores), std::ssize(task.items));
  }
  return task.right(scores);
}

}  // namespace nibble::cli
