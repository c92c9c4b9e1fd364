// A set of texts to look prefixes up in, byte by byte: which of them does this text start with?
// Built once, read by many threads. Private to the tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble::frontends {

class ByteTrie {
 public:
  ByteTrie() = default;
  // Each text with its value (not negative). Of a text given twice the first value counts; empty
  // texts are left out.
  explicit ByteTrie(std::vector<std::pair<std::string, int32_t>> texts);

  bool empty() const { return nodes_.empty(); }

  // visit(length, value) for every member that is a prefix of `text`, from short to long.
  template <typename Visit>
  void prefixes(std::string_view text, Visit&& visit) const {
    if (nodes_.empty()) return;
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      node = child(node, static_cast<uint8_t>(text[i]));
      if (node == 0) return;
      if (nodes_[node].value >= 0) visit(i + 1, nodes_[node].value);
    }
  }

  // The longest member that is a prefix of `text`; length 0 when there is none.
  struct Match {
    size_t length = 0;
    int32_t value = -1;
  };
  Match longest(std::string_view text) const {
    Match match;
    prefixes(text, [&](size_t length, int32_t value) { match = {length, value}; });
    return match;
  }

 private:
  // The children of a node lie together, by byte. The root is node 0, which is nobody's child.
  struct Node {
    uint32_t first = 0;
    int32_t value = -1;
    uint16_t count = 0;
    uint8_t byte = 0;
  };
  uint32_t child(uint32_t node, uint8_t byte) const {
    if (node == 0) return roots_[byte];
    uint32_t low = nodes_[node].first, end = low + nodes_[node].count, high = end;
    while (low < high) {
      const uint32_t middle = (low + high) / 2;
      if (nodes_[middle].byte < byte) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low < end && nodes_[low].byte == byte ? low : 0;
  }

  std::vector<Node> nodes_;
  std::vector<uint32_t> roots_;  // by first byte
};

}  // namespace nibble::frontends
