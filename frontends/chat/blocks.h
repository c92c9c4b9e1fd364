// The variable `self` of a template, which has its blocks, and a block as a value that renders it.
#pragma once

#include "frontends/chat/interpreter.h"

namespace nibble::frontends::chat {

class TemplateReference : public Object {
 public:
  // `around`: the variables that the blocks see.
  TemplateReference(const Interpreter& interpreter, ScopePtr around)
      : interpreter_(interpreter), around_(std::move(around)) {}
  std::string type_name() const override { return "TemplateReference"; }
  std::string qualified_name() const override { return "jinja2.runtime.TemplateReference"; }
  std::string repr() const override { return "<TemplateReference None>"; }
  std::optional<Value> attribute(std::string_view name) override;
  std::optional<Value> item(const Value& key) override;

 private:
  const Interpreter& interpreter_;
  ScopePtr around_;
};

class BlockReference : public Object {
 public:
  BlockReference(const Signature& block, ScopePtr around)
      : block_(block), around_(std::move(around)) {}
  std::string type_name() const override { return "BlockReference"; }
  std::string qualified_name() const override { return "jinja2.runtime.BlockReference"; }
  std::optional<Value> attribute(std::string_view name) override;
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments& arguments) override;

 private:
  const Signature& block_;
  ScopePtr around_;
};

}  // namespace nibble::frontends::chat
