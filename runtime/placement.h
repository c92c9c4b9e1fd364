// Where each thread of a pool computes, which node's memory it reads, and which part of every
// matrix is its own. A pure planner over a CpuTopology: it binds nothing and asks no system. The
// thread pool binds by it, the weights are placed by it (numa_memory.h), and the executor hands out
// work by it, so that a thread's share of a matrix lies in memory near its core.
//
// Decoding reads weights as fast as memory gives them, so threads are spread over nodes: evenly,
// physical cores first, the fastest kind first. Only as many nodes are used as give each
// kThreadsPerNode threads or more, the nodes with the most cores: fewer threads than that do not
// use up a node's bandwidth, and barriers between sockets cost more. Threads are numbered node by
// node and core by core: a node's share of a matrix is one contiguous piece.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/cpu_topology.h"

namespace nibble::runtime {

inline constexpr int kThreadsPerNode = 8;

struct Range {
  int64_t begin = 0, end = 0;
  friend bool operator==(const Range&, const Range&) = default;
};

struct PlacedThread {
  int pu = -1;        // OS number of its processor; -1: wherever the scheduler puts it
  int node = 0;       // index into Placement::nodes
  int kind = 0;       // index into Placement::kinds
  double weight = 1;  // speed beside the fastest core that is one thread's alone
  double up_to = 1;   // weights of the threads up to this one, over those of all
};

struct Placement {
  std::vector<PlacedThread> threads;
  std::vector<unsigned> nodes;  // OS numbers of the nodes that have threads, in their order
  std::vector<CpuKind> kinds;   // as in the topology
  bool crowded = false;         // more threads than processors (or quota): waiters should not spin

  int size() const { return static_cast<int>(threads.size()); }

  // The part of [0, count) that is this thread's: begin and end are multiples of `unit` (end may be
  // count), lengths are as the threads' weights. The parts of all threads follow each other and
  // cover everything; a part may be empty. Depends on nothing else, so whoever places a matrix by
  // (blocks, 1) and whoever reads it by (blocks, unit) agree up to a unit at each border.
  Range home_range(int64_t count, int64_t unit, int thread) const noexcept;
};

// Threads when nobody says how many: physical cores, at most `quota` (processors; 0: none) rounded
// up, at least 1.
int default_threads(const CpuTopology& cpus, double quota);

// Places `threads` (at least 1). Past the physical cores come their siblings, which share the
// core's speed; past all processors come threads that are not bound, and all weigh the same.
Placement plan_placement(const CpuTopology& cpus, int threads, double quota = 0);

}  // namespace nibble::runtime
