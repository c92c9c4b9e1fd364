// The variable `loop` of a for block.
#pragma once

#include "frontends/chat/ast.h"
#include "frontends/chat/interpreter.h"
#include "frontends/chat/value.h"

namespace nibble::frontends::chat {

class Loop : public Object {
 public:
  // `loop`: the statement, for a recursive one; `size`: how many items there are, when known.
  Loop(Next next, std::optional<int64_t> size, const Statement& statement, ScopePtr around,
       int depth)
      : next_(std::move(next)),
        size_(size),
        statement_(statement),
        around_(std::move(around)),
        depth_(depth) {}

  // False at the end.
  bool advance(Value& item);

  std::string type_name() const override { return "LoopContext"; }
  std::string qualified_name() const override { return "jinja2.runtime.LoopContext"; }
  std::string repr() const override;
  std::optional<int64_t> length() override;
  std::optional<Value> attribute(std::string_view name) override;
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments& arguments) override;

 private:
  bool peek();  // whether there is a next item
  bool changed(const Items& values);

  Next next_;
  std::optional<int64_t> size_;
  const Statement& statement_;
  ScopePtr around_;
  int depth_;
  int64_t index_ = -1;
  std::optional<Value> after_, current_, before_;
  std::optional<Items> last_changed_;
};

}  // namespace nibble::frontends::chat
