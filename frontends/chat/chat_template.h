// A chat template: the Jinja text that comes with a model and writes a conversation as the prompt
// that the model was trained on, rendered as transformers renders it (an immutable sandbox with
// trim_blocks and lstrip_blocks, break and continue, {% generation %}, raise_exception,
// strftime_now, and tojson without HTML escapes). Not a general Jinja: there are no other
// templates to include, and what one may use of steps, depth, memory and output is limited;
// integers have 64 bits, there are no bytes, and what is left to chance (random, lipsum) is
// refused. The program's commands call this; what a template is read from is in model_template.h.
//
// Jinja evaluates what is constant when it compiles, so an error in a constant expression may come
// up without being reached, or give nothing; here it is an error where it is reached. And a name
// that a body sets only after a loop, macro or block within it is undefined in there to Jinja, even
// where a variable of the chat has it; here it is that variable.
#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "frontends/chat/budget.h"

namespace nibble::frontends {

class ChatTemplate {
 public:
  // JSON that keeps the order of members, as templates may show it.
  using Json = nlohmann::ordered_json;

  struct Options {
    std::optional<std::tm> now;  // what strftime_now tells; otherwise the local time
    chat::Limits limits;         // memory_bytes: beyond what the variables take
  };

  // Throws chat::TemplateError in Jinja's words, or Error on text that is not UTF-8.
  static ChatTemplate parse(std::string_view source);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // `variables`: an object with messages, tools, add_generation_prompt, bos_token and so on. Throws
  // chat::TemplateError with the message that Jinja, Python or the template itself raises, and
  // Error past a limit.
  std::string render(const Json& variables, const Options& options) const;
  std::string render(const Json& variables) const { return render(variables, Options()); }

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace nibble::frontends
