#include "frontends/chat/model_template.h"

#include <array>
#include <optional>

#include "jit/error.h"
#include "runtime/json_text.h"

namespace nibble::frontends {
namespace {

using Json = ChatTemplate::Json;
using Documents = std::map<std::string, std::string>;

constexpr std::array<const char*, 7> kTokens = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                "pad_token", "cls_token", "mask_token"};

// The object in the document of this name; an empty one when there is none.
Json read_object(const Documents& documents, const std::string& name, const std::string& origin) {
  const auto found = documents.find(name);
  if (found == documents.end()) return Json::object();
  Json json = runtime::parse_ordered_json(found->second, origin + ": " + name);
  if (!json.is_object()) {
    fail("{}: {} should hold a JSON object, but it is of type {}.", origin, name, json.type_name());
  }
  return json;
}

// A token is written as its text, or as an object with its "content".
std::optional<std::string> token_text(const Json& json) {
  if (json.is_string()) return json.get<std::string>();
  if (!json.is_object()) return std::nullopt;
  const auto content = json.find("content");
  if (content == json.end() || !content->is_string()) return std::nullopt;
  return content->get<std::string>();
}

Json read_tokens(const Json& config, const Json& special) {
  Json tokens = Json::object();
  for (const char* name : kTokens) {
    for (const Json* json : {&config, &special}) {
      const auto found = json->find(name);
      const auto text = found == json->end() ? std::nullopt : token_text(*found);
      if (!text) continue;
      tokens[name] = *text;
      break;
    }
  }
  return tokens;
}

// One template, or a list of {"name", "template"}.
std::string choose(const Json& json, const std::string& where, const std::string& name,
                   bool with_tools) {
  if (json.is_string()) {
    if (!name.empty())
      fail("{}: there is one template, and it has no name like '{}'.", where, name);
    return json.get<std::string>();
  }
  if (!json.is_array()) {
    fail("{}: \"chat_template\" should be a text or a list, but it is of type {}.", where,
         json.type_name());
  }
  std::map<std::string, std::string> named;
  std::string names;
  for (const Json& item : json) {
    if (!item.is_object() || !item.contains("name") || !item.contains("template") ||
        !item["name"].is_string() || !item["template"].is_string()) {
      fail("{}: each of several chat templates should have the texts \"name\" and \"template\".",
           where);
    }
    named[item["name"].get<std::string>()] = item["template"].get<std::string>();
    names += (names.empty() ? "" : ", ") + item["name"].get<std::string>();
  }
  const bool tool_use = name.empty() && with_tools && named.contains("tool_use");
  const std::string wanted = !name.empty() ? name : tool_use ? "tool_use" : "default";
  const auto found = named.find(wanted);
  if (found == named.end()) {
    fail("{}: there is no chat template named '{}'; there are: {}.", where, wanted, names);
  }
  return found->second;
}

}  // namespace

ModelTemplate read_model_template(const Documents& documents, const std::string& origin,
                                  const std::string& name, bool with_tools) {
  const Json config = read_object(documents, "tokenizer_config.json", origin);
  ModelTemplate out;
  out.tokens = read_tokens(config, read_object(documents, "special_tokens_map.json", origin));
  if (const auto file = documents.find("chat_template.jinja"); file != documents.end()) {
    out.origin = "chat_template.jinja";
    out.source = choose(Json(file->second), origin + ": " + out.origin, name, with_tools);
    return out;
  }
  const Json processor = read_object(documents, "chat_template.json", origin);
  for (const auto& [json, document] :
       {std::pair(&processor, "chat_template.json"), std::pair(&config, "tokenizer_config.json")}) {
    const auto found = json->find("chat_template");
    if (found == json->end() || found->is_null()) continue;
    out.origin = document;
    out.source = choose(*found, origin + ": " + document, name, with_tools);
    return out;
  }
  return out;
}

}  // namespace nibble::frontends
