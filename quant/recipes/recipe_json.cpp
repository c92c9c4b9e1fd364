// Recipes as JSON.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "jit/error.h"
#include "quant/recipes/recipe.h"
#include "runtime/json_text.h"

namespace nibble::quant {
namespace {

using Json = nlohmann::ordered_json;
using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

const char* weights_name(WeightType type) {
  switch (type) {
    case WeightType::u4:
      return "int4";
    case WeightType::u6:
      return "int6";
    case WeightType::u8:
      return "int8";
    case WeightType::f32:
      break;
  }
  return "f32";
}

Json format_json(const WeightFormat& format) {
  if (format.type == WeightType::f32) return {{"weights", "f32"}};
  return {{"weights", weights_name(format.type)},
          {"group", format.group},
          {"asym", format.asym},
          {"scale", jit::scale_type_name(format.scale)}};
}

// One member of an object: what it should be, and where it is for messages.
class Member {
 public:
  Member(const Json& value, std::string origin, std::string place)
      : value_(value), origin_(std::move(origin)), place_(std::move(place)) {}

  [[noreturn]] void wrong(const std::string& expected) const {
    fail("{}: \"{}\" is {}, expected {}.", origin_, place_,
         value_.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 80), expected);
  }
  std::string text() const {
    if (!value_.is_string()) wrong("text");
    return value_.get<std::string>();
  }
  bool boolean() const {
    if (!value_.is_boolean()) wrong("true or false");
    return value_.get<bool>();
  }
  int64_t integer(int64_t least, int64_t most) const {
    if (value_.is_number_unsigned()) {
      const auto found = value_.get<uint64_t>();
      if (found <= static_cast<uint64_t>(most) && static_cast<int64_t>(found) >= least) {
        return static_cast<int64_t>(found);
      }
    }
    wrong(fmt::format("an integer from {} to {}", least, most));
  }
  double real(double least, double most) const {
    if (!value_.is_number()) wrong(fmt::format("a number from {} to {}", least, most));
    const auto found = value_.get<double>();
    if (!(found >= least && found <= most)) {
      wrong(fmt::format("a number from {} to {}", least, most));
    }
    return found;
  }
  WeightType type() const {
    const std::string name = text();
    for (const WeightType type :
         {WeightType::u4, WeightType::u6, WeightType::u8, WeightType::f32}) {
      if (name == weights_name(type)) return type;
    }
    wrong("\"int4\", \"int6\", \"int8\" or \"f32\"");
  }
  ScaleType scale() const {
    const auto type = jit::parse_scale_type(text());
    if (!type) wrong("\"f16\", \"bf16\", \"f32\" or \"q8\"");
    return *type;
  }
  // visit(key, member) for every member; false: it has no such key.
  template <typename Visit>
  void each(const Visit& visit) const {
    if (!value_.is_object()) wrong("an object");
    for (const auto& [key, value] : value_.items()) {
      const std::string place = place_.empty() ? key : place_ + "." + key;
      if (!visit(key, Member(value, origin_, place))) {
        fail("{}: \"{}\" is no key of a recipe.", origin_, place);
      }
    }
  }
  WeightFormat format(WeightFormat format) const {
    each([&](const std::string& key, const Member& member) {
      return set_format(format, key, member);
    });
    return format;
  }
  // A key of a format.
  static bool set_format(WeightFormat& format, const std::string& key, const Member& member) {
    if (key == "weights") {
      format.type = member.type();
    } else if (key == "group") {
      format.group = member.integer(0, 1 << 20);
      if (format.group % 8 != 0) member.wrong("0 (a whole column) or a multiple of 8");
    } else if (key == "asym") {
      format.asym = member.boolean();
    } else if (key == "scale") {
      format.scale = member.scale();
    } else {
      return false;
    }
    return true;
  }

 private:
  const Json& value_;
  std::string origin_, place_;
};

bool set_option(Recipe& recipe, const std::string& key, const Member& member) {
  if (key == "method") {
    try {
      set_method(recipe, member.text());
    } catch (const Error& error) {
      member.wrong("a method's name. " + std::string(error.what()));
    }
  } else if (key == "clip") {
    recipe.clip = member.boolean();
  } else if (key == "lm_head") {
    recipe.formats.head = member.format(recipe.formats.head);
  } else if (key == "embedding") {
    recipe.formats.embedding = member.format(recipe.formats.embedding);
    recipe.formats.embedding_chosen = true;
  } else if (key == "formats_of") {
    member.each([&](const std::string& name, const Member& format) {
      recipe.formats_of[name] = format.format(recipe.formats.linear);
      return true;
    });
  } else if (key == "bits") {
    recipe.bits = member.real(0, 32);
  } else if (key == "damping") {
    recipe.damping = member.real(0, 1);
  } else if (key == "act_order") {
    recipe.act_order = member.boolean();
  } else if (key == "static_groups") {
    recipe.static_groups = member.boolean();
  } else if (key == "iterations") {
    recipe.iterations = static_cast<int>(member.integer(1, 100000));
  } else if (key == "seed") {
    recipe.seed = static_cast<uint64_t>(member.integer(0, std::numeric_limits<int64_t>::max()));
  } else {
    return Member::set_format(recipe.formats.linear, key, member);
  }
  return true;
}

bool trains(const Recipe& recipe) {
  return recipe.scaling == Scaling::teq || recipe.rounding == Rounding::sign_round ||
         recipe.rounding == Rounding::sign_round_blocks;
}

}  // namespace

std::string recipe_to_json(const Recipe& recipe) {
  Json json = {{"method", method_name(recipe)}};
  json.update(format_json(recipe.formats.linear));
  json["lm_head"] = format_json(recipe.formats.head);
  json["embedding"] = format_json(recipe.formats.embedding);
  if (!recipe.formats_of.empty()) {
    Json& formats = json["formats_of"] = Json::object();
    for (const auto& [name, format] : recipe.formats_of) formats[name] = format_json(format);
  }
  if (recipe.bits > 0) json["bits"] = recipe.bits;
  if (recipe.scaling == Scaling::awq) json["clip"] = recipe.clip;
  if (recipe.rounding == Rounding::gptq) {
    json["damping"] = recipe.damping;
    json["act_order"] = recipe.act_order;
    json["static_groups"] = recipe.static_groups;
  }
  if (trains(recipe)) {
    json["iterations"] = recipe.iterations;
    json["seed"] = recipe.seed;
  }
  return json.dump();
}

Recipe recipe_from_json(const std::string& text, const std::string& origin,
                        const Recipe& defaults) {
  const Json json = runtime::parse_ordered_json(text, origin);
  Recipe recipe = defaults;
  // The method first: it sets what other keys refine.
  if (json.is_object() && json.contains("method")) {
    set_option(recipe, "method", Member(json["method"], origin, "method"));
  }
  const Member whole(json, origin, "");
  whole.each([&](const std::string& key, const Member& member) {
    // The linear format and the method are known before the formats that start from them.
    return key == "method" || key == "formats_of" || set_option(recipe, key, member);
  });
  if (json.contains("formats_of")) {
    set_option(recipe, "formats_of", Member(json["formats_of"], origin, "formats_of"));
  }
  return recipe;
}

}  // namespace nibble::quant
