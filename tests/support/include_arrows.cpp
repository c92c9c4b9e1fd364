#include "tests/support/include_arrows.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <string_view>

namespace nibble::test {
namespace {

using Rooms = std::set<std::string, std::less<>>;

Rooms operator+(Rooms left, const Rooms& right) {
  left.insert(right.begin(), right.end());
  return left;
}

// What each room may look into, itself included. Frontends are rooms of their own.
const std::map<std::string, Rooms, std::less<>>& visible_rooms() {
  static const Rooms runtime = {"runtime", "jit"};
  static const Rooms graph = runtime + Rooms{"graph"};
  static const Rooms quant = {"quant/calibration", "quant/formats", "quant/products",
                              "quant/solvers",     "quant/scores",  "quant/blocks",
                              "quant/folds",       "quant/tuning",  "quant/recipes"};
  static const Rooms below_tools =
      graph + quant + Rooms{"frontends/chat",      "frontends/decoder", "frontends/documents",
                            "frontends/gguf",      "frontends/onnx",    "frontends/safetensors",
                            "frontends/tokenizer", "frontends/wire"};
  static const std::map<std::string, Rooms, std::less<>> rooms = {
      {"jit", {"jit"}},
      {"runtime", runtime},
      {"graph", graph},
      {"quant/calibration", {"quant/calibration"}},
      {"quant/formats", graph + Rooms{"quant/formats"}},
      {"quant/products", runtime + Rooms{"quant/products"}},
      {"quant/solvers", graph + Rooms{"quant/solvers", "quant/formats", "quant/products"}},
      {"quant/scores", graph + Rooms{"quant/scores"}},
      {"quant/blocks",
       graph + Rooms{"quant/blocks", "quant/products", "quant/solvers", "quant/scores"}},
      {"quant/folds", graph + Rooms{"quant/folds", "quant/solvers"}},
      {"quant/tuning", graph + Rooms{"quant/tuning", "quant/blocks", "quant/folds", "quant/solvers",
                                     "quant/formats", "quant/products"}},
      {"quant/recipes", graph + quant},
      {"frontends/wire", runtime + Rooms{"frontends/wire"}},
      {"frontends/documents", graph + Rooms{"frontends/documents"}},
      {"frontends/decoder", graph + Rooms{"frontends/decoder"}},
      {"frontends/onnx", graph + Rooms{"frontends/onnx", "frontends/documents", "frontends/wire"}},
      {"frontends/safetensors",
       graph + Rooms{"frontends/safetensors", "frontends/decoder", "frontends/documents"}},
      {"frontends/gguf",
       graph + Rooms{"frontends/gguf", "frontends/decoder", "frontends/tokenizer"}},
      {"frontends/tokenizer", runtime + Rooms{"frontends/tokenizer", "frontends/wire"}},
      {"frontends/chat", runtime + Rooms{"frontends/chat", "frontends/tokenizer"}},
      {"tools", below_tools + Rooms{"tools"}},
      {"perf", below_tools + Rooms{"tools", "perf"}},
      {"tests", below_tools + Rooms{"tools", "perf", "tests"}},
  };
  return rooms;
}

// The folders that hold all rooms.
Rooms top_folders() {
  Rooms folders;
  for (const auto& [room, visible] : visible_rooms()) {
    folders.insert(room.substr(0, room.find('/')));
  }
  return folders;
}

std::string room_of(std::string_view path) {
  size_t end = path.find('/');
  const std::string_view top = path.substr(0, end);
  if (top == "frontends" || top == "quant") end = path.find('/', end + 1);
  return std::string(path.substr(0, end));
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
  for (const std::string& room : top_folders()) {
    if (!exists(root / room)) continue;
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
