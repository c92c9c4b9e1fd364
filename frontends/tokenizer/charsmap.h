// SentencePiece's "precompiled_charsmap": texts and what to replace them by, in a double-array trie
// as the Darts-clone library lays it out. Bytes:
//
//     uint32 LE n | n bytes: units of the trie, uint32 LE | replacements, each ended by a NUL
//
// A unit holds the label that leads to it, the offset of its children and whether a text ends here;
// then its first child holds the place of the replacement. Nothing in the file is trusted: a step
// out of the array ends the search. Private to the tokenizer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::frontends {

class Charsmap {
 public:
  Charsmap() = default;  // replaces nothing
  // `where` names the field in messages. Throws Error on damage.
  Charsmap(std::string_view blob, const std::string& where);

  bool empty() const { return units_.empty(); }

  struct Match {
    size_t length = 0;  // bytes of the text; 0: nothing is replaced
    std::string_view replacement;
  };
  // The longest member that `text` starts with, as SentencePiece asks; or the shortest, which a NUL
  // ends, as Hugging Face asks..
  Match longest(std::string_view text) const { return find(text, false, false); }
  Match shortest(std::string_view text) const { return find(text, true, true); }

 private:
  Match find(std::string_view text, bool shortest, bool stop_at_nul) const;

  std::vector<uint32_t> units_;
  std::string replacements_;  // ends in a NUL
};

// The bytes that a text in base 64 stands for; nullopt when it is none.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace nibble::frontends
