// Reads tokenizer.json. What the file says beside the parts (truncation and padding of batches) is
// for training and has no effect.
#include "frontends/tokenizer/json_view.h"
#include "frontends/tokenizer/parts.h"
#include "runtime/json_text.h"

namespace nibble::frontends {

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& origin) {
  const nlohmann::json root = runtime::parse_json(json, origin);
  const JsonView view(root, "", origin);
  view.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer",
                   "pre_tokenizer", "post_processor", "decoder", "model"});
  TokenizerParts parts;
  parts.origin = origin;
  parts.model = make_model(view.at("model"));
  if (auto part = view.find("normalizer")) parts.normalizer.add(*part);
  if (auto part = view.find("pre_tokenizer")) parts.pre_tokenizer.add(*part);
  if (auto part = view.find("post_processor")) parts.post_processor.add(*part);
  if (auto part = view.find("decoder")) {
    parts.decoder.add(*part);
  } else {
    parts.decoder.add_join_by_space();
  }
  if (auto part = view.find("added_tokens")) parts.added = read_added_tokens(*part);
  return make_tokenizer(std::move(parts));
}

}  // namespace nibble::frontends
