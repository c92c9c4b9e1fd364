// cgroup_cpu_quota of thread_pool.h: the CPU quota of the process's cgroup, versions 1 and 2.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <string_view>

#include "runtime/thread_pool.h"

namespace nibble::runtime {
namespace {

// The tighter of two limits, 0 meaning none.
double tighter(double a, double b) {
  if (a <= 0) return b;
  if (b <= 0) return a;
  return std::min(a, b);
}

double ratio(double quota, double period) {
  return std::isfinite(quota) && quota > 0 && period > 0 ? quota / period : 0;
}

// cpu.max: "max 100000" or "150000 100000".
double read_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period ? ratio(quota, period) : 0;
}

// Two files; a quota of -1 is none.
double read_v1(const std::string& folder) {
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us"),
      period_file(folder + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  return quota_file >> quota && period_file >> period ? ratio(quota, period) : 0;
}

// Every ancestor limits. A folder that is not there (a container sees its own cgroup as the root
// of the mount, but may be told its path on the host) limits nothing.
template <typename Read>
double walk_up(std::string mount, std::string path, Read read) {
  while (mount.ends_with('/')) mount.pop_back();
  if (path.find("..") != std::string::npos) path.clear();  // outside the cgroup namespace
  double limit = 0;
  for (;;) {
    while (path.ends_with('/')) path.pop_back();
    limit = tighter(limit, read(mount + path));
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return limit;
    path.resize(slash);
  }
}

bool names_cpu(std::string_view controllers) {
  while (!controllers.empty()) {
    const size_t comma = controllers.find(',');
    if (controllers.substr(0, comma) == "cpu") return true;
    if (comma == std::string_view::npos) break;
    controllers.remove_prefix(comma + 1);
  }
  return false;
}

}  // namespace

double cgroup_cpu_quota(const char* root) {
  std::string base = root;
  while (base.ends_with('/')) base.pop_back();
  const std::string mounts = base + "/sys/fs/cgroup/";
  std::ifstream membership(base + "/proc/self/cgroup");
  double limit = 0;
  // Lines are "id:controllers:path"; version 2 has no controllers.
  for (std::string line; std::getline(membership, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      limit = tighter(limit, walk_up(mounts, path, read_v2));
      limit = tighter(limit, walk_up(mounts + "unified", path, read_v2));
    } else if (names_cpu(controllers)) {
      limit = tighter(limit, walk_up(mounts + controllers, path, read_v1));
      limit = tighter(limit, walk_up(mounts + "cpu", path, read_v1));
    }
  }
  return limit;
}

}  // namespace nibble::runtime
