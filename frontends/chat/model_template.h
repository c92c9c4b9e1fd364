// Where a model keeps its chat template and the tokens that the template writes:
// chat_template.jinja before chat_template.json before "chat_template" in tokenizer_config.json;
// bos_token and its like in tokenizer_config.json and special_tokens_map.json. Works on the texts
// of these documents, wherever they were found.
#pragma once

#include <map>
#include <string>

#include "frontends/chat/chat_template.h"

namespace nibble::frontends {

struct ModelTemplate {
  std::string source;  // the Jinja text; empty when the model has none
  std::string origin;  // the document that it was in
  // "bos_token": "<s>" and so on, those that the model has.
  ChatTemplate::Json tokens = ChatTemplate::Json::object();
};

// `documents`: texts by file name. Of several named templates the one called `name` is taken, or
// when that is empty "tool_use" with tools and "default" otherwise. `origin` names the model in
// messages. Throws Error on a damaged document, or when there is no template of that name.
ModelTemplate read_model_template(const std::map<std::string, std::string>& documents,
                                  const std::string& origin, const std::string& name,
                                  bool with_tools);

}  // namespace nibble::frontends
