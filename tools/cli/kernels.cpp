// nibble kernels: the generated kernels by name: list, disassemble, compare with their references.
#include <algorithm>

#include "jit/code_cache.h"
#include "jit/error.h"
#include "jit/kernel_catalog.h"
#include "tools/cli/commands.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

struct KernelsOptions {
  std::string isa, name;
  uint64_t seed = 1;
  bool json = false;
};

jit::Isa chosen_isa(const KernelsOptions& options) {
  return options.isa.empty() ? jit::selected_isa() : *jit::parse_isa(options.isa);
}

jit::KernelKey parse_name(const std::string& name) {
  if (auto key = jit::parse_kernel_name(name)) return *key;
  std::vector<std::string> known;
  for (const jit::Isa isa : jit::supported_isas()) {
    for (const jit::KernelKey& key : jit::kernel_catalog(isa)) known.push_back(jit::name(key));
  }
  const std::string near = nearest(name, known);
  throw UsageError(fmt::format("'{}' is no kernel's name.{} See 'nibble kernels list'.", name,
                               near.empty() ? "" : fmt::format(" Did you mean '{}'?", near)));
}

int list(const KernelsOptions& options) {
  Json names = Json::array();
  for (const jit::KernelKey& key : jit::kernel_catalog(chosen_isa(options))) {
    if (options.json) {
      names.push_back(jit::name(key));
    } else {
      print_line(jit::name(key));
    }
  }
  if (options.json) print_json({{"isa", jit::isa_name(chosen_isa(options))}, {"kernels", names}});
  return 0;
}

int dump(const KernelsOptions& options) {
  const jit::Kernel& kernel = jit::CodeCache::instance().get(parse_name(options.name));
  if (kernel.code == nullptr) {
    fail("{} has no machine code here: {}", options.name,
         jit::CodeCache::instance().fallback_reason());
  }
  const std::string text = jit::disassemble(kernel);
  if (options.json) {
    print_json({{"name", jit::name(kernel.key)}, {"bytes", kernel.code_bytes}, {"code", text}});
  } else {
    print(text);
  }
  return 0;
}

// One kernel, or with no name the whole list.
int check_kernels(const KernelsOptions& options) {
  std::vector<jit::KernelKey> keys;
  if (options.name.empty()) {
    keys = jit::kernel_catalog(chosen_isa(options));
  } else {
    keys.push_back(parse_name(options.name));
  }
  Json results = Json::array();
  int64_t different = 0;
  std::string first;
  for (const jit::KernelKey& key : keys) {
    const std::string difference = jit::check_kernel(key, options.seed);
    if (!difference.empty() && ++different == 1) first = jit::name(key) + ": " + difference;
    if (options.json) {
      results.push_back(
          {{"name", jit::name(key)}, {"same", difference.empty()}, {"difference", difference}});
    } else {
      print_line(fmt::format("{}  {}", jit::name(key), difference.empty() ? "same" : "DIFFERENT"));
    }
  }
  if (options.json) {
    print_json({{"seed", options.seed}, {"different", different}, {"kernels", results}});
  }
  if (different > 0) {
    fail("{} of {} kernels differ from their reference. {}", different, keys.size(), first);
  }
  return 0;
}

}  // namespace

void add_kernels(CLI::App& program, Action& action) {
  CLI::App* group =
      program.add_subcommand("kernels", "List, disassemble or check generated kernels");
  group->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, int (*perform)(const KernelsOptions&),
                       bool takes_name) {
    auto options = std::make_shared<KernelsOptions>();
    CLI::App* command = group->add_subcommand(name, help);
    if (takes_name) {
      CLI::Option* argument = command->add_option("NAME", options->name, "The kernel's name");
      if (perform == dump) argument->required();
    }
    if (perform != dump) {
      std::vector<std::string> isas;
      for (const jit::Isa isa : jit::supported_isas()) isas.emplace_back(jit::isa_name(isa));
      command->add_option("--isa", options->isa, "Of this instruction set (default: the best)")
          ->check(CLI::IsMember(isas));
    }
    if (perform == check_kernels) {
      command->add_option("--seed", options->seed, "Of the random data")->capture_default_str();
    }
    command->add_flag("--json", options->json, "Print a JSON object");
    command->callback(
        [options, perform, &action] { action = [options, perform] { return perform(*options); }; });
  };
  add("list", "The kernels that tests and benchmarks cover", list, false);
  add("dump", "The machine code of a kernel", dump, true);
  add("check", "Compare a kernel (or all) with its reference, bit by bit", check_kernels, true);
}

}  // namespace nibble::cli
