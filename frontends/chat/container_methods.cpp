// The methods of dict, list and tuple that change nothing.
#include "frontends/chat/attributes.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/parameters.h"

namespace nibble::frontends::chat {
namespace {

template <DictView::Part part>
Value view_method(Interpreter&, const Value& self, Arguments&) {
  return Value::object(std::make_shared<DictView>(self, part));
}

Value get_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given("dict.get(key, default=, /)", arguments);
  require_hashable(given.need(0), "a dict key");
  const Value* found = self.dict().find(given.need(0));
  return found != nullptr ? *found : given.value_or(1, Value());
}

Value from_keys_method(Interpreter&, const Value&, Arguments& arguments) {
  const Parameters given("dict.fromkeys(iterable, value=, /)", arguments);
  Dict out;
  const Next next = iterate(given.need(0));
  Value key;
  while (next(key)) {
    out.set(key, given.value_or(1, Value()));
    foresee(out.size() * sizeof(Dict::Entry));
  }
  return Value::dict(std::move(out));
}

Value copy_method(Interpreter&, const Value& self, Arguments&) { return self; }

Value index_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given(self.is_tuple() ? "tuple.index(value, start=, stop=, /)"
                                         : "list.index(value, start=, stop=, /)",
                         arguments);
  const Items& items = self.items();
  const auto size = static_cast<int64_t>(items.size());
  const auto place = [&](size_t i, int64_t otherwise) {
    const Value part = given.value_or(i, Value::of(otherwise));
    if (!part.is_integral()) {
      raise("slice indices must be integers or have an __index__ method");
    }
    const int64_t at = part.integer();
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
  };
  const int64_t first = place(1, 0), past = place(2, size);
  for (int64_t i = first; i < past; ++i) {
    if (equal(items[static_cast<size_t>(i)], given.need(0))) return Value::of(i);
  }
  raise("{0}.index(x): x not in {0}", type_name(self));
}

Value count_method(Interpreter&, const Value& self, Arguments& arguments) {
  const Parameters given(self.is_tuple() ? "tuple.count(value, /)" : "list.count(value, /)",
                         arguments);
  int64_t count = 0;
  for (const Value& item : self.items()) count += equal(item, given.need(0)) ? 1 : 0;
  return Value::of(count);
}

}  // namespace

const Method* find_container_method(const Value& value, std::string_view name) {
  static constexpr Method items{view_method<DictView::Part::items>, "dict.items()"};
  static constexpr Method keys{view_method<DictView::Part::keys>, "dict.keys()"};
  static constexpr Method values{view_method<DictView::Part::values>, "dict.values()"};
  static constexpr Method get{get_method}, from_keys{from_keys_method};
  static constexpr Method copy_dict{copy_method, "dict.copy()"};
  static constexpr Method copy_list{copy_method, "list.copy()"};
  static constexpr Method index{index_method}, count{count_method};
  if (value.is_dict()) {
    if (name == "items") return &items;
    if (name == "keys") return &keys;
    if (name == "values") return &values;
    if (name == "get") return &get;
    if (name == "fromkeys") return &from_keys;
    if (name == "copy") return &copy_dict;
  }
  if (value.is_sequence()) {
    if (name == "index") return &index;
    if (name == "count") return &count;
    if (name == "copy" && value.is_list()) return &copy_list;
  }
  return nullptr;
}

}  // namespace nibble::frontends::chat
