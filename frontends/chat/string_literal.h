// Unescapes what stands between the quotes of a string in a template, as Python's unicode-escape.
#pragma once

#include <string>
#include <string_view>

namespace nibble::frontends::chat {

// Throws TemplateError in Python's words on an escape that is cut off or out of range.
std::string unescape(std::string_view text);

}  // namespace nibble::frontends::chat
