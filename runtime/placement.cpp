#include "runtime/placement.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "jit/error.h"

namespace nibble::runtime {
namespace {

// A processor that a thread may have.
struct Slot {
  int core = 0, sibling = 0;  // sibling: how many processors of the core come before it
  int node = 0;               // index into Placement::nodes, once chosen
};

// The processors of one node, best first.
struct Node {
  int index = 0;  // in the topology
  int cores = 0;
  std::vector<Slot> slots;
  size_t taken = 0;
};

const CpuCore& core_of(const CpuTopology& cpus, const Slot& slot) {
  return cpus.cores[static_cast<size_t>(slot.core)];
}

double speed_of(const CpuTopology& cpus, const Slot& slot) {
  return cpus.kinds[static_cast<size_t>(core_of(cpus, slot).kind)].speed;
}

std::vector<Node> list_nodes(const CpuTopology& cpus) {
  std::vector<Node> nodes(cpus.nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) nodes[i].index = static_cast<int>(i);
  for (size_t c = 0; c < cpus.cores.size(); ++c) {
    const CpuCore& core = cpus.cores[c];
    Node& node = nodes[static_cast<size_t>(core.node)];
    ++node.cores;
    for (size_t s = 0; s < core.pus.size(); ++s) {
      node.slots.push_back({static_cast<int>(c), static_cast<int>(s)});
    }
  }
  for (Node& node : nodes) {
    std::stable_sort(node.slots.begin(), node.slots.end(), [&](const Slot& a, const Slot& b) {
      return std::tuple(a.sibling, -speed_of(cpus, a)) < std::tuple(b.sibling, -speed_of(cpus, b));
    });
  }
  return nodes;
}

// Keeps the nodes that these threads should use, in the machine's order.
void choose_nodes(std::vector<Node>& nodes, int threads) {
  std::stable_sort(nodes.begin(), nodes.end(),
                   [](const Node& a, const Node& b) { return a.cores > b.cores; });
  const int wanted = (threads + kThreadsPerNode - 1) / kThreadsPerNode;
  size_t used = 0;
  for (int cores = 0; used < nodes.size() && nodes[used].cores > 0; ++used) {
    if (static_cast<int>(used) >= wanted && cores >= threads) break;
    cores += nodes[used].cores;
  }
  nodes.resize(used);
  std::sort(nodes.begin(), nodes.end(),
            [](const Node& a, const Node& b) { return a.index < b.index; });
}

// The node that the next thread goes to: cores before siblings, then the one with fewest threads.
Node* emptiest(std::vector<Node>& nodes) {
  Node* best = nullptr;
  const auto rank = [](const Node& node) {
    return std::tuple(node.slots[node.taken].sibling, node.taken);
  };
  for (Node& node : nodes) {
    if (node.taken == node.slots.size()) continue;
    if (best == nullptr || rank(node) < rank(*best)) best = &node;
  }
  return best;
}

// One slot a thread while there are slots, ordered by node and core.
std::vector<Slot> choose_slots(const CpuTopology& cpus, int threads, Placement& out) {
  std::vector<Node> nodes = list_nodes(cpus);
  choose_nodes(nodes, threads);
  for (int t = 0; t < threads; ++t) {
    Node* node = emptiest(nodes);
    if (node == nullptr) break;
    ++node->taken;
  }
  std::vector<Slot> slots;
  for (Node& node : nodes) {
    node.slots.resize(node.taken);
    for (Slot& slot : node.slots) slot.node = static_cast<int>(out.nodes.size());
    std::sort(node.slots.begin(), node.slots.end(), [&](const Slot& a, const Slot& b) {
      return std::tuple(-speed_of(cpus, a), a.core, a.sibling) <
             std::tuple(-speed_of(cpus, b), b.core, b.sibling);
    });
    slots.insert(slots.end(), node.slots.begin(), node.slots.end());
    out.nodes.push_back(cpus.nodes[static_cast<size_t>(node.index)]);
  }
  return slots;
}

void weigh(const CpuTopology& cpus, const std::vector<Slot>& slots, Placement& out) {
  std::vector<int> sharers(cpus.cores.size());
  for (const Slot& slot : slots) ++sharers[static_cast<size_t>(slot.core)];
  double total = 0;
  for (size_t t = 0; t < out.threads.size(); ++t) {
    PlacedThread& thread = out.threads[t];
    if (out.threads.size() == slots.size()) {
      thread.weight = speed_of(cpus, slots[t]) / sharers[static_cast<size_t>(slots[t].core)];
    }
    total += thread.weight;
    thread.up_to = total;
  }
  for (PlacedThread& thread : out.threads) thread.up_to /= total;
}

}  // namespace

Range Placement::home_range(int64_t count, int64_t unit, int thread) const noexcept {
  const int64_t units = (count + unit - 1) / unit;
  const auto edge = [&](int t) {
    if (t <= 0) return int64_t{0};
    if (t >= size()) return count;
    const double share = threads[static_cast<size_t>(t) - 1].up_to;
    const auto whole = static_cast<int64_t>(static_cast<double>(units) * share + 0.5);
    return std::min(count, whole * unit);
  };
  return {edge(thread), edge(thread + 1)};
}

int default_threads(const CpuTopology& cpus, double quota) {
  auto threads = static_cast<double>(cpus.cores.size());
  if (quota > 0) threads = std::min(threads, std::ceil(quota));
  return std::max(1, static_cast<int>(threads));
}

Placement plan_placement(const CpuTopology& cpus, int threads, double quota) {
  if (threads < 1 || cpus.cores.empty()) {
    fail("A placement needs a thread and a core, found {} and {}.", threads, cpus.cores.size());
  }
  Placement out;
  out.kinds = cpus.kinds;
  const std::vector<Slot> slots = choose_slots(cpus, threads, out);
  const auto count = static_cast<size_t>(threads);
  out.crowded = count > slots.size() || (quota > 0 && threads > std::ceil(quota));
  // Past the last processor the threads are dealt out anew, unbound, each beside one that is bound.
  for (size_t s = 0; s < slots.size(); ++s) {
    const CpuCore& core = core_of(cpus, slots[s]);
    PlacedThread thread;
    thread.pu = static_cast<int>(core.pus[static_cast<size_t>(slots[s].sibling)]);
    thread.node = slots[s].node;
    thread.kind = core.kind;
    for (size_t t = s; t < count; t += slots.size()) {
      out.threads.push_back(thread);
      thread.pu = -1;
    }
  }
  weigh(cpus, slots, out);
  return out;
}

}  // namespace nibble::runtime
