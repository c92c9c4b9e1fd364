#include "frontends/chat/blocks.h"

#include "frontends/chat/parameters.h"

namespace nibble::frontends::chat {

std::optional<Value> TemplateReference::attribute(std::string_view name) {
  const Signature* block = interpreter_.find_block(name);
  if (block == nullptr) return std::nullopt;
  return Value::object(std::make_shared<BlockReference>(*block, around_));
}

std::optional<Value> TemplateReference::item(const Value& key) {
  return key.is_text() ? attribute(key.text()) : std::nullopt;
}

std::optional<Value> BlockReference::attribute(std::string_view name) {
  if (name == "name") return Value::of(block_.name);
  if (name != "super") return std::nullopt;
  return Value::undefined(
      fmt::format("there is no parent block called {}.", repr_of_text(block_.name)));
}

Value BlockReference::call(Interpreter& interpreter, Arguments& arguments) {
  Parameters("BlockReference.__call__(self;)", arguments);
  return interpreter.render_block(block_, around_);
}

}  // namespace nibble::frontends::chat
