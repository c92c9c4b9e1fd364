#include "tests/jit/spec_groups.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::test {
namespace {

std::string group_of(const jit::GemmSpec& spec) {
  if (spec.bias || spec.residual || spec.gate || spec.activation != jit::Activation::none) {
    return fmt::format("epilogues_{}", jit::activation_name(spec.activation));
  }
  const jit::WeightFormat& weight = spec.weight;
  return fmt::format("{}{}{}_s{}", jit::weight_type_name(weight.type), jit::act_type_name(spec.act),
                     weight.minimum ? "_min"
                     : weight.asym  ? "_asym"
                                    : "",
                     jit::scale_type_name(weight.scale));
}

}  // namespace

std::vector<SpecGroup> grouped(const std::vector<jit::GemmSpec>& specs) {
  std::vector<SpecGroup> groups;
  for (const jit::GemmSpec& spec : specs) {
    const std::string name = group_of(spec);
    auto at = std::find_if(groups.begin(), groups.end(),
                           [&](const SpecGroup& group) { return group.name == name; });
    if (at == groups.end()) at = groups.insert(at, {name, {}});
    at->specs.push_back(spec);
  }
  return groups;
}

}  // namespace nibble::test
