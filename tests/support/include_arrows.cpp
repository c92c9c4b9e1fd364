#include "tests/support/include_arrows.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <string_view>

namespace nibble::test {
namespace {

using Rooms = std::set<std::string, std::less<>>;

// What each room may look into, itself included.
const std::map<std::string, Rooms, std::less<>>& visible_rooms() {
  static const std::map<std::string, Rooms, std::less<>> rooms = {
      {"jit", {"jit"}},
      {"runtime", {"runtime", "jit"}},
      {"graph", {"graph", "runtime", "jit"}},
      {"quant", {"quant", "graph", "runtime", "jit"}},
      {"frontends", {"frontends", "frontends/wire", "graph", "runtime", "jit"}},
      {"frontends/wire", {"frontends/wire", "runtime", "jit"}},
      {"frontends/tokenizer", {"frontends/tokenizer", "frontends/wire", "runtime", "jit"}},
      {"frontends/chat", {"frontends/chat", "frontends/tokenizer", "runtime", "jit"}},
      {"frontends/gguf",
       {"frontends/gguf", "frontends", "frontends/tokenizer", "graph", "runtime", "jit"}},
      {"tools",
       {"tools", "frontends", "frontends/chat", "frontends/gguf", "frontends/tokenizer", "quant",
        "graph", "runtime", "jit"}},
      {"perf",
       {"perf", "tools", "frontends", "frontends/tokenizer", "quant", "graph", "runtime", "jit"}},
      {"tests",
       {"tests", "perf", "tools", "frontends", "frontends/chat", "frontends/gguf",
        "frontends/tokenizer", "quant", "graph", "runtime", "jit"}},
  };
  return rooms;
}

std::string room_of(std::string_view path) {
  for (const char* room :
       {"frontends/chat", "frontends/gguf", "frontends/tokenizer", "frontends/wire"}) {
    if (path.starts_with(std::string(room) + "/")) return room;
  }
  return std::string(path.substr(0, path.find('/')));
}

// The text between the quotes of an #include "..." line; empty for any other line.
std::string quoted_include(std::string_view line) {
  const auto skip_spaces = [&line] {
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  };
  skip_spaces();
  if (!line.starts_with('#')) return "";
  line.remove_prefix(1);
  skip_spaces();
  if (!line.starts_with("include")) return "";
  line.remove_prefix(7);
  skip_spaces();
  if (!line.starts_with('"')) return "";
  line.remove_prefix(1);
  return std::string(line.substr(0, line.find('"')));
}

}  // namespace

std::vector<Include> read_includes(const std::filesystem::path& root) {
  std::vector<Include> out;
  for (const auto& [room, visible] : visible_rooms()) {
    if (room.find('/') != std::string::npos || !exists(root / room)) continue;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root / room)) {
      const std::filesystem::path& path = entry.path();
      if (!entry.is_regular_file() || (path.extension() != ".h" && path.extension() != ".cpp")) {
        continue;
      }
      std::ifstream file(path);
      for (std::string line; std::getline(file, line);) {
        std::string target = quoted_include(line);
        if (target.empty()) continue;
        out.push_back({relative(path, root).generic_string(), std::move(target)});
      }
    }
  }
  return out;
}

std::vector<std::string> wrong_arrows(const std::vector<Include>& includes) {
  std::vector<std::string> out;
  for (const Include& include : includes) {
    const std::string from = room_of(include.file);
    const std::string to = room_of(include.target);
    const auto& rooms = visible_rooms();
    const std::string arrow = include.file + " includes \"" + include.target + "\"";
    if (!rooms.contains(to) || include.target.find("..") != std::string::npos) {
      out.push_back(arrow + ", which is no path from the repository root into a room");
    } else if (!rooms.contains(from) || !rooms.at(from).contains(to)) {
      out.push_back(arrow + ", but " + from + " must not look into " + to);
    }
  }
  return out;
}

}  // namespace nibble::test
