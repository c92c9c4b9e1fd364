#include "frontends/tokenizer/model.h"

namespace nibble::frontends {

bool Model::append_byte_tokens(std::string_view text, std::vector<int32_t>& ids) const {
  size_t before = ids.size();
  for (char c : text) {
    int32_t id = id_of(fmt::format("<0x{:02X}>", static_cast<unsigned char>(c)));
    if (id < 0) {
      ids.resize(before);
      return false;
    }
    ids.push_back(id);
  }
  return true;
}

int32_t read_id(const JsonView& json) {
  constexpr int64_t kMostIds = 1 << 24;  // a hundred times the largest vocabulary in use
  int64_t id = json.integer();
  if (id < 0 || id >= kMostIds)
    fail("{} is the id {}, outside 0..{}.", json.where(), id, kMostIds - 1);
  return static_cast<int32_t>(id);
}

std::unique_ptr<Model> make_model(const JsonView& json) {
  // Files of the first years carry no type; they are BPE when they have merges.
  std::string type = json.string_or("type", json.find("merges") ? "BPE" : "");
  if (type == "BPE") return make_bpe(json);
  if (type == "Unigram") return make_unigram(json);
  if (type.empty()) fail("{} has no member \"type\".", json.where());
  fail("{} is a model of type \"{}\", which is not supported.", json.where(), type);
}

}  // namespace nibble::frontends
