// Matmuls by what they read: a test of all of a group takes a process, not one of each.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "jit/kernel_spec.h"

namespace nibble::test {

struct SpecGroup {
  std::string name;  // "u4s8_asym_sf32", "epilogues_silu"
  std::vector<jit::GemmSpec> specs;
};

// In the order of the first of each.
std::vector<SpecGroup> grouped(const std::vector<jit::GemmSpec>& specs);

inline std::ostream& operator<<(std::ostream& out, const SpecGroup& group) {
  return out << group.specs.size() << " specs";
}

}  // namespace nibble::test
