#include "graph/nib_model_json.h"

#include <cmath>
#include <limits>

#include "jit/error.h"

namespace nibble::graph {

using nlohmann::json;

void JsonCursor::wrong(std::string_view expected) const {
  std::string found = value_.dump(-1, ' ', true, json::error_handler_t::replace);
  constexpr size_t kMostQuoted = 80;
  if (found.size() > kMostQuoted) found = found.substr(0, kMostQuoted) + "...";
  fail("{}: section \"graph\", {}: expected {}, found {}.", file_, place_, expected, found);
}

const json& JsonCursor::object() const {
  if (!value_.is_object()) wrong("an object");
  return value_;
}

bool JsonCursor::has(const char* key) const { return object().contains(key); }

JsonCursor JsonCursor::at(const char* key) const {
  const auto found = object().find(key);
  if (found == value_.end()) wrong(fmt::format("an object with the member \"{}\"", key));
  return {*found, file_, place_.empty() ? key : place_ + "." + key};
}

size_t JsonCursor::size() const {
  if (!value_.is_array()) wrong("an array");
  return value_.size();
}

JsonCursor JsonCursor::operator[](size_t i) const {
  if (i >= size()) wrong(fmt::format("an array of more than {} elements", i));
  return {value_[i], file_, fmt::format("{}[{}]", place_, i)};
}

int64_t JsonCursor::integer(int64_t least, int64_t most) const {
  const bool fits = value_.is_number_integer() &&
                    (!value_.is_number_unsigned() ||
                     value_.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()});
  const int64_t value = fits ? value_.get<int64_t>() : 0;
  if (!fits || value < least || value > most) {
    wrong(fmt::format("an integer from {} to {}", least, most));
  }
  return value;
}

int64_t JsonCursor::integer() const {
  return integer(std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
}

float JsonCursor::real() const {
  if (value_.is_number()) {
    const auto value = value_.get<double>();
    if (std::abs(value) <= double{std::numeric_limits<float>::max()}) {
      return static_cast<float>(value);
    }
  } else if (value_.is_string()) {
    const std::string& name = text();
    if (name == "nan") return std::numeric_limits<float>::quiet_NaN();
    if (name == "inf") return std::numeric_limits<float>::infinity();
    if (name == "-inf") return -std::numeric_limits<float>::infinity();
  }
  wrong("a number that fp32 holds, or \"inf\", \"-inf\" or \"nan\"");
}

bool JsonCursor::boolean() const {
  if (!value_.is_boolean()) wrong("true or false");
  return value_.get<bool>();
}

const std::string& JsonCursor::text() const {
  if (!value_.is_string()) wrong("text");
  return value_.get_ref<const std::string&>();
}

std::vector<int64_t> JsonCursor::integers(int64_t least, int64_t most) const {
  std::vector<int64_t> result(size());
  for (size_t i = 0; i < result.size(); ++i) result[i] = (*this)[i].integer(least, most);
  return result;
}

json json_real(float value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return double{value};
}

}  // namespace nibble::graph
