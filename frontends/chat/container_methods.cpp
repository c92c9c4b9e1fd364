// The methods of dict, list and tuple that change nothing.
#include "frontends/chat/attributes.h"
#include "frontends/chat/filters.h"
#include "frontends/chat/operators.h"

namespace nibble::frontends::chat {
namespace {

template <DictView::Part part>
Value view_method(Interpreter&, const Value& self, Arguments&) {
  return Value::object(std::make_shared<DictView>(self, part));
}

Value get_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given("get", arguments, {"key", "default"});
  const Value* found = self.dict().find(given.need(0));
  return found != nullptr ? *found : given.value_or(1, Value());
}

Value copy_method(Interpreter&, const Value& self, Arguments&) { return self; }

Value index_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given("index", arguments, {"value", "start", "stop"});
  const Items& items = self.items();
  const auto size = static_cast<int64_t>(items.size());
  const auto place = [&](size_t i, int64_t otherwise) {
    const int64_t at = given.integer_or(i, otherwise);
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
  };
  for (int64_t i = place(1, 0); i < place(2, size); ++i) {
    if (equal(items[static_cast<size_t>(i)], given.need(0))) return Value::of(i);
  }
  if (self.is_tuple()) raise("tuple.index(x): x not in tuple");
  raise("list.index(x): x not in list");
}

Value count_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given("count", arguments, {"value"});
  int64_t count = 0;
  for (const Value& item : self.items()) count += equal(item, given.need(0)) ? 1 : 0;
  return Value::of(count);
}

}  // namespace

Method find_container_method(const Value& value, std::string_view name) {
  if (value.is_dict()) {
    if (name == "items") return view_method<DictView::Part::items>;
    if (name == "keys") return view_method<DictView::Part::keys>;
    if (name == "values") return view_method<DictView::Part::values>;
    if (name == "get") return get_method;
    if (name == "copy") return copy_method;
  }
  if (value.is_sequence()) {
    if (name == "index") return index_method;
    if (name == "count") return count_method;
    if (name == "copy" && value.is_list()) return copy_method;
  }
  return nullptr;
}

}  // namespace nibble::frontends::chat
