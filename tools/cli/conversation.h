// A conversation with a model: what was said, how it is written as a prompt, and what of that the
// decoder holds already. Not the dialogue with the user (chat.cpp).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "frontends/chat/chat_template.h"
#include "tools/cli/generate.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/output.h"
#include "tools/cli/sampling.h"

namespace nibble::cli {

struct Answer {
  std::string text;
  Generation made;
  int64_t reused_tokens = 0;  // of the prompt, held from before
};

class Conversation {
 public:
  // `variables`: more for the template, such as {"enable_thinking": false}. A model without a
  // template gets plain "User:" and "Assistant:" lines.
  Conversation(const LoadedModel& model, const frontends::Tokenizer& tokenizer, Json variables);

  bool has_template() const { return template_.has_value(); }
  const Json& messages() const { return messages_; }
  // Replaces the system message ("": none) and forgets all else.
  void begin(const std::string& system);
  // What the model says to `text`, handed to on_text piece by piece. An interrupted answer is kept
  // as far as it came. Throws Error, and nothing was said, when the template or the context
  // refuses.
  Answer ask(const std::string& text, const SamplingOptions& sampling, int64_t tokens,
             const std::function<void(const std::string&)>& on_text);

 private:
  std::vector<int32_t> prompt() const;
  std::string plain_text() const;
  int64_t keep_common(const std::vector<int32_t>& ids);

  const LoadedModel& model_;
  const frontends::Tokenizer& tokenizer_;
  std::optional<frontends::ChatTemplate> template_;
  Json variables_;
  Json messages_ = Json::array();
  std::vector<int64_t> end_ids_;
  std::vector<int32_t> held_;  // ids at the decoder's positions
  uint64_t turns_ = 0;
};

}  // namespace nibble::cli
