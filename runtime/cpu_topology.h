// What this process may compute on: cores, the NUMA node each belongs to, and its kind, from hwloc
// and the affinity mask. Plain data for the planner (placement.h). It decides nothing; with
// cpu_topology.cpp it is the only place that talks to hwloc.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

struct hwloc_topology;
struct hwloc_bitmap_s;

namespace nibble::runtime {

struct CpuCore {
  std::vector<unsigned> pus;  // OS numbers of its allowed processors, at least one
  int node = 0;               // index into CpuTopology::nodes
  int kind = 0;               // index into CpuTopology::kinds
};

// Cores built alike: performance and efficiency cores differ.
struct CpuKind {
  std::string name;  // what the system calls it: "IntelAtom"; "" when it does not say
  double speed = 1;  // relative to the fastest kind, which has 1
};

struct CpuTopology {
  std::vector<CpuCore> cores;   // in the machine's order
  std::vector<unsigned> nodes;  // OS numbers of the NUMA nodes that these cores are near
  std::vector<CpuKind> kinds;

  size_t pus() const;  // allowed processors of all cores
};

// Of the calling thread's affinity mask. Where hwloc knows nothing every allowed processor is a
// core of one node; with NIBBLE_NUMA=0 in the environment there is one node whatever hwloc knows.
CpuTopology allowed_cpus();

// The part of a loaded topology that `allowed` (OS numbers of processors) leaves. A core's node is
// its nearest one that has memory, the first of several. Speeds are a guess from the order of the
// kinds' efficiencies: half of the next faster kind's.
CpuTopology describe_topology(hwloc_topology* topology, const hwloc_bitmap_s* allowed);

// The speed of the core that `pu` belongs to, in any unit.
using MeasureSpeed = std::function<double(unsigned pu)>;

// Replaces the guessed speeds where there is more than one kind; otherwise measures nothing. Keeps
// all guesses when a measurement fails, which it says by 0.
void measure_speeds(CpuTopology& topology, const MeasureSpeed& measure);

// Asks for the pages of [address, address + bytes), both multiples of the page size, to lie on the
// NUMA node of this OS number where it has room; pages touched before are moved. False when the
// system refuses: nothing is lost but locality.
bool prefer_node(void* address, size_t bytes, unsigned node);

}  // namespace nibble::runtime
