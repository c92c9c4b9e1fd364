// Checked reading of the JSON in a .nib file: every access names the file and the place, what was
// expected and what was found. Used by nib_model.cpp alone.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "graph/tensor.h"

namespace nibble::graph {

// One JSON value and where it stands: "values[3].dtype". Does not own; lives while the document
// does.
class JsonCursor {
 public:
  JsonCursor(const nlohmann::json& value, const std::string& file, std::string place)
      : value_(value), file_(file), place_(std::move(place)) {}

  // Members of objects. Throw Error when this is no object; at() also when the member is missing.
  JsonCursor at(const char* key) const;
  bool has(const char* key) const;
  const nlohmann::json& object() const;
  JsonCursor member(const std::string& key) const { return at(key.c_str()); }

  // Elements of arrays.
  size_t size() const;
  JsonCursor operator[](size_t i) const;

  // Scalars.
  int64_t integer(int64_t least, int64_t most) const;
  int64_t integer() const;
  float real() const;  // finite numbers, or "inf", "-inf", "nan"
  bool boolean() const;
  const std::string& text() const;
  std::vector<int64_t> integers(int64_t least, int64_t most) const;

  [[noreturn]] void wrong(std::string_view expected) const;
  const std::string& place() const { return place_; }

 private:
  const nlohmann::json& value_;
  const std::string& file_;
  std::string place_;
};

// JSON has no infinities: those and NaN become text that JsonCursor::real reads.
nlohmann::json json_real(float value);

}  // namespace nibble::graph
