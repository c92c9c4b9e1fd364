// Macros and the bodies of call blocks, as values that can be called.
#pragma once

#include "frontends/chat/interpreter.h"

namespace nibble::frontends::chat {

class Macro : public Object {
 public:
  Macro(std::shared_ptr<const Signature> signature, ScopePtr around)
      : signature_(std::move(signature)), around_(std::move(around)) {}
  std::string type_name() const override { return "Macro"; }
  std::string qualified_name() const override { return "jinja2.runtime.Macro"; }
  std::string repr() const override {
    return "<Macro " + (signature_->name.empty() ? "anonymous" : repr_of_text(signature_->name)) +
           ">";
  }
  std::optional<Value> attribute(std::string_view name) override;
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments& arguments) override {
    return interpreter.call_macro(*signature_, around_, arguments);
  }

 private:
  std::shared_ptr<const Signature> signature_;
  ScopePtr around_;
};

// Sets what is given of the parameters, and caller, kwargs and varargs where they are used. Raises
// what Jinja raises on arguments that do not fit.
void bind_macro_arguments(const Signature& signature, Arguments& arguments, Scope& scope);

// dict(x) of a mapping or of pairs.
Dict dict_from(const Value& value);

}  // namespace nibble::frontends::chat
