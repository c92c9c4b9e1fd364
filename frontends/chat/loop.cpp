#include "frontends/chat/loop.h"

#include "frontends/chat/operators.h"

namespace nibble::frontends::chat {

bool Loop::advance(Value& item) {
  if (!peek()) return false;
  item = std::move(*after_);
  after_.reset();
  ++index_;
  before_ = std::move(current_);
  current_ = item;
  return true;
}

bool Loop::peek() {
  if (after_) return true;
  Value item;
  if (!next_(item)) return false;
  after_ = std::move(item);
  return true;
}

std::optional<int64_t> Loop::length() {
  if (size_) return size_;
  Items rest;
  Value item;
  while (next_(item)) rest.push_back(item);
  size_ = static_cast<int64_t>(rest.size()) + index_ + 1 + (after_ ? 1 : 0);
  next_ = chat::iterate(Value::list(std::move(rest)));
  return size_;
}

std::string Loop::repr() const {
  return fmt::format("<LoopContext {}/{}>", index_ + 1, *const_cast<Loop*>(this)->length());
}

bool Loop::changed(const Items& values) {
  const bool same = last_changed_ && equal(Value::list(*last_changed_), Value::list(values));
  last_changed_ = values;
  return !same;
}

std::optional<Value> Loop::attribute(std::string_view name) {
  if (name == "index") return Value::of(index_ + 1);
  if (name == "index0") return Value::of(index_);
  if (name == "first") return Value::of(index_ == 0);
  if (name == "last") return Value::of(!peek());
  if (name == "length") return Value::of(*length());
  if (name == "revindex") return Value::of(*length() - index_);
  if (name == "revindex0") return Value::of(*length() - index_ - 1);
  if (name == "depth") return Value::of(int64_t{depth_} + 1);
  if (name == "depth0") return Value::of(int64_t{depth_});
  if (name == "previtem") {
    return index_ == 0 ? Value::undefined("there is no previous item") : *before_;
  }
  if (name == "nextitem") return peek() ? *after_ : Value::undefined("there is no next item");
  if (name == "cycle") {
    return make_function("cycle", [index = index_](Interpreter&, Arguments& arguments) {
      const Items& items = arguments.positional;
      if (items.empty()) raise("no items for cycling given");
      return items[static_cast<size_t>(index) % items.size()];
    });
  }
  if (name == "changed") {
    return make_function("changed", [this](Interpreter&, Arguments& arguments) {
      return Value::of(changed(arguments.positional));
    });
  }
  return std::nullopt;
}

Value Loop::call(Interpreter& interpreter, Arguments& arguments) {
  if (!statement_.recursive) {
    raise("The loop must have the 'recursive' marker to be called recursively.");
  }
  if (arguments.positional.empty()) {
    raise("LoopContext.__call__() missing 1 required positional argument: 'iterable'");
  }
  return interpreter.run_loop_again(statement_, arguments.positional[0], around_, depth_ + 1);
}

}  // namespace nibble::frontends::chat
