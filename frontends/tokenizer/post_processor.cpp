#include "frontends/tokenizer/post_processor.h"

#include "frontends/tokenizer/model.h"

namespace nibble::frontends {
namespace {

void add_template(const JsonView& json, PostProcessor& out) {
  json.allow_only({"type", "single", "pair", "special_tokens"});
  std::vector<int32_t> before, after;
  bool seen_text = false;
  for (const JsonView& item : json.at("single").items()) {
    if (auto sequence = item.find("Sequence")) {
      if (sequence->at("id").string() != "A" || seen_text) {
        fail("{} should hold the sequence A once.", json.at("single").where());
      }
      seen_text = true;
      continue;
    }
    const std::string& name = item.at("SpecialToken").at("id").string();
    for (const JsonView& id : json.at("special_tokens").at(name).at("ids").items()) {
      (seen_text ? after : before).push_back(read_id(id));
    }
  }
  if (!seen_text) fail("{} lacks the sequence A.", json.at("single").where());
  // Of processors in sequence, a later one goes around what an earlier one made.
  out.before.insert(out.before.begin(), before.begin(), before.end());
  out.after.insert(out.after.end(), after.begin(), after.end());
}

// ["text", id]
int32_t read_pair(const JsonView& json) {
  std::vector<JsonView> pair = json.items();
  if (pair.size() != 2) json.mismatch("a pair of a token and its id");
  return read_id(pair[1]);
}

}  // namespace

void PostProcessor::add(const JsonView& json, int depth) {
  if (depth > 8) fail("{} nests sequences more than 8 deep.", json.where());
  const std::string& type = json.type();
  if (type == "Sequence") {
    json.allow_only({"type", "processors"});
    for (const JsonView& item : json.at("processors").items()) add(item, depth + 1);
  } else if (type == "TemplateProcessing") {
    add_template(json, *this);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    json.allow_only({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
    before.insert(before.begin(), read_pair(json.at("cls")));
    after.push_back(read_pair(json.at("sep")));
  } else if (type == "ByteLevel") {  // moves offsets, no ids
    json.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  } else {
    fail("{} is a post-processor of type \"{}\", which is not supported.", json.where(), type);
  }
}

}  // namespace nibble::frontends
