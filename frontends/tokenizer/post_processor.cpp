#include "frontends/tokenizer/post_processor.h"

#include <algorithm>

#include "frontends/tokenizer/model.h"

namespace nibble::frontends {
namespace {

// What a processor hands to the next one of its sequence: the text with ids around it, or ids alone
// (`before`). A template makes a piece of every item; the next processor then takes two pieces for
// a pair of texts, as the library does.
struct Piece {
  std::vector<int32_t> before, after;
  bool text = false;
};
using Pieces = std::vector<Piece>;

Pieces fill_template(const JsonView& json, const Pieces& from) {
  json.allow_only({"type", "single", "pair", "special_tokens"});
  if (from.size() > 2) {
    fail("{} is a template for one text or two, but the processors before it make {} parts.",
         json.where(), from.size());
  }
  Pieces out;
  const JsonView form = json.at(from.size() == 1 ? "single" : "pair");
  for (const JsonView& item : form.items()) {
    if (auto sequence = item.find("Sequence")) {
      const std::string& id = sequence->at("id").string();
      if (id != "A" && (id != "B" || from.size() == 1)) {
        fail("{} is \"{}\", which is no text of this template.", sequence->at("id").where(), id);
      }
      out.push_back(from[id == "A" ? 0 : 1]);
      continue;
    }
    Piece& piece = out.emplace_back();
    const std::string& name = item.at("SpecialToken").at("id").string();
    for (const JsonView& id : json.at("special_tokens").at(name).at("ids").items()) {
      piece.before.push_back(read_id(id));
    }
  }
  const auto texts = std::count_if(out.begin(), out.end(), [](const Piece& p) { return p.text; });
  if (texts != 1) fail("{} should hold the text once, but it does {} times.", form.where(), texts);
  return out;
}

// ["text", id]
int32_t read_pair(const JsonView& json) {
  std::vector<JsonView> pair = json.items();
  if (pair.size() != 2) json.mismatch("a pair of a token and its id");
  return read_id(pair[1]);
}

// The first piece between `cls` and `sep`, those after it before a `sep`; RoBERTa's begin with one
// too.
void surround(const JsonView& json, bool roberta, Pieces& pieces) {
  const int32_t cls = read_pair(json.at("cls")), sep = read_pair(json.at("sep"));
  for (size_t i = 0; i < pieces.size(); ++i) {
    std::vector<int32_t>& before = pieces[i].before;
    if (i == 0 || roberta) before.insert(before.begin(), i == 0 ? cls : sep);
    (pieces[i].text ? pieces[i].after : before).push_back(sep);
  }
}

void process(const JsonView& json, Pieces& pieces, int depth) {
  if (depth > 8) fail("{} nests sequences more than 8 deep.", json.where());
  const std::string& type = json.type();
  if (type == "Sequence") {
    json.allow_only({"type", "processors"});
    for (const JsonView& item : json.at("processors").items()) process(item, pieces, depth + 1);
  } else if (type == "TemplateProcessing") {
    pieces = fill_template(json, pieces);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    json.allow_only({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
    surround(json, type == "RobertaProcessing", pieces);
  } else if (type == "ByteLevel") {  // moves offsets, no ids
    json.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  } else {
    fail("{} is a post-processor of type \"{}\", which is not supported.", json.where(), type);
  }
}

}  // namespace

void PostProcessor::add(const JsonView& json) {
  Pieces pieces = {{.before = {}, .after = {}, .text = true}};
  process(json, pieces, 0);
  std::vector<int32_t>* out = &before;
  for (const Piece& piece : pieces) {
    out->insert(out->end(), piece.before.begin(), piece.before.end());
    if (piece.text) out = &after;
    out->insert(out->end(), piece.after.begin(), piece.after.end());
  }
}

}  // namespace nibble::frontends
