// Filters on sequences and dictionaries.
#include <algorithm>
#include <unordered_map>

#include "frontends/chat/attributes.h"
#include "frontends/chat/filters.h"
#include "frontends/chat/interpreter.h"
#include "frontends/chat/operators.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

Value fold_case(const Value& value) {
  return value.is_text() ? Value::of(to_lower(value.text())) : value;
}

// What items are compared by: a part of them, without regard to case.
Value key_of(const Value& item, const Value& attribute, bool case_sensitive) {
  const Value key = get_path(item, attribute);
  return case_sensitive ? key : fold_case(key);
}

// An attribute of `sort` may name several parts: "a,b".
Value sort_key(const Value& item, const Value& attribute, bool case_sensitive) {
  Items keys;
  if (attribute.is_text()) {
    for (const std::string_view part : split_at(attribute.text(), ",", -1, false)) {
      keys.push_back(key_of(item, Value::of(std::string(part)), case_sensitive));
    }
  } else {
    keys.push_back(key_of(item, attribute, case_sensitive));
  }
  return Value::list(std::move(keys));
}

struct Keyed {
  Value key, item;
};

// Stable, also when reversed, as Python's.
void sort_keyed(std::vector<Keyed>& keyed, bool reverse) {
  if (reverse) std::reverse(keyed.begin(), keyed.end());
  std::stable_sort(keyed.begin(), keyed.end(), [](const Keyed& a, const Keyed& b) {
    return compare(Comparison::lt, a.key, b.key);
  });
  if (reverse) std::reverse(keyed.begin(), keyed.end());
}

Items items_of(std::vector<Keyed> keyed) {
  Items out;
  for (Keyed& each : keyed) out.push_back(std::move(each.item));
  return out;
}

Value count(Interpreter&, const Value& value, Arguments&) { return Value::of(length(value)); }

Value first(Interpreter&, const Value& value, Arguments&) {
  Value item;
  if (iterate(value)(item)) return item;
  return Value::undefined("No first item, sequence was empty.");
}

void require_reversible(const Value& value) {
  const bool ordered = value.is_text() || value.is_sequence() || value.is_dict() ||
                       (value.is_object() && value.object().length().has_value());
  if (!ordered && !value.is_undefined()) {
    raise("'{}' object is not reversible", type_name(value));
  }
}

Value last(Interpreter&, const Value& value, Arguments&) {
  require_reversible(value);
  if (value.is_text() || value.is_sequence()) {
    if (auto item = item_of(value, Value::of(int64_t{-1}))) return *item;
  } else {
    Items items = to_items(value);
    if (!items.empty()) return items.back();
  }
  return Value::undefined("No last item, sequence was empty.");
}

Value join(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_join", arguments, {"d", "attribute"});
  const std::string between = given.text_or(0, "");
  const Value attribute = given.value_or(1, Value());
  const Next next = iterate(value);
  std::string out;
  Value item;
  for (bool any = false; next(item); any = true) {
    if (any) out += between;
    out += to_text(get_path(item, attribute));
    foresee(out.size());
  }
  spend_bytes(out.size());
  return Value::of(std::move(out));
}

Value to_list(Interpreter&, const Value& value, Arguments&) { return Value::list(to_items(value)); }

Value map(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  if (!truth(value)) return make_iterator(Value(), [](Value&) { return false; });
  const Next next = iterate(value);
  if (arguments.positional.empty() && !arguments.named.empty() &&
      arguments.named[0].first == "attribute") {
    const Parameters given("map", arguments, {"attribute", "default"});
    const Value path = given.need(0), otherwise = given.value_or(1, Value());
    return make_iterator(value, [=](Value& item) {
      if (!next(item)) return false;
      item = get_path(item, path);
      if (item.is_undefined() && !otherwise.is_none()) item = otherwise;
      return true;
    });
  }
  if (arguments.positional.empty()) raise("map requires a filter argument");
  const Value name = arguments.positional[0];
  arguments.positional.erase(arguments.positional.begin());
  return make_iterator(value, [=, &interpreter, arguments = arguments](Value& item) {
    const Deeper deeper;
    if (!next(item)) return false;
    Arguments own = arguments;
    item = interpreter.call_filter(name, item, own);
    return true;
  });
}

