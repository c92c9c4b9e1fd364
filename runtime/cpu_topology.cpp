#include "runtime/cpu_topology.h"

#include <hwloc.h>
#include <sched.h>

#include <algorithm>
#include <memory>
#include <mutex>

namespace nibble::runtime {
namespace {

struct TopologyDeleter {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, TopologyDeleter>;

struct BitmapDeleter {
  void operator()(hwloc_bitmap_s* bitmap) const { hwloc_bitmap_free(bitmap); }
};
using Bitmap = std::unique_ptr<hwloc_bitmap_s, BitmapDeleter>;

// Cores and processors only: devices and caches would cost milliseconds at every start.
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

AllowedCpus from_mask() {
  AllowedCpus allowed;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (unsigned pu = 0; pu < CPU_SETSIZE; ++pu) {
      if (CPU_ISSET(pu, &set)) allowed.pus.push_back(pu);
    }
  }
  allowed.cores = std::max(1, static_cast<int>(allowed.pus.size()));
  return allowed;
}

// The allowed processors of each core, in the machine's order.
std::vector<std::vector<unsigned>> by_core(hwloc_topology* topology, hwloc_const_bitmap_t mask) {
  std::vector<std::vector<unsigned>> cores;
  std::vector<hwloc_obj_t> owners;
  for (hwloc_obj_t pu = nullptr;
       (pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu)) != nullptr;) {
    if (hwloc_bitmap_isset(mask, pu->os_index) == 0) continue;
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, pu);
    if (core == nullptr) core = pu;
    const auto at = std::find(owners.begin(), owners.end(), core);
    if (at == owners.end()) {
      owners.push_back(core);
      cores.push_back({pu->os_index});
    } else {
      cores[static_cast<size_t>(at - owners.begin())].push_back(pu->os_index);
    }
  }
  return cores;
}

}  // namespace

AllowedCpus allowed_cpus() {
  const std::scoped_lock lock(machine_mutex());
  hwloc_topology* topology = machine();
  const Bitmap mask(hwloc_bitmap_alloc());
  if (topology == nullptr || mask == nullptr ||
      hwloc_get_cpubind(topology, mask.get(), HWLOC_CPUBIND_THREAD) != 0) {
    return from_mask();
  }
  const auto cores = by_core(topology, mask.get());
  if (cores.empty()) return from_mask();
  AllowedCpus allowed;
  allowed.cores = static_cast<int>(cores.size());
  size_t deepest = 0;
  for (const auto& core : cores) deepest = std::max(deepest, core.size());
  for (size_t sibling = 0; sibling < deepest; ++sibling) {
    for (const auto& core : cores) {
      if (sibling < core.size()) allowed.pus.push_back(core[sibling]);
    }
  }
  return allowed;
}

MachineCounts machine_counts() {
  const std::scoped_lock lock(machine_mutex());
  hwloc_topology* topology = machine();
  if (topology == nullptr) return {};
  return {std::max(0, hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE)),
          std::max(0, hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE))};
}

}  // namespace nibble::runtime
