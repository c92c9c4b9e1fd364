#include "runtime/json_text.h"

#include <algorithm>

#include "jit/error.h"

namespace nibble::runtime {
namespace {

// Of objects and lists, where the text is JSON.
int depth_of(std::string_view text) {
  int depth = 0, most = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      most = std::max(most, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return most;
}

template <typename Json>
Json parse(std::string_view text, std::string_view origin, int most_depth) {
  if (depth_of(text) > most_depth) {
    fail("{}: objects and lists lie in each other more than {} deep.", origin, most_depth);
  }
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: this is not valid JSON: {}.", origin, error.what());
  }
}

}  // namespace

nlohmann::json parse_json(std::string_view text, std::string_view origin, int most_depth) {
  return parse<nlohmann::json>(text, origin, most_depth);
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, std::string_view origin,
                                          int most_depth) {
  return parse<nlohmann::ordered_json>(text, origin, most_depth);
}

}  // namespace nibble::runtime
