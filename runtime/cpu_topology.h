// Which processors this process may use: the affinity mask by way of hwloc, physical cores first.
// Called by the thread pool, and by what tells machines apart.
#pragma once

#include <vector>

namespace nibble::runtime {

struct AllowedCpus {
  int cores = 1;              // physical cores with at least one allowed processor
  std::vector<unsigned> pus;  // OS numbers: one processor of every core, then their siblings
};

// Of the calling thread's affinity mask. Falls back to the mask alone where hwloc knows nothing.
AllowedCpus allowed_cpus();

// Of the whole machine as this process sees it, whatever its affinity mask; 0 where hwloc knows
// nothing.
struct MachineCounts {
  int cores = 0, numa_nodes = 0;
};
MachineCounts machine_counts();

}  // namespace nibble::runtime