template <bool keep, bool by_attribute>
Value select(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  if (!truth(value)) return make_iterator(Value(), [](Value&) { return false; });
  Items& given = arguments.positional;
  Value path;
  if (by_attribute) {
    if (given.empty()) raise("Missing parameter for attribute name");
    path = given[0];
    given.erase(given.begin());
  }
  const bool tested = !given.empty();
  const Value name = tested ? given[0] : Value();
  if (tested) given.erase(given.begin());
  const Next next = iterate(value);
  return make_iterator(value, [=, &interpreter, arguments = arguments](Value& item) {
    const Deeper deeper;
    while (next(item)) {
      const Value part = get_path(item, path);
      Arguments own = arguments;
      const bool holds = tested ? interpreter.call_test(name, part, own) : truth(part);
      if (holds == keep) return true;
    }
    return false;
  });
}

Value sort(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<Keyed> keyed;
  for (const Value& item : to_items(value)) {
    keyed.push_back({sort_key(item, given.value_or(2, Value()), given.truth_or(1, false)), item});
  }
  sort_keyed(keyed, given.truth_or(0, false));
  return Value::list(items_of(std::move(keyed)));
}

Value sort_dict(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = given.text_or(1, "key");
  if (by != "key" && by != "value") raise("You can only sort by either \"key\" or \"value\"");
  require_defined(value);
  if (!value.is_dict()) raise("'{}' object has no attribute 'items'", type_name(value));
  std::vector<Keyed> keyed;
  for (const auto& [key, item] : value.dict().entries()) {
    const Value& part = by == "key" ? key : item;
    keyed.push_back({given.truth_or(0, false) ? part : fold_case(part), Value::tuple({key, item})});
  }
  sort_keyed(keyed, given.truth_or(2, false));
  return Value::list(items_of(std::move(keyed)));
}

Value unique(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_unique", arguments, {"case_sensitive", "attribute"});
  Dict seen;
  Items out;
  for (const Value& item : to_items(value)) {
    const Value key = key_of(item, given.value_or(1, Value()), given.truth_or(0, false));
    const size_t before = seen.size();
    spend(key.is_text() ? 1 : 1 + static_cast<int64_t>(before));
    seen.set(key, Value());
    if (seen.size() > before) out.push_back(item);
  }
  return make_iterator(value, iterate(Value::list(std::move(out))));
}

template <Comparison better>
Value extreme(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_min", arguments, {"case_sensitive", "attribute"});
  const Next next = iterate(value);
  Value best, best_key, item;
  bool any = false;
  while (next(item)) {
    const Value key = key_of(item, given.value_or(1, Value()), given.truth_or(0, false));
    if (any && !compare(better, key, best_key)) continue;
    best = item;
    best_key = key;
    any = true;
  }
  return any ? best : Value::undefined("No aggregated item, sequence was empty.");
}

Value sum(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_sum", arguments, {"attribute", "start"});
  Value total = given.value_or(1, Value::of(int64_t{0}));
  if (total.is_text()) raise("sum() can't sum strings [use ''.join(seq) instead]");
  const Next next = iterate(value);
  Value item;
  while (next(item)) {
    total = apply(Operator::add, total, get_path(item, given.value_or(0, Value())));
  }
  return total;
}

Value reverse(Interpreter&, const Value& value, Arguments&) {
  if (value.is_text()) {
    auto all = characters_of(value.text());
    std::reverse(all.begin(), all.end());
    return Value::of(text_of(all));
  }
  if (!iterate_if_any(value)) raise("argument must be iterable");
  Items items = to_items(value);
  std::reverse(items.begin(), items.end());
  const bool once = value.is_sequence() || value.is_dict() || value.is_undefined();
  const Value list = Value::list(std::move(items));
  if (!once) return list;
  return make_iterator(value, iterate(list),
                       value.is_dict()    ? "dict_reversekeyiterator"
                       : value.is_tuple() ? "reversed"
                                          : "list_reverseiterator");
}

Value batch(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_batch", arguments, {"linecount", "fill_with"});
  const int64_t size = to_index(given.need(0));
  const Value fill = given.value_or(1, Value());
  Items rows, row;
  for (const Value& item : to_items(value)) {
    if (static_cast<int64_t>(row.size()) == size) {
      rows.push_back(Value::list(std::exchange(row, {})));
    }
    row.push_back(item);
  }
  if (!row.empty()) {
    const int64_t missing = size - static_cast<int64_t>(row.size());
    if (!fill.is_none() && missing > 0) {
      foresee(static_cast<size_t>(missing), sizeof(Value));
      row.insert(row.end(), static_cast<size_t>(missing), fill);
    }
    rows.push_back(Value::list(std::move(row)));
  }
  const Value list = Value::list(std::move(rows));
  return make_iterator(list, iterate(list));
}

