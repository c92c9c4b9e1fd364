// The frame that every page shares: one style sheet, sections, figures. Knows no measurements;
// pictures come from svg.h. A page fetches nothing and runs no script; it follows the reader's
// choice of light or dark, and is light on paper.
#pragma once

#include <string>
#include <string_view>

namespace nibble::report {

// The whole document; `title` is plain text, `content` is HTML.
std::string page(std::string_view title, std::string_view content);

// `title`, `about` and `body` are HTML; without a body the section says what is `missing`.
std::string section(std::string_view title, std::string_view about, std::string_view body,
                    std::string_view missing);

// A number that stands out: `value` is plain text, `what` it is HTML. They stand in figures().
std::string figure(std::string_view value, std::string_view what);
std::string figures(std::string_view content);

}  // namespace nibble::report
