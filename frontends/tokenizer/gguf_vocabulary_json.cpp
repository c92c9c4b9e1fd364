#include <nlohmann/json.hpp>

#include "frontends/tokenizer/gguf_vocabulary.h"
#include "jit/error.h"
#include "runtime/json_text.h"

namespace nibble::frontends {
namespace {

using nlohmann::json;

json bytes_of(const std::string& text) {
  json list = json::array();
  for (const char c : text) list.push_back(static_cast<uint8_t>(c));
  return list;
}

std::string text_of(const json& list) {
  std::string text;
  for (const json& byte : list) text += static_cast<char>(byte.get<uint8_t>());
  return text;
}

}  // namespace

std::string to_json(const GgufVocabulary& v, const std::string& origin) {
  const json content = {{"model", v.model},
                        {"pre", v.pre},
                        {"tokens", v.tokens},
                        {"scores", v.scores},
                        {"token_types", v.token_types},
                        {"merges", v.merges},
                        {"bos_id", v.bos_id},
                        {"eos_id", v.eos_id},
                        {"add_bos", v.add_bos},
                        {"add_eos", v.add_eos},
                        {"add_space_prefix", v.add_space_prefix},
                        {"remove_extra_whitespaces", v.remove_extra_whitespaces},
                        {"precompiled_charsmap", bytes_of(v.precompiled_charsmap)}};
  try {
    return content.dump();
  } catch (const json::exception& error) {
    fail("{}: the vocabulary should be text in UTF-8, but: {}.", origin, error.what());
  }
}

GgufVocabulary gguf_vocabulary_from_json(std::string_view text, const std::string& origin) {
  GgufVocabulary v;
  try {
    const json content = runtime::parse_json(text, origin);
    content.at("model").get_to(v.model);
    content.at("pre").get_to(v.pre);
    content.at("tokens").get_to(v.tokens);
    content.at("scores").get_to(v.scores);
    content.at("token_types").get_to(v.token_types);
    content.at("merges").get_to(v.merges);
    content.at("bos_id").get_to(v.bos_id);
    content.at("eos_id").get_to(v.eos_id);
    content.at("add_bos").get_to(v.add_bos);
    content.at("add_eos").get_to(v.add_eos);
    content.at("add_space_prefix").get_to(v.add_space_prefix);
    content.at("remove_extra_whitespaces").get_to(v.remove_extra_whitespaces);
    v.precompiled_charsmap = text_of(content.at("precompiled_charsmap"));
  } catch (const json::exception& error) {
    fail("{}: this is no vocabulary of a GGUF: {}.", origin, error.what());
  }
  return v;
}

}  // namespace nibble::frontends
