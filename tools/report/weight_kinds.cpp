#include "tools/report/weight_kinds.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <string_view>

#include "jit/error.h"

namespace nibble::report {
namespace {

// A name around the number of its layer.
struct Split {
  std::string before, after;
  auto operator<=>(const Split&) const = default;
};

bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

bool is_separator(char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }

// Leading zeros do not count.
bool says(std::string_view digits, const std::string& number) {
  const size_t first = std::min(digits.find_first_not_of('0'), digits.size() - 1);
  return digits.substr(first) == number;
}

// Every way to take the layer's number out of the name.
std::vector<Split> splits_of(const LayerWeight& weight) {
  const std::string number = std::to_string(weight.layer);
  const std::string& name = weight.name;
  std::vector<Split> splits;
  for (size_t from = 0; from < name.size(); ++from) {
    if (!is_digit(name[from])) continue;
    size_t to = from;
    while (to < name.size() && is_digit(name[to])) ++to;
    if (says(std::string_view(name).substr(from, to - from), number)) {
      splits.push_back({name.substr(0, from), name.substr(to)});
    }
    from = to;
  }
  return splits;
}

std::string without_weight(std::string text) {
  for (const std::string_view end : {".weight", "/weight", "_weight"}) {
    if (text.size() > end.size() && text.ends_with(end)) text.resize(text.size() - end.size());
  }
  return text;
}

// What comes after the number, or before it where nothing does.
std::string short_label(const Split& split) {
  std::string text = split.after;
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), is_separator));
  if (text.empty()) text = split.before;
  while (!text.empty() && is_separator(text.back())) text.pop_back();
  return without_weight(text);
}

// The whole name without the number where the short ones of several kinds are the same.
std::map<Split, std::string> labels_of(const std::set<Split>& kinds) {
  std::map<std::string, int> uses;
  for (const Split& kind : kinds) ++uses[short_label(kind)];
  std::map<Split, std::string> labels;
  for (const Split& kind : kinds) {
    const std::string label = short_label(kind);
    labels[kind] = uses[label] == 1 && !label.empty() ? label : kind.before + "*" + kind.after;
  }
  return labels;
}

}  // namespace

WeightKinds weight_kinds(std::span<const LayerWeight> weights) {
  std::vector<LayerWeight> distinct;
  std::set<std::pair<int64_t, std::string>> seen;
  for (const LayerWeight& weight : weights) {
    if (seen.insert({weight.layer, weight.name}).second) distinct.push_back(weight);
  }
  std::map<Split, int> votes;
  for (const LayerWeight& weight : distinct) {
    if (weight.layer < 0) continue;
    const std::vector<Split> splits = splits_of(weight);
    for (const Split& split : std::set<Split>(splits.begin(), splits.end())) ++votes[split];
  }
  std::vector<Split> chosen(distinct.size());  // empty: no number in the name
  std::set<Split> kinds;
  for (size_t i = 0; i < distinct.size(); ++i) {
    if (distinct[i].layer < 0) continue;
    int most = 0;
    for (const Split& split : splits_of(distinct[i])) {
      if (votes[split] > most) {
        most = votes[split];
        chosen[i] = split;
      }
    }
    if (most > 0) kinds.insert(chosen[i]);
  }
  const std::map<Split, std::string> labels = labels_of(kinds);

  WeightKinds result;
  std::map<std::pair<bool, std::string>, size_t> at;  // outside of the layers, label
  std::map<int64_t, int> counted;                     // in each layer
  for (size_t i = 0; i < distinct.size(); ++i) {
    const LayerWeight& weight = distinct[i];
    std::string label;
    if (weight.layer < 0) {
      label = without_weight(weight.name);
    } else if (const auto named = labels.find(chosen[i]); named != labels.end()) {
      label = named->second;
    } else {
      label = fmt::format("weight {}", ++counted[weight.layer]);
      result.counted = true;
    }
    const auto [place, added] = at.try_emplace({weight.layer < 0, label}, result.labels.size());
    if (added) {
      const bool taken = at.contains({weight.layer >= 0, label});
      result.labels.push_back(taken ? label + (weight.layer < 0 ? ", outside" : ", in layers")
                                    : label);
    }
    result.kind_of[{weight.layer, weight.name}] = place->second;
  }
  return result;
}

}  // namespace nibble::report
