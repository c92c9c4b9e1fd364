// JSON text, of files and users, as values: one place where it is refused for not being JSON or for
// being nested deeper than anything honest is. What it means is each reader's.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace nibble::runtime {

// Configurations and tokenizers need fewer than ten, descriptions of tools for a chat some more.
inline constexpr int kMostJsonDepth = 128;

// Throws Error, which begins with `origin`, when the text is not JSON in UTF-8 or has objects and
// lists in each other more than `most_depth` deep. The last of equal keys counts. The second keeps
// the order of the keys.
nlohmann::json parse_json(std::string_view text, std::string_view origin,
                          int most_depth = kMostJsonDepth);
nlohmann::ordered_json parse_ordered_json(std::string_view text, std::string_view origin,
                                          int most_depth = kMostJsonDepth);

}  // namespace nibble::runtime
