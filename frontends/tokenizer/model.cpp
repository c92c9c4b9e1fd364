#include "frontends/tokenizer/model.h"

namespace nibble::frontends {
namespace {

constexpr size_t kMostCachedWords = size_t{1} << 16;
constexpr size_t kLongestCachedWord = 256;  // bytes

}  // namespace

bool WordCache::append(std::string_view word, std::vector<int32_t>& ids) const {
  auto it = words_.find(word);
  if (it == words_.end()) return false;
  auto begin = ids_.begin() + it->second.begin;
  ids.insert(ids.end(), begin, begin + it->second.count);
  return true;
}

void WordCache::add(std::string_view word, std::span<const int32_t> ids) {
  if (words_.size() >= kMostCachedWords || word.size() > kLongestCachedWord) return;
  words_.emplace(word,
                 Slice{static_cast<uint32_t>(ids_.size()), static_cast<uint32_t>(ids.size())});
  ids_.insert(ids_.end(), ids.begin(), ids.end());
}

void Model::tokenize(std::string_view word, std::vector<int32_t>& ids, WordCache& cache) const {
  if (cache.append(word, ids)) return;
  const size_t before = ids.size();
  tokenize_word(word, ids);
  cache.add(word, std::span(ids).subspan(before));
}

void Model::find_byte_tokens() {
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[static_cast<size_t>(byte)] = id_of(fmt::format("<0x{:02X}>", byte));
  }
}

bool Model::append_byte_tokens(std::string_view text, std::vector<int32_t>& ids) const {
  const size_t before = ids.size();
  for (char c : text) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id < 0) {
      ids.resize(before);
      return false;
    }
    ids.push_back(id);
  }
  return true;
}

int32_t read_id(const JsonView& json) {
  int64_t id = json.integer();
  if (id < 0 || id >= kMostIds)
    fail("{} is the id {}, outside 0..{}.", json.where(), id, kMostIds - 1);
  return static_cast<int32_t>(id);
}

Vocabulary read_vocabulary(const JsonView& json) {
  if (!json.is_object()) json.mismatch("an object");
  Vocabulary vocabulary;
  vocabulary.reserve(json.json().size());
  for (const auto& [token, id] : json.json().items()) {
    vocabulary.emplace(token, read_id(JsonView(id, "model.vocab." + token, json.origin())));
  }
  return vocabulary;
}

std::unique_ptr<Model> make_model(const JsonView& json) {
  // Files of the first years carry no type; what they hold tells.
  std::string type = json.string_or("type", json.find("merges")                     ? "BPE"
                                            : json.find("unk_id")                   ? "Unigram"
                                            : json.find("max_input_chars_per_word") ? "WordPiece"
                                                                                    : "");
  if (type == "BPE") return make_bpe(json);
  if (type == "Unigram") return make_unigram(json);
  if (type == "WordLevel") return make_word_level(json);
  if (type == "WordPiece") return make_word_piece(json);
  if (type.empty()) fail("{} has no member \"type\".", json.where());
  fail("{} is a model of type \"{}\", which is not supported.", json.where(), type);
}

}  // namespace nibble::frontends
