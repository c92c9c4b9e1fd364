#include "frontends/chat/parameters.h"

#include <algorithm>

#include "frontends/chat/operators.h"

namespace nibble::frontends::chat {
namespace {

struct Parsed {
  std::string_view name;
  std::vector<std::string_view> parameters;
  size_t hidden = 0;    // given by whoever calls, before `parameters`
  size_t required = 0;  // of `parameters`, which come first
  size_t unnamed = 0;   // of C: of `parameters`, which come first
  bool python = false;

  std::string_view short_name() const {
    const size_t dot = name.rfind('.');
    return dot == std::string_view::npos ? name : name.substr(dot + 1);
  }
  size_t find(std::string_view parameter) const {
    const auto first = parameters.begin() + static_cast<int64_t>(unnamed);
    return static_cast<size_t>(std::find(first, parameters.end(), parameter) - parameters.begin());
  }
};

Parsed parse_signature(std::string_view signature) {
  Parsed out;
  const size_t open = signature.find('(');
  out.name = signature.substr(0, open);
  std::string_view rest = signature.substr(open + 1, signature.size() - open - 2);
  if (const size_t end = rest.find(';'); end != std::string_view::npos) {
    out.python = rest.find('/') == std::string_view::npos;
    if (end > 0) out.hidden = 1 + static_cast<size_t>(std::count(&rest[0], &rest[end], ','));
    rest.remove_prefix(end + 1);
  }
  while (!rest.empty()) {
    const size_t comma = std::min(rest.find(','), rest.size());
    std::string_view part = rest.substr(0, comma);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    if (part.starts_with(' ')) part.remove_prefix(1);
    if (part == "/") {
      out.unnamed = out.parameters.size();
    } else if (part.ends_with('=')) {
      out.parameters.push_back(part.substr(0, part.size() - 1));
    } else if (!part.empty()) {
      out.parameters.push_back(part);
      out.required = out.parameters.size();
    }
  }
  return out;
}

const char* plural(size_t count) { return count == 1 ? "" : "s"; }

// 'a', 'b', and 'c'
std::string list_of(const std::vector<std::string_view>& names) {
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) out += names.size() == 2 ? " and " : i + 1 == names.size() ? ", and " : ", ";
    out += fmt::format("'{}'", names[i]);
  }
  return out;
}

using Values = std::vector<std::optional<Value>>;

[[noreturn]] void fail_unexpected(std::string_view function, const std::string& name) {
  raise("{}() got an unexpected keyword argument {}", function, repr_of_text(name));
}

void bind_python(const Parsed& to, const Arguments& arguments, Values& values) {
  const size_t given = arguments.positional.size(), most = to.parameters.size();
  for (const auto& [name, value] : arguments.named) {
    const size_t at = to.find(name);
    if (at == most) fail_unexpected(to.name, name);
    if (values[at]) raise("{}() got multiple values for argument {}", to.name, repr_of_text(name));
    values[at] = value;
  }
  if (given > most) {
    const size_t all = given + to.hidden;
    const std::string wanted =
        to.required < most
            ? fmt::format("from {} to {} positional arguments", to.hidden + to.required,
                          to.hidden + most)
            : fmt::format("{} positional argument{}", to.hidden + most, plural(to.hidden + most));
    raise("{}() takes {} but {} {} given", to.name, wanted, all, all == 1 ? "was" : "were");
  }
  std::vector<std::string_view> missing;
  for (size_t i = 0; i < to.required; ++i) {
    if (!values[i]) missing.push_back(to.parameters[i]);
  }
  if (missing.empty()) return;
  raise("{}() missing {} required positional argument{}: {}", to.name, missing.size(),
        plural(missing.size()), list_of(missing));
}

// All parameters without names.
void bind_unnamed(const Parsed& to, const Arguments& arguments) {
  const size_t given = arguments.positional.size() + to.hidden;
  const size_t least = to.required + to.hidden, most = to.parameters.size() + to.hidden;
  if (!arguments.named.empty()) raise("{}() takes no keyword arguments", to.name);
  if (most == 0 && given > 0) raise("{}() takes no arguments ({} given)", to.name, given);
  if (most == 1 && least == 1) {
    if (given != 1) raise("{}() takes exactly one argument ({} given)", to.name, given);
    return;
  }
  if (given >= least && given <= most) return;
  const size_t wanted = given < least ? least : most;
  raise("{} expected {}{} argument{}, got {}", to.short_name(),
        least == most   ? ""
        : given < least ? "at least "
                        : "at most ",
        wanted, plural(wanted), given);
}

void bind_named(const Parsed& to, const Arguments& arguments, Values& values) {
  const size_t given = arguments.positional.size(), most = to.parameters.size();
  if (given + arguments.named.size() > most) {
    raise("{}() takes at most {} argument{} ({} given)", to.short_name(), most, plural(most),
          given + arguments.named.size());
  }
  if (given < to.unnamed) {
    raise("{}() takes at least {} positional argument{} ({} given)", to.short_name(), to.unnamed,
          plural(to.unnamed), given);
  }
  for (const auto& [name, value] : arguments.named) {
    const size_t at = to.find(name);
    if (at == most) fail_unexpected(to.short_name(), name);
    if (values[at]) {
      raise("argument for {}() given by name ({}) and position ({})", to.short_name(),
            repr_of_text(name), at + 1);
    }
    values[at] = value;
  }
  for (size_t i = given; i < to.required; ++i) {
    if (!values[i]) {
      raise("{}() missing required argument '{}' (pos {})", to.short_name(), to.parameters[i],
            i + 1);
    }
  }
}

}  // namespace

Parameters::Parameters(std::string_view signature, Arguments& arguments) {
  const Parsed to = parse_signature(signature);
  values_.resize(to.parameters.size());
  const size_t placed = std::min(values_.size(), arguments.positional.size());
  std::copy_n(arguments.positional.begin(), placed, values_.begin());
  if (to.python) {
    bind_python(to, arguments, values_);
  } else if (to.unnamed == to.parameters.size()) {
    bind_unnamed(to, arguments);
  } else {
    bind_named(to, arguments, values_);
  }
}

Value Parameters::value_or(size_t i, Value otherwise) const {
  return values_[i] ? *values_[i] : std::move(otherwise);
}
int64_t Parameters::integer_or(size_t i, int64_t otherwise) const {
  return values_[i] ? to_index(*values_[i]) : otherwise;
}
bool Parameters::truth_or(size_t i, bool otherwise) const {
  return values_[i] ? truth(*values_[i]) : otherwise;
}
std::string Parameters::text_or(size_t i, const char* otherwise) const {
  return values_[i] ? to_text(*values_[i]) : otherwise;
}

}  // namespace nibble::frontends::chat
