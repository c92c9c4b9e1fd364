// Files for one run of a target, in memory where the machine allows it. The folder is the
// process's own, is emptied by the next Scratch and goes when the process ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::fuzz {

// Where an input of several parts is cut; no format has it by nature.
inline constexpr std::string_view kCut = "\n~~cut~~\n";

// The parts of an input, at most `most`: the last one has what is left, cuts and all.
std::vector<std::string_view> cut_parts(const uint8_t* data, size_t size, size_t most);

class Scratch {
 public:
  Scratch();
  // The path of a file of this name with these bytes.
  std::string write(const std::string& name, std::string_view bytes) const;
  std::string folder() const;
};

}  // namespace nibble::fuzz
