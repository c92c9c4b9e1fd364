#include "runtime/cpu_topology.h"

#include <hwloc.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string_view>

namespace nibble::runtime {
namespace {

constexpr double kNextKind = 0.5;  // guessed speed of a kind beside the next faster one

struct TopologyDeleter {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, TopologyDeleter>;

struct BitmapDeleter {
  void operator()(hwloc_bitmap_s* bitmap) const { hwloc_bitmap_free(bitmap); }
};
using Bitmap = std::unique_ptr<hwloc_bitmap_s, BitmapDeleter>;

// Cores, processors and memory only: devices and caches would cost milliseconds at every start.
Topology load_topology() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return nullptr;
  Topology topology(raw);
  hwloc_topology_set_all_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_NONE);
  hwloc_topology_set_type_filter(raw, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
  if (hwloc_topology_load(raw) != 0) return nullptr;
  return topology;
}

// Read once: the machine does not change, only the mask does.
hwloc_topology* machine() {
  static const Topology topology = load_topology();
  return topology.get();
}

std::mutex& machine_mutex() {
  static std::mutex mutex;
  return mutex;
}

CpuTopology from_mask() {
  CpuTopology out;
  out.nodes = {0};
  out.kinds = {{}};
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (unsigned pu = 0; pu < CPU_SETSIZE; ++pu) {
      if (CPU_ISSET(pu, &set)) out.cores.push_back({.pus = {pu}});
    }
  }
  if (out.cores.empty()) out.cores.push_back({.pus = {0}});
  return out;
}

// The OS number of the node whose memory is nearest.
unsigned node_of(hwloc_topology* topology, hwloc_obj_t pu) {
  if (pu->nodeset == nullptr || hwloc_bitmap_iszero(pu->nodeset) != 0) return 0;
  for (int i = hwloc_bitmap_first(pu->nodeset); i >= 0; i = hwloc_bitmap_next(pu->nodeset, i)) {
    const auto number = static_cast<unsigned>(i);
    hwloc_obj_t node = hwloc_get_numanode_obj_by_os_index(topology, number);
    if (node != nullptr && node->attr->numanode.local_memory > 0) return number;
  }
  return static_cast<unsigned>(hwloc_bitmap_first(pu->nodeset));
}

// hwloc's kind of a processor, in the order of rising efficiency; -1 when it knows none.
int kind_of(hwloc_topology* topology, hwloc_obj_t pu) {
  return hwloc_cpukinds_get_by_cpuset(topology, pu->cpuset, 0);
}

// The place of `value` in `list`, where it is put when it is new.
template <typename T>
int index_of(std::vector<T>& list, const T& value) {
  const auto at = std::find(list.begin(), list.end(), value);
  const auto index = static_cast<int>(at - list.begin());
  if (at == list.end()) list.push_back(value);
  return index;
}

std::string kind_name(hwloc_topology* topology, int kind) {
  unsigned count = 0;
  hwloc_info_s* infos = nullptr;
  if (kind < 0 || hwloc_cpukinds_get_info(topology, static_cast<unsigned>(kind), nullptr, nullptr,
                                          &count, &infos, 0) != 0) {
    return "";
  }
  for (unsigned i = 0; i < count; ++i) {
    if (std::string_view(infos[i].name) == "CoreType") return infos[i].value;
  }
  return "";
}

// `kinds`: hwloc's numbers of the kinds met, the larger the more efficient.
std::vector<CpuKind> guess_speeds(hwloc_topology* topology, const std::vector<int>& kinds) {
  std::vector<CpuKind> out;
  for (const int kind : kinds) {
    const auto faster =
        std::count_if(kinds.begin(), kinds.end(), [&](int other) { return other > kind; });
    out.push_back({kind_name(topology, kind), std::pow(kNextKind, static_cast<double>(faster))});
  }
  return out;
}

bool one_node_wanted() {
  const char* value = std::getenv("NIBBLE_NUMA");
  return value != nullptr && std::string_view(value) == "0";
}

}  // namespace

size_t CpuTopology::pus() const {
  size_t count = 0;
  for (const CpuCore& core : cores) count += core.pus.size();
  return count;
}

CpuTopology describe_topology(hwloc_topology* topology, const hwloc_bitmap_s* allowed) {
  CpuTopology out;
  std::vector<hwloc_obj_t> owners;
  std::vector<int> kinds;
  for (hwloc_obj_t pu = nullptr;
       (pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu)) != nullptr;) {
    if (hwloc_bitmap_isset(allowed, pu->os_index) == 0) continue;
    hwloc_obj_t owner = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, pu);
    const auto core = static_cast<size_t>(index_of(owners, owner != nullptr ? owner : pu));
    if (core == out.cores.size()) {
      out.cores.push_back({.pus = {},
                           .node = index_of(out.nodes, node_of(topology, pu)),
                           .kind = index_of(kinds, kind_of(topology, pu))});
    }
    out.cores[core].pus.push_back(pu->os_index);
  }
  out.kinds = guess_speeds(topology, kinds);
  return out;
}

CpuTopology allowed_cpus() {
  const std::scoped_lock lock(machine_mutex());
  hwloc_topology* topology = machine();
  const Bitmap mask(hwloc_bitmap_alloc());
  if (topology == nullptr || mask == nullptr ||
      hwloc_get_cpubind(topology, mask.get(), HWLOC_CPUBIND_THREAD) != 0) {
    return from_mask();
  }
  CpuTopology out = describe_topology(topology, mask.get());
  if (out.cores.empty()) return from_mask();
  if (one_node_wanted()) {
    out.nodes.resize(1);
    for (CpuCore& core : out.cores) core.node = 0;
  }
  return out;
}

void measure_speeds(CpuTopology& topology, const MeasureSpeed& measure) {
  if (topology.kinds.size() < 2) return;
  std::vector<double> speeds(topology.kinds.size());
  for (size_t kind = 0; kind < speeds.size(); ++kind) {
    const auto core =
        std::find_if(topology.cores.begin(), topology.cores.end(),
                     [&](const CpuCore& c) { return c.kind == static_cast<int>(kind); });
    if (core != topology.cores.end()) speeds[kind] = measure(core->pus.front());
    if (!std::isfinite(speeds[kind]) || speeds[kind] <= 0) return;
  }
  const double fastest = *std::max_element(speeds.begin(), speeds.end());
  for (size_t kind = 0; kind < speeds.size(); ++kind) {
    topology.kinds[kind].speed = speeds[kind] / fastest;
  }
}

bool prefer_node(void* address, size_t bytes, unsigned node) {
  const std::scoped_lock lock(machine_mutex());
  hwloc_topology* topology = machine();
  const Bitmap set(hwloc_bitmap_alloc());
  if (topology == nullptr || set == nullptr || hwloc_bitmap_only(set.get(), node) != 0) {
    return false;
  }
  // Not strict: hwloc prefers the node then, so that a full one does not end the process.
  return hwloc_set_area_membind(topology, address, bytes, set.get(), HWLOC_MEMBIND_BIND,
                                HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_MIGRATE) == 0;
}

}  // namespace nibble::runtime
