// nibble doctor: what this machine offers, and whether anything stands in the way.
#include <fmt/ranges.h>

#include <cmath>
#include <fstream>

#include "jit/code_cache.h"
#include "jit/error.h"
#include "jit/isa.h"
#include "runtime/thread_pool.h"
#include "tools/cli/commands.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "always [madvise] never" -> "madvise"
std::string bracketed(const std::string& text) {
  const size_t open = text.find('['), close = text.find(']');
  if (open == std::string::npos || close == std::string::npos || close < open) return "unknown";
  return text.substr(open + 1, close - open - 1);
}

std::vector<std::string> names(const std::vector<jit::Isa>& isas) {
  std::vector<std::string> out;
  out.reserve(isas.size());
  for (const jit::Isa isa : isas) out.emplace_back(jit::isa_name(isa));
  return out;
}

// What keeps models from running here at full speed, a sentence each.
struct Findings {
  Json problems = Json::array();
  std::string isa;
  bool jit = false;
};

Findings examine() {
  Findings out;
  try {
    const jit::Isa isa = jit::selected_isa();
    out.isa = jit::isa_name(isa);
    // The smallest kernel there is: it tells whether code can be made and run.
    const jit::RowSpec add{.op = jit::RowOp::add, .n = 16};
    out.jit = jit::CodeCache::instance().get({add, isa, {}}).code != nullptr;
    if (!out.jit) out.problems.push_back(jit::CodeCache::instance().fallback_reason());
  } catch (const Error& error) {
    out.problems.push_back(error.what());
  }
  return out;
}

Json placement_json(const runtime::Placement& placement) {
  Json nodes = Json::array(), kinds = Json::array(), threads = Json::array();
  for (const unsigned node : placement.nodes) nodes.push_back(node);
  for (const runtime::CpuKind& kind : placement.kinds) {
    kinds.push_back(
        {{"name", kind.name.empty() ? Json() : Json(kind.name)}, {"speed", kind.speed}});
  }
  for (const runtime::PlacedThread& thread : placement.threads) {
    threads.push_back({{"processor", thread.pu < 0 ? Json() : Json(thread.pu)},
                       {"node", placement.nodes[static_cast<size_t>(thread.node)]},
                       {"kind", thread.kind},
                       {"weight", thread.weight}});
  }
  return {{"nodes", nodes}, {"kinds", kinds}, {"threads", threads}};
}

// "0-3,8-11"
std::string ranges(const std::vector<int>& numbers) {
  std::string out;
  for (size_t i = 0; i < numbers.size();) {
    size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    if (!out.empty()) out += ',';
    out += std::to_string(numbers[i]);
    if (end - i > 1) out += fmt::format("-{}", numbers[end - 1]);
    i = end;
  }
  return out;
}

// A line for the threads that share node, kind and weight: "threads 0-7 on processors 0-7 ...".
std::vector<std::string> placement_lines(const runtime::Placement& placement) {
  std::vector<std::string> lines;
  const auto& threads = placement.threads;
  const auto alike = [](const runtime::PlacedThread& a, const runtime::PlacedThread& b) {
    return a.node == b.node && a.kind == b.kind && a.weight == b.weight;
  };
  for (size_t i = 0; i < threads.size();) {
    std::vector<int> numbers, processors;
    const runtime::PlacedThread& first = threads[i];
    for (; i < threads.size() && alike(first, threads[i]); ++i) {
      numbers.push_back(static_cast<int>(i));
      if (threads[i].pu >= 0) processors.push_back(threads[i].pu);
    }
    const runtime::CpuKind& kind = placement.kinds[static_cast<size_t>(first.kind)];
    std::string line =
        fmt::format("threads {} on processors {}, node {}", ranges(numbers), ranges(processors),
                    placement.nodes[static_cast<size_t>(first.node)]);
    if (placement.kinds.size() > 1) {
      line += fmt::format(", {} cores",
                          kind.name.empty() ? fmt::format("kind {}", first.kind) : kind.name);
    }
    lines.push_back(line + fmt::format(", weight {:.2f} each", first.weight));
  }
  return lines;
}

int doctor(bool as_json) {
  const jit::CpuInfo& cpu = jit::cpu();
  const Findings findings = examine();
  const double quota = runtime::cgroup_cpu_quota();
  const runtime::Placement placement = runtime::place_threads(runtime::default_threads());
  const std::string huge = bracketed(first_line("/sys/kernel/mm/transparent_hugepage/enabled"));
  const Json json = {
      {"cpu", cpu.brand},
      {"vendor", cpu.vendor},
      {"family", cpu.family},
      {"model", cpu.model},
      {"stepping", cpu.stepping},
      {"isa", findings.isa.empty() ? Json() : Json(findings.isa)},
      {"supported_isas", names(jit::supported_isas())},
      {"l1d_bytes", cpu.l1d_bytes},
      {"l2_bytes", cpu.l2_bytes},
      {"l3_bytes", cpu.l3_bytes},
      {"threads", placement.size()},
      {"placement", placement_json(placement)},
      {"cgroup_cpu_quota", quota > 0 ? Json(quota) : Json()},
      {"transparent_huge_pages", huge},
      {"jit_allowed", findings.jit},
      {"problems", findings.problems},
  };
  if (as_json) {
    print_json(json);
    return findings.isa.empty() ? 1 : 0;
  }
  const auto line = [](const char* what, const std::string& value) {
    print_line(fmt::format("{:<18} {}", what, value));
  };
  line("processor",
       fmt::format("{} ({} family {} model {})", cpu.brand, cpu.vendor, cpu.family, cpu.model));
  line("instruction sets", fmt::format("{}", fmt::join(names(jit::supported_isas()), ", ")));
  line("code is for",
       findings.isa.empty() ? "nothing: this machine cannot run models" : findings.isa);
  line("caches", fmt::format("L1d {} KB, L2 {} KB, L3 {} MB", cpu.l1d_bytes >> 10,
                             cpu.l2_bytes >> 10, cpu.l3_bytes >> 20));
  line("threads", std::to_string(placement.size()));
  for (const std::string& text : placement_lines(placement)) line("placement", text);
  if (placement.nodes.size() > 1) {
    line("weights", "of a .nib are copied to the nodes that read them (NIBBLE_NUMA=0: not)");
  }
  line("cgroup quota", quota > 0 ? fmt::format("{:.2f} processors", quota) : "none");
  line("huge pages", huge);
  line("machine code", findings.jit ? "can be made and run" : "cannot be run");
  for (const Json& problem : findings.problems) line("PROBLEM", problem.get<std::string>());
  if (findings.isa.empty()) {
    flush_output();
    fail("This machine cannot run models: {}", findings.problems[0].get<std::string>());
  }
  return 0;
}

}  // namespace

void add_doctor(CLI::App& program, Action& action) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command = program.add_subcommand("doctor", "Show what this machine offers");
  command->add_flag("--json", *json, "Print a JSON object");
  command->callback([json, &action] { action = [json] { return doctor(*json); }; });
}

}  // namespace nibble::cli