Value slice(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_slice", arguments, {"slices", "fill_with"});
  const int64_t slices = to_index(given.need(0));
  const Value fill = given.value_or(1, Value());
  const Items items = to_items(value);
  const auto size = static_cast<int64_t>(items.size());
  if (slices == 0) raise("division by zero");
  Items rows;
  auto at = items.begin();
  foresee(static_cast<size_t>(std::max<int64_t>(slices, 0)), sizeof(Value) + sizeof(Sequence));
  for (int64_t i = 0; i < slices; ++i) {
    const bool longer = i < size % slices;
    const auto end = at + size / slices + (longer ? 1 : 0);
    Items row(at, end);
    at = end;
    if (!fill.is_none() && !longer) row.push_back(fill);
    rows.push_back(Value::list(std::move(row)));
  }
  const Value list = Value::list(std::move(rows));
  return make_iterator(list, iterate(list));
}

// A pair that also knows its parts by name: what groupby makes of a group.
class Group : public Object {
 public:
  Group(Value grouper, Value list) : pair_(Value::tuple({std::move(grouper), std::move(list)})) {}
  std::string type_name() const override { return "_GroupTuple"; }
  std::string qualified_name() const override { return "jinja2.filters._GroupTuple"; }
  std::string repr() const override { return to_repr(pair_); }
  std::optional<int64_t> length() override { return 2; }
  Next iterate() override { return chat::iterate(pair_); }
  std::optional<Value> item(const Value& key) override { return item_of(pair_, key); }
  int depth() const override { return pair_.depth(); }
  std::optional<Value> attribute(std::string_view name) override {
    if (name == "grouper") return pair_.items()[0];
    if (name == "list") return pair_.items()[1];
    return std::nullopt;
  }

 private:
  Value pair_;
};

Value group_by(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_groupby", arguments, {"attribute", "default", "case_sensitive"});
  const Value otherwise = given.value_or(1, Value());
  const bool case_sensitive = given.truth_or(2, false);
  const auto part = [&](const Value& item) {
    const Value found = get_path(item, given.need(0));
    return found.is_undefined() && !otherwise.is_none() ? otherwise : found;
  };
  std::vector<Keyed> keyed;
  for (const Value& item : to_items(value)) {
    const Value key = part(item);
    keyed.push_back({case_sensitive ? key : fold_case(key), item});
  }
  sort_keyed(keyed, false);
  Items groups;
  for (size_t i = 0; i < keyed.size();) {
    const size_t begin = i;
    Items members;
    while (i < keyed.size() && equal(keyed[i].key, keyed[begin].key)) {
      members.push_back(keyed[i++].item);
    }
    const Value name = part(members[0]);
    groups.push_back(Value::object(std::make_shared<Group>(name, Value::list(std::move(members)))));
  }
  return Value::list(std::move(groups));
}

Value items(Interpreter&, const Value& value, Arguments&) {
  if (value.is_undefined()) return make_iterator(Value(), [](Value&) { return false; });
  if (!value.is_dict()) raise("Can only get item pairs from a mapping.");
  return make_iterator(value, DictView(value, DictView::Part::items).iterate());
}

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> filters = {
      {"batch", batch},
      {"count", count},
      {"dictsort", sort_dict},
      {"first", first},
      {"groupby", group_by},
      {"items", items},
      {"join", join},
      {"last", last},
      {"length", count},
      {"list", to_list},
      {"map", map},
      {"max", extreme<Comparison::gt>},
      {"min", extreme<Comparison::lt>},
      {"reject", select<false, false>},
      {"rejectattr", select<false, true>},
      {"reverse", reverse},
      {"select", select<true, false>},
      {"selectattr", select<true, true>},
      {"slice", slice},
      {"sort", sort},
      {"sum", sum},
      {"unique", unique},
  };
  const auto found = filters.find(name);
  return found == filters.end() ? nullptr : found->second;
}

}  // namespace nibble::frontends::chat
