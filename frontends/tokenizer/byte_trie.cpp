#include "frontends/tokenizer/byte_trie.h"

#include <algorithm>

namespace nibble::frontends {

ByteTrie::ByteTrie(std::vector<std::pair<std::string, int32_t>> texts) {
  std::erase_if(texts, [](const auto& text) { return text.first.empty(); });
  if (texts.empty()) return;
  std::stable_sort(texts.begin(), texts.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  // The texts [begin, end) share the first `depth` bytes, which lead to `node`.
  struct Range {
    size_t begin, end, depth;
    uint32_t node;
  };
  nodes_.emplace_back();
  std::vector<Range> ranges{{0, texts.size(), 0, 0}};
  for (size_t next = 0; next < ranges.size(); ++next) {
    Range range = ranges[next];
    size_t at = range.begin;
    if (texts[at].first.size() == range.depth) {
      nodes_[range.node].value = texts[at].second;
      while (at < range.end && texts[at].first.size() == range.depth) ++at;
    }
    nodes_[range.node].first = static_cast<uint32_t>(nodes_.size());
    while (at < range.end) {
      const char byte = texts[at].first[range.depth];
      const size_t begin = at;
      while (at < range.end && texts[at].first[range.depth] == byte) ++at;
      ranges.push_back({begin, at, range.depth + 1, static_cast<uint32_t>(nodes_.size())});
      nodes_.emplace_back();
      nodes_.back().byte = static_cast<uint8_t>(byte);
      ++nodes_[range.node].count;
    }
  }
  roots_.assign(256, 0);
  for (uint32_t i = 0; i < nodes_[0].count; ++i) {
    roots_[nodes_[nodes_[0].first + i].byte] = nodes_[0].first + i;
  }
}

}  // namespace nibble::frontends
