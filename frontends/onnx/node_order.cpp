#include "frontends/onnx/node_order.h"

#include <functional>
#include <queue>
#include <string_view>
#include <unordered_map>

namespace nibble::frontends::onnx {

std::vector<size_t> node_order(const std::vector<NodeProto>& nodes) {
  std::unordered_map<std::string_view, size_t> makers;
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (const std::string_view name : nodes[i].outputs) {
      if (!name.empty()) makers.emplace(name, i);
    }
  }
  std::vector<std::vector<size_t>> users(nodes.size());
  std::vector<size_t> missing(nodes.size(), 0);  // makers that are not taken yet
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (const std::string_view name : nodes[i].inputs) {
      const auto maker = makers.find(name);
      if (maker == makers.end()) continue;
      users[maker->second].push_back(i);
      ++missing[i];
    }
  }
  std::priority_queue<size_t, std::vector<size_t>, std::greater<>> ready;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (missing[i] == 0) ready.push(i);
  }
  std::vector<size_t> order;
  while (!ready.empty()) {
    const size_t next = ready.top();
    ready.pop();
    order.push_back(next);
    for (const size_t user : users[next]) {
      if (--missing[user] == 0) ready.push(user);
    }
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (missing[i] != 0) order.push_back(i);
  }
  return order;
}

}  // namespace nibble::frontends::onnx
