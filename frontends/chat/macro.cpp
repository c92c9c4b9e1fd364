#include "frontends/chat/macro.h"

#include <algorithm>
#include <ctime>

#include "frontends/chat/filters.h"
#include "frontends/chat/operators.h"

namespace nibble::frontends::chat {
namespace {

// cycler(...): the items in turn, for ever.
class Cycler : public Object {
 public:
  explicit Cycler(Items items) : items_(Value::list(std::move(items))) {}
  std::string type_name() const override { return "Cycler"; }
  std::string qualified_name() const override { return "jinja2.utils.Cycler"; }
  int depth() const override { return items_.depth(); }
  std::optional<Value> attribute(std::string_view name) override {
    if (name == "current") return items_.items()[at_];
    if (name == "next") {
      return make_function("next", [this](Interpreter&, Arguments&) {
        const size_t at = std::exchange(at_, (at_ + 1) % items_.items().size());
        return items_.items()[at];
      });
    }
    if (name != "reset") return std::nullopt;
    return make_function("reset", [this](Interpreter&, Arguments&) {
      at_ = 0;
      return Value();
    });
  }

 private:
  Value items_;
  size_t at_ = 0;
};

Value make_range(Interpreter&, Arguments& arguments) {
  const Items& given = arguments.positional;
  if (given.empty()) raise("range expected at least 1 argument, got 0");
  if (given.size() > 3) raise("range expected at most 3 arguments, got {}", given.size());
  const int64_t first = to_index(given[0]);
  if (given.size() == 1) return Value::object(std::make_shared<Range>(0, first, 1));
  const int64_t step = given.size() == 3 ? to_index(given[2]) : 1;
  return Value::object(std::make_shared<Range>(first, to_index(given[1]), step));
}

Value make_dict(Interpreter&, Arguments& arguments) {
  if (arguments.positional.size() > 1) {
    raise("dict expected at most 1 argument, got {}", arguments.positional.size());
  }
  Dict out;
  if (!arguments.positional.empty()) out = dict_from(arguments.positional[0]);
  for (auto& [name, value] : arguments.named) out.set(Value::of(name), std::move(value));
  return Value::dict(std::move(out));
}

Value raise_exception(Interpreter&, Arguments& arguments) {
  const Parameters given("_cached_compile_jinja_template.<locals>.raise_exception(; message)",
                         arguments);
  throw TemplateError(to_text(given.need(0)));
}

Value strftime_now(Interpreter& interpreter, Arguments& arguments) {
  const Parameters given("_cached_compile_jinja_template.<locals>.strftime_now(; format)",
                         arguments);
  if (!given.need(0).is_text()) {
    raise("strftime() argument 1 must be str, not {}", type_name(given.need(0)));
  }
  return Value::of(interpreter.format_now(given.need(0).text()));
}

Value make_cycler(Interpreter&, Arguments& arguments) {
  if (arguments.positional.empty()) raise("at least one item has to be provided");
  return Value::object(std::make_shared<Cycler>(std::move(arguments.positional)));
}

Value make_filler_text(Interpreter&, Arguments&) {
  fail("The chat template calls lipsum(), so what it renders is left to chance.");
}

Value make_joiner(Interpreter&, Arguments& arguments) {
  const Parameters given("Joiner.__init__(self; sep=)", arguments);
  const Value separator = given.value_or(0, Value::of(", "));
  return make_function("joiner", [separator, used = false](Interpreter&, Arguments&) mutable {
    return std::exchange(used, true) ? separator : Value::of("");
  });
}

}  // namespace

std::optional<Value> Macro::attribute(std::string_view name) {
  if (name == "name") {
    return signature_->name.empty() ? Value() : Value::of(signature_->name);
  }
  if (name == "caller") return Value::of(signature_->uses_caller);
  if (name == "catch_kwargs") return Value::of(signature_->uses_kwargs);
  if (name == "catch_varargs") return Value::of(signature_->uses_varargs);
  if (name != "arguments") return std::nullopt;
  Items names;
  for (const std::string& parameter : signature_->parameters) names.push_back(Value::of(parameter));
  return Value::tuple(std::move(names));
}

void bind_macro_arguments(const Signature& signature, Arguments& arguments, Scope& scope) {
  const auto& names = signature.parameters;
  const size_t placed = std::min(names.size(), arguments.positional.size());
  for (size_t i = 0; i < placed; ++i) scope.set(names[i], arguments.positional[i]);
  bool caller_found = std::find(names.begin(), names.end(), "caller") != names.end();
  auto& named = arguments.named;
  const auto take = [&](const std::string& name, Value& value) {
    const auto found = std::find_if(named.begin(), named.end(),
                                    [&](const auto& argument) { return argument.first == name; });
    if (found == named.end()) return false;
    value = std::move(found->second);
    named.erase(found);
    return true;
  };
  Value value;
  for (size_t i = placed; i < names.size(); ++i) {
    if (take(names[i], value)) scope.set(names[i], value);
  }
  if (signature.uses_caller && !caller_found) {
    scope.set("caller", take("caller", value) ? value : Value::undefined("No caller defined"));
  }
  const std::string name = signature.name.empty() ? "None" : repr_of_text(signature.name);
  if (signature.uses_kwargs) {
    Dict rest;
    for (auto& [key, given] : named) rest.set(Value::of(key), std::move(given));
    scope.set("kwargs", Value::dict(std::move(rest)));
  } else if (!named.empty()) {
    const auto is_caller = [](const auto& argument) { return argument.first == "caller"; };
    if (std::any_of(named.begin(), named.end(), is_caller)) {
      raise(
          "macro {} was invoked with two values for the special caller argument. This is most "
          "likely a bug.",
          name);
    }
    raise("macro {} takes no keyword argument {}", name, repr_of_text(named[0].first));
  }
  Items& positional = arguments.positional;
  if (signature.uses_varargs) {
    scope.set("varargs", Value::tuple(Items(positional.begin() + static_cast<int64_t>(placed),
                                            positional.end())));
  } else if (positional.size() > names.size()) {
    raise("macro {} takes not more than {} argument(s)", name, names.size());
  }
}

Dict dict_from(const Value& value) {
  require_defined(value);
  if (value.is_dict()) return value.dict();
  if (value.is_object()) {
    if (const auto* space = dynamic_cast<Namespace*>(&value.object())) return space->attributes;
  }
  Dict out;
  const Next next = iterate(value);
  Value pair;
  for (int64_t i = 0; next(pair); ++i) {
    const Next part = iterate_if_any(pair);
    if (!part) {
      raise("object is not iterable");
    }
    const Items items = to_items(pair);
    if (items.size() != 2) {
      raise("dictionary update sequence element #{} has length {}; 2 is required", i, items.size());
    }
    out.set(items[0], items[1]);
    foresee(out.size() * sizeof(Dict::Entry));
  }
  return out;
}

std::string Interpreter::format_now(const std::string& format) const {
  std::string plain;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      plain += format[i];
    } else if (format[++i] == 'f') {  // a time without fractions or a zone
      plain += "000000";
    } else if (format[i] != 'z' && format[i] != 'Z') {
      plain += '%';
      plain += format[i];
    }
  }
  foresee(plain.size(), 64);
  if (plain.empty()) return "";
  std::string out(plain.size() * 64 + 64, '\0');
  out.resize(std::strftime(out.data(), out.size(), plain.c_str(), &now_));
  return out;
}

Dict make_globals() {
  Dict out;
  const auto add = [&](const char* name, Value (*body)(Interpreter&, Arguments&)) {
    out.set(Value::of(name), make_function(name, body));
  };
  add("range", make_range);
  add("dict", make_dict);
  add("namespace", [](Interpreter& interpreter, Arguments& arguments) {
    return interpreter.make_namespace(arguments);
  });
  add("raise_exception", raise_exception);
  add("strftime_now", strftime_now);
  add("cycler", make_cycler);
  add("joiner", make_joiner);
  add("lipsum", make_filler_text);
  return out;
}

}  // namespace nibble::frontends::chat
