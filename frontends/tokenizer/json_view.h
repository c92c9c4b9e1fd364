// A JSON value that knows where it lies, so that every complaint names the file, the path of the
// field, what was expected and what was found. Private to the tokenizer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jit/error.h"

namespace nibble::frontends {

class JsonView {
 public:
  using Json = nlohmann::json;

  JsonView(const Json& value, std::string path, const std::string& origin)
      : value_(&value), path_(std::move(path)), origin_(&origin) {}

  // "FILE: the field PATH"
  std::string where() const { return fmt::format("{}: the field \"{}\"", *origin_, path_); }
  [[noreturn]] void mismatch(std::string_view expected) const {
    fail("{} should be {}, found {}.", where(), expected, value_->type_name());
  }

  const Json& json() const { return *value_; }
  const std::string& origin() const { return *origin_; }
  bool is_null() const { return value_->is_null(); }
  bool is_object() const { return value_->is_object(); }

  // A member that must be there.
  JsonView at(const std::string& key) const {
    std::optional<JsonView> member = find(key);
    if (!member) fail("{} has no member \"{}\".", where(), key);
    return *member;
  }
  // A member that may be absent or null.
  std::optional<JsonView> find(const std::string& key) const {
    if (!value_->is_object()) mismatch("an object");
    auto it = value_->find(key);
    if (it == value_->end() || it->is_null()) return std::nullopt;
    return JsonView(*it, path_.empty() ? key : path_ + "." + key, *origin_);
  }

  std::vector<JsonView> items() const {
    if (!value_->is_array()) mismatch("an array");
    std::vector<JsonView> out;
    out.reserve(value_->size());
    for (size_t i = 0; i < value_->size(); ++i) {
      out.emplace_back((*value_)[i], fmt::format("{}[{}]", path_, i), *origin_);
    }
    return out;
  }

  const std::string& string() const {
    if (!value_->is_string()) mismatch("a string");
    return value_->get_ref<const std::string&>();
  }
  bool boolean() const {
    if (!value_->is_boolean()) mismatch("true or false");
    return value_->get<bool>();
  }
  int64_t integer() const {
    if (!value_->is_number_integer()) mismatch("an integer");
    if (value_->is_number_unsigned() && value_->get<uint64_t>() > INT64_MAX) {
      fail("{} is too large: {}.", where(), value_->get<uint64_t>());
    }
    return value_->get<int64_t>();
  }
  double number() const {
    if (!value_->is_number()) mismatch("a number");
    return value_->get<double>();
  }

  std::string string_or(const std::string& key, const std::string& fallback) const {
    auto member = find(key);
    return member ? member->string() : fallback;
  }
  bool boolean_or(const std::string& key, bool fallback) const {
    auto member = find(key);
    return member ? member->boolean() : fallback;
  }
  int64_t integer_or(const std::string& key, int64_t fallback) const {
    auto member = find(key);
    return member ? member->integer() : fallback;
  }

  // Throws Error on a member that is not among `keys`: what is not understood is not passed over.
  void allow_only(std::initializer_list<std::string_view> keys) const {
    if (!value_->is_object()) mismatch("an object");
    for (const auto& [key, value] : value_->items()) {
      if (value.is_null() || std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
      fail("{} has the member \"{}\", whose meaning is not known.", where(), key);
    }
  }

  // The member "type" of a component; components without one are an Error.
  const std::string& type() const { return at("type").string(); }

 private:
  const Json* value_;
  std::string path_;
  const std::string* origin_;
};

}  // namespace nibble::frontends
