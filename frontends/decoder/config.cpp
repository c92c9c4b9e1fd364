#include "frontends/decoder/config.h"

#include <cmath>
#include <utility>

#include "jit/error.h"
#include "runtime/json_text.h"

namespace nibble::frontends::decoder {
namespace {

constexpr int64_t kMostSize = int64_t{1} << 24;
constexpr int kMostDepth = 16;  // of objects and lists in each other; a configuration needs four

}  // namespace

Config Config::parse(const std::string& text, std::string origin) {
  Json content = runtime::parse_json(text, origin, kMostDepth);
  if (!content.is_object()) fail("{}: a JSON object is expected.", origin);
  return {std::move(content), std::move(origin)};
}

const Config::Json* Config::find(Names names) const {
  for (const char* name : names) {
    const auto found = content_.find(name);
    if (found != content_.end() && !found->is_null()) return &*found;
  }
  return nullptr;
}

const Config::Json& Config::need(Names names, std::string_view expected) const {
  const Json* value = find(names);
  if (value == nullptr) {
    fail("{}: there is no \"{}\", but {} is expected.", origin_, *names.begin(), expected);
  }
  return *value;
}

void Config::refuse(Names names, std::string_view expected) const {
  for (const char* name : names) {
    const auto found = content_.find(name);
    if (found == content_.end() || found->is_null()) continue;
    std::string value = found->dump(-1, ' ', true, Json::error_handler_t::replace);
    if (value.size() > 80) value = value.substr(0, 77) + "...";
    fail("{}: \"{}\" is {}, but {} is expected.", origin_, name, value, expected);
  }
  fail("{}: \"{}\" is absent, but {} is expected.", origin_, *names.begin(), expected);
}

int64_t Config::size(Names names) const {
  const Json& value = need(names, "a size");
  if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > kMostSize) {
    refuse(names, "an integer from 1 to 16777216");
  }
  return value.get<int64_t>();
}

int64_t Config::size(Names names, int64_t fallback) const {
  return has(names) ? size(names) : fallback;
}

int64_t Config::integer(Names names, int64_t fallback) const {
  const Json* value = find(names);
  if (value == nullptr) return fallback;
  if (!value->is_number_integer()) refuse(names, "an integer");
  return value->get<int64_t>();
}

double Config::number(Names names) const {
  const Json& value = need(names, "a number");
  if (!value.is_number()) refuse(names, "a number");
  return value.get<double>();
}

double Config::number(Names names, double fallback) const {
  return has(names) ? number(names) : fallback;
}

std::optional<double> Config::maybe_number(Names names) const {
  return has(names) ? std::optional(number(names)) : std::nullopt;
}

bool Config::boolean(Names names, bool fallback) const {
  const Json* value = find(names);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) refuse(names, "true or false");
  return value->get<bool>();
}

std::string Config::text(Names names, const std::string& fallback) const {
  const Json* value = find(names);
  if (value == nullptr) return fallback;
  if (!value->is_string()) refuse(names, "text");
  return value->get<std::string>();
}

std::vector<double> Config::numbers(Names names) const {
  const Json& list = need(names, "a list of numbers");
  if (!list.is_array()) refuse(names, "a list of numbers");
  std::vector<double> values;
  for (const Json& value : list) {
    if (!value.is_number()) refuse(names, "a list of numbers");
    values.push_back(value.get<double>());
  }
  return values;
}

std::vector<std::string> Config::texts(Names names) const {
  const Json* list = find(names);
  std::vector<std::string> values;
  if (list == nullptr) return values;
  if (!list->is_array()) refuse(names, "a list of texts");
  for (const Json& value : *list) {
    if (!value.is_string()) refuse(names, "a list of texts");
    values.push_back(value.get<std::string>());
  }
  return values;
}

std::optional<Config> Config::object(Names names) const {
  for (const char* name : names) {
    const auto found = content_.find(name);
    if (found == content_.end() || found->is_null()) continue;
    if (!found->is_object()) refuse(names, "an object");
    return Config(*found, fmt::format("{}: \"{}\"", origin_, name));
  }
  return std::nullopt;
}

void Config::only(const char* name, bool expected) const {
  if (boolean({name}, expected) != expected) refuse({name}, expected ? "true" : "false");
}

void Config::only_absent(const char* name) const {
  if (has({name})) refuse({name}, "null");
}

}  // namespace nibble::frontends::decoder
