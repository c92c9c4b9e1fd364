// Whether the machine was left alone while it was measured: others' work and stolen time from
// /proc/stat, the clock's speed from a loop whose cycles are known, and what cpufreq says.
// Sentences for the user; nothing here stops a measurement.
#pragma once

#include <string>
#include <vector>

namespace nibble::tune {

// Jiffies of all processors since boot, from the first line of /proc/stat.
struct CpuTimes {
  double busy = 0, idle = 0, stolen = 0;
};
// Zeros when `text` is no such file.
CpuTimes parse_cpu_times(const std::string& text);

// What two looks at the machine tell; seconds are of all processors together.
struct Disturbance {
  double seconds = 0;      // between the looks
  double others = 0;       // processors that others kept busy, on average
  double stolen = 0;       // processors that the hypervisor took, on average
  double slowdown = 0;     // share of the clock's speed that was lost
  std::string governor{};  // "" where cpufreq is not there
};
std::vector<std::string> warnings_of(const Disturbance& disturbance);

class MachineWatch {
 public:
  MachineWatch();  // takes 20 ms
  // Before anything is measured: the load average, as a sentence, or "".
  std::string load_at_start() const;
  // Since the construction.
  Disturbance look() const;

 private:
  CpuTimes times_;
  double own_ = 0, start_ = 0, turns_per_second_ = 0, load_ = 0;
};

}  // namespace nibble::tune
