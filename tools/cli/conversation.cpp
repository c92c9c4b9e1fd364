#include "tools/cli/conversation.h"

#include <algorithm>

#include "frontends/chat/model_template.h"
#include "jit/error.h"

namespace nibble::cli {
namespace {

constexpr const char* kUserLine = "\nUser:";  // where a plain answer ends

// Hands text on, but for what may be the beginning of `stop`; all of it once that is ruled out.
class StopAtText {
 public:
  StopAtText(std::string stop, const std::function<void(const std::string&)>& on_text)
      : stop_(std::move(stop)), on_text_(on_text) {}

  // False once `stop` was there.
  bool add(const std::string& part) {
    waiting_ += part;
    const size_t found = stop_.empty() ? std::string::npos : waiting_.find(stop_);
    if (found != std::string::npos) {
      hand_on(found);
      waiting_.clear();
      return false;
    }
    size_t kept = std::min(waiting_.size(), stop_.empty() ? 0 : stop_.size() - 1);
    while (kept > 0 && !stop_.starts_with(waiting_.substr(waiting_.size() - kept))) --kept;
    hand_on(waiting_.size() - kept);
    return true;
  }
  void finish() { hand_on(waiting_.size()); }
  const std::string& text() const { return text_; }

 private:
  void hand_on(size_t count) {
    const std::string part = waiting_.substr(0, count);
    waiting_.erase(0, count);
    text_ += part;
    if (!part.empty()) on_text_(part);
  }

  std::string stop_, waiting_, text_;
  const std::function<void(const std::string&)>& on_text_;
};

}  // namespace

Conversation::Conversation(const LoadedModel& model, const frontends::Tokenizer& tokenizer,
                           Json variables)
    : model_(model), tokenizer_(tokenizer), end_ids_(model.graph->eos_ids) {
  const graph::Graph& graph = *model.graph;
  const std::map<std::string, std::string> documents(graph.documents.begin(),
                                                     graph.documents.end());
  const auto found = frontends::read_model_template(documents, graph.origin, "", false);
  variables_ = {{"tools", nullptr}, {"documents", nullptr}};
  variables_.update(found.tokens);
  variables_.update(variables);
  if (!found.source.empty()) {
    try {
      template_ = frontends::ChatTemplate::parse(found.source);
    } catch (const Error& error) {
      fail("{}: the chat template in {} is refused: {}", graph.origin, found.origin, error.what());
    }
  }
  if (found.tokens.contains("eos_token")) {
    const int32_t id = tokenizer.id_of(found.tokens["eos_token"].get<std::string>());
    if (id >= 0 && std::find(end_ids_.begin(), end_ids_.end(), id) == end_ids_.end()) {
      end_ids_.push_back(id);
    }
  }
}

void Conversation::begin(const std::string& system) {
  messages_ = Json::array();
  if (!system.empty()) messages_.push_back({{"role", "system"}, {"content", system}});
}

std::string Conversation::plain_text() const {
  std::string out;
  for (const Json& message : messages_) {
    const std::string role = message["role"], content = message["content"];
    if (role == "system") {
      out += content + "\n\n";
    } else {
      out += fmt::format("{} {}\n", role == "user" ? "User:" : "Assistant:", content);
    }
  }
  return out + "Assistant:";
}

std::vector<int32_t> Conversation::prompt() const {
  if (!template_) return encode_text(plain_text(), *model_.graph, tokenizer_);
  Json variables = variables_;
  variables["messages"] = messages_;
  variables["add_generation_prompt"] = true;
  return tokenizer_.encode(template_->render(variables), false);
}

// Leaves the decoder with what it holds of `ids` from the front, all but the last at most.
int64_t Conversation::keep_common(const std::vector<int32_t>& ids) {
  runtime::Decoder& decoder = *model_.decoder;
  held_.resize(std::min(held_.size(), static_cast<size_t>(decoder.position())));
  const auto [end, other] = std::mismatch(held_.begin(), held_.end(), ids.begin(), ids.end() - 1);
  auto common = static_cast<int64_t>(end - held_.begin());
  if (!decoder.rewind(common)) {
    decoder.reset();
    common = 0;
  }
  return common;
}

Answer Conversation::ask(const std::string& text, const SamplingOptions& sampling, int64_t tokens,
                         const std::function<void(const std::string&)>& on_text) {
  runtime::Decoder& decoder = *model_.decoder;
  messages_.push_back({{"role", "user"}, {"content", text}});
  Answer answer;
  try {
    const std::vector<int32_t> ids = prompt();
    const auto length = static_cast<int64_t>(ids.size());
    if (ids.empty()) fail("The chat template made a prompt without a single id.");
    if (length > decoder.context_length()) {
      fail("The conversation has {} ids by now, but the context holds {}; /reset begins anew.",
           length, decoder.context_length());
    }
    answer.reused_tokens = keep_common(ids);
    const int64_t limit = std::min(tokens, decoder.context_length() - length + 1);
    runtime::SamplerOptions how = sampling.sampler;
    how.seed += turns_++;
    StopAtText out(template_ ? "" : kUserLine, on_text);
    frontends::StreamDecoder stream(tokenizer_, true);
    answer.made = generate(decoder, how, ids, limit, end_ids_,
                           [&](int32_t id) { return out.add(stream.push(id)); });
    if (answer.made.stop != "text") {
      out.add(stream.finish());
      out.finish();
    }
    answer.text = out.text();
    held_ = ids;
    held_.insert(held_.end(), answer.made.ids.begin(), answer.made.ids.end());
    held_.resize(std::min(held_.size(), static_cast<size_t>(decoder.position())));
  } catch (...) {
    messages_.erase(messages_.size() - 1);
    throw;
  }
  // A plain prompt writes the blank before an answer itself.
  const bool blank = !template_ && answer.text.starts_with(' ');
  messages_.push_back(
      {{"role", "assistant"}, {"content", blank ? answer.text.substr(1) : answer.text}});
  return answer;
}

}  // namespace nibble::cli
