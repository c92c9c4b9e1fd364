#include "tools/tune/machine_watch.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

#include "runtime/clock.h"

namespace nibble::tune {
namespace {

constexpr double kOthersTolerated = 0.1;  // processors
constexpr double kStolenTolerated = 0.02;
constexpr double kSlowdownTolerated = 0.1;
constexpr double kLeastSeconds = 0.2;  // jiffies are 10 ms: shorter spans say nothing
constexpr int kSpeedTries = 8;
constexpr int64_t kTurns = int64_t{1} << 23;  // about 2.5 ms a try

std::string read_text(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

double own_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Turns a second of a loop that takes a cycle a turn: the best of several tries, since what
// disturbs one makes it longer.
double clock_speed() {
  double best = 0;
  for (int i = 0; i < kSpeedTries; ++i) {
    int64_t left = kTurns;
    const double start = runtime::seconds_now();
    __asm__ volatile("1:\n\tdec %0\n\tjnz 1b" : "+r"(left) : : "cc");
    best = std::max(best, static_cast<double>(kTurns) / (runtime::seconds_now() - start));
  }
  return best;
}

}  // namespace

CpuTimes parse_cpu_times(const std::string& text) {
  std::istringstream in(text);
  std::string word;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0, steal = 0;
  if (!(in >> word) || word != "cpu") return {};
  if (!(in >> user >> nice >> system >> idle >> wait >> irq >> soft >> steal)) return {};
  return {user + nice + system + irq + soft, idle + wait, steal};
}

std::vector<std::string> warnings_of(const Disturbance& d) {
  std::vector<std::string> out;
  if (d.others > kOthersTolerated) {
    out.push_back(fmt::format(
        "Other programs kept {:.1f} processors busy while this was measured; tune again when the "
        "machine is quiet.",
        d.others));
  }
  if (d.stolen > kStolenTolerated) {
    out.push_back(
        fmt::format("The hypervisor took {:.0f}% of a processor away while this was measured.",
                    d.stolen * 100));
  }
  if (d.slowdown > kSlowdownTolerated) {
    out.push_back(fmt::format(
        "The processor's clock fell by {:.0f}% while this was measured: it is throttled.",
        d.slowdown * 100));
  }
  if (d.governor == "powersave" || d.governor == "conservative") {
    out.push_back(fmt::format("The frequency governor is '{}': the clock follows the load slowly.",
                              d.governor));
  }
  return out;
}

MachineWatch::MachineWatch()
    : times_(parse_cpu_times(read_text("/proc/stat"))),
      own_(own_seconds()),
      start_(runtime::seconds_now()),
      turns_per_second_(clock_speed()) {
  std::istringstream(read_text("/proc/loadavg")) >> load_;
}

std::string MachineWatch::load_at_start() const {
  const auto processors = static_cast<double>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  if (load_ < 0.5 * processors) return "";
  return fmt::format(
      "The load average is {:.1f} on {:.0f} processors: what is measured now is measured among "
      "others' work.",
      load_, processors);
}

Disturbance MachineWatch::look() const {
  Disturbance out;
  out.seconds = runtime::seconds_now() - start_;
  std::istringstream(read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) >>
      out.governor;
  if (out.seconds < kLeastSeconds) return out;
  const CpuTimes now = parse_cpu_times(read_text("/proc/stat"));
  const double own = own_seconds() - own_;
  const auto jiffy = 1.0 / static_cast<double>(std::max(1L, sysconf(_SC_CLK_TCK)));
  out.others = std::max(0.0, ((now.busy - times_.busy) * jiffy - own) / out.seconds);
  out.stolen = std::max(0.0, (now.stolen - times_.stolen) * jiffy / out.seconds);
  out.slowdown = std::max(0.0, 1 - clock_speed() / turns_per_second_);
  return out;
}

}  // namespace nibble::tune
