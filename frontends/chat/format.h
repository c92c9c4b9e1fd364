// The two formatting languages of Python: `"%s" % x` and "{}".format(x).
#pragma once

#include <string>
#include <string_view>

#include "frontends/chat/value.h"

namespace nibble::frontends::chat {

// `format % values`. Markup escapes what it takes in.
Value format_percent(const Value& format, const Value& values);
// "{} {name!r:>10}".format(...), as the sandbox runs it; `mapping`: of format_map instead of named
// arguments, or null. Markup escapes what it takes in.
Value format_braces(const Value& format, const Arguments& arguments, const Value* mapping);
// format(value, spec) of the built-in types.
std::string format_value(const Value& value, std::string_view spec);

}  // namespace nibble::frontends::chat
