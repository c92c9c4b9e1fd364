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

Value ignore_case(const Value& value) {
  return value.is_text() ? Value::of(to_lower(value.text())) : value;
}

// What items are compared by: a part of them, without regard to case.
Value key_of(const Value& item, const Value& attribute, bool case_sensitive) {
  const Value key = get_path(item, attribute);
  return case_sensitive ? key : ignore_case(key);
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

Value join(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Parameters given("sync_do_join(eval_ctx, value; d=, attribute=)", arguments);
  const Value attribute = given.value_or(1, Value());
  const Next next = iterate(value);
  const std::string between = given.text_or(0, "");
  Items items;
  std::string out;
  Value item;
  for (bool any = false; next(item); any = true) {
    item = get_path(item, attribute);
    if (interpreter.autoescape()) {
      items.push_back(item);
      foresee(items.size() * sizeof(Value));
      continue;
    }
    if (any) out += between;
    out += to_text(item);
    foresee(out.size());
  }
  if (interpreter.autoescape()) return join_escaped(items, given.value_or(0, Value::of("")));
  spend_bytes(out.size());
  return Value::of(std::move(out));
}

// Of one item the choice is no chance.
Value random(Interpreter&, const Value& value, Arguments&) {
  const int64_t size = length(value);
  if (size == 0) return Value::undefined("No random item, sequence was empty.");
  if (size > 1) {
    fail("The chat template uses the filter 'random', so what it renders is left to chance.");
  }
  return need_item(value, Value::of(int64_t{0}));
}

Value to_list(Interpreter&, const Value& value, Arguments&) { return Value::list(to_items(value)); }

// A generator: what it does when it begins, errors and all, waits for its first item to be asked
// for.
Value begun_later(const Value& source, std::function<Next()> begin) {
  return make_iterator(source, [begin = std::move(begin), next = Next()](Value& item) mutable {
    if (!next) next = begin();
    return next(item);
  });
}

Next map_items(Interpreter& interpreter, const Value& value, Arguments arguments) {
  if (!truth(value)) return [](Value&) { return false; };
  const auto names_attribute = [](const auto& argument) { return argument.first == "attribute"; };
  if (arguments.positional.empty() &&
      std::any_of(arguments.named.begin(), arguments.named.end(), names_attribute)) {
    Value path, otherwise;
    for (const auto& [name, given] : arguments.named) {
      if (name != "attribute" && name != "default") {
        raise("Unexpected keyword argument {}", repr_of_text(name));
      }
      (name == "default" ? otherwise : path) = given;
    }
    return [=, next = iterate(value)](Value& item) {
      if (!next(item)) return false;
      item = get_path(item, path);
      if (item.is_undefined() && !otherwise.is_none()) item = otherwise;
      return true;
    };
  }
  if (arguments.positional.empty()) raise("map requires a filter argument");
  const Value name = arguments.positional[0];
  arguments.positional.erase(arguments.positional.begin());
  return [=, &interpreter, next = iterate(value)](Value& item) {
    const Deeper deeper;
    if (!next(item)) return false;
    Arguments own = arguments;
    item = interpreter.call_filter(name, item, own);
    return true;
  };
}

Value map(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  return begun_later(
      value, [&interpreter, value, arguments] { return map_items(interpreter, value, arguments); });
}

Next select_items(Interpreter& interpreter, const Value& value, Arguments arguments, bool keep,
                  bool by_attribute) {
  if (!truth(value)) return [](Value&) { return false; };
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
  return [=, &interpreter, next = iterate(value)](Value& item) {
    const Deeper deeper;
    while (next(item)) {
      const Value part = get_path(item, path);
      Arguments own = arguments;
      const bool holds = tested ? interpreter.call_test(name, part, own) : truth(part);
      if (holds == keep) return true;
    }
    return false;
  };
}

template <bool keep, bool by_attribute>
Value select(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  return begun_later(value, [&interpreter, value, arguments] {
    return select_items(interpreter, value, arguments, keep, by_attribute);
  });
}

Value sort(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_sort(environment, value; reverse=, case_sensitive=, attribute=)",
                         arguments);
  std::vector<Keyed> keyed;
  for (const Value& item : to_items(value)) {
    keyed.push_back({sort_key(item, given.value_or(2, Value()), given.truth_or(1, false)), item});
  }
  sort_keyed(keyed, given.truth_or(0, false));
  return Value::list(items_of(std::move(keyed)));
}

Value sort_dict(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_dictsort(value; case_sensitive=, by=, reverse=)", arguments);
  const std::string by = given.text_or(1, "key");
  if (by != "key" && by != "value") raise("You can only sort by either \"key\" or \"value\"");
  require_defined(value);
  if (!value.is_dict()) raise("'{}' object has no attribute 'items'", type_name(value));
  std::vector<Keyed> keyed;
  for (const auto& [key, item] : value.dict().entries()) {
    const Value& part = by == "key" ? key : item;
    keyed.push_back(
        {given.truth_or(0, false) ? part : ignore_case(part), Value::tuple({key, item})});
  }
  sort_keyed(keyed, given.truth_or(2, false));
  return Value::list(items_of(std::move(keyed)));
}

Value unique(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("sync_do_unique(environment, value; case_sensitive=, attribute=)",
                         arguments);
  Dict seen;
  Items out;
  for (const Value& item : to_items(value)) {
    const Value key = key_of(item, given.value_or(1, Value()), given.truth_or(0, false));
    require_hashable(key, "a set element");
    const size_t before = seen.size();
    spend(key.is_text() ? 1 : 1 + static_cast<int64_t>(before));
    seen.set(key, Value());
    if (seen.size() > before) out.push_back(item);
  }
  return make_iterator(value, iterate(Value::list(std::move(out))));
}

template <Comparison better>
Value extreme(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given(better == Comparison::lt
                             ? "do_min(environment, value; case_sensitive=, attribute=)"
                             : "do_max(environment, value; case_sensitive=, attribute=)",
                         arguments);
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
  const Parameters given("sync_do_sum(environment, iterable; attribute=, start=)", arguments);
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
                       value.is_dict()   ? "dict_reversekeyiterator"
                       : value.is_list() ? "list_reverseiterator"
                                         : "reversed");
}

Value batch(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given("do_batch(value; linecount, fill_with=)", arguments);
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
  const Parameters given("sync_do_slice(value; slices, fill_with=)", arguments);
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

Value group_by(Interpreter&, const Value& value, Arguments& arguments) {
  const Parameters given(
      "sync_do_groupby(environment, value; attribute, default=, case_sensitive=)", arguments);
  const Value otherwise = given.value_or(1, Value());
  const bool case_sensitive = given.truth_or(2, false);
  const auto part = [&](const Value& item) {
    const Value found = get_path(item, given.need(0));
    return found.is_undefined() && !otherwise.is_none() ? otherwise : found;
  };
  std::vector<Keyed> keyed;
  for (const Value& item : to_items(value)) {
    const Value key = part(item);
    keyed.push_back({case_sensitive ? key : ignore_case(key), item});
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
    groups.push_back(Value::group(name, Value::list(std::move(members))));
  }
  return Value::list(std::move(groups));
}

Value items(Interpreter&, const Value& value, Arguments&) {
  return begun_later(value, [value]() -> Next {
    if (value.is_undefined()) return [](Value&) { return false; };
    if (!value.is_dict()) raise("Can only get item pairs from a mapping.");
    return DictView(value, DictView::Part::items).iterate();
  });
}

}  // namespace

const Filter* find_sequence_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> filters = {
      {"batch", {batch}},
      {"count", {count, "len(obj; /)"}},
      {"dictsort", {sort_dict}},
      {"first", {first, "sync_do_first(environment, seq;)"}},
      {"groupby", {group_by}},
      {"items", {items, "do_items(value;)"}},
      {"join", {join}},
      {"last", {last, "do_last(environment, seq;)"}},
      {"length", {count, "len(obj; /)"}},
      {"list", {to_list, "sync_do_list(value;)"}},
      {"map", {map}},
      {"max", {extreme<Comparison::gt>}},
      {"min", {extreme<Comparison::lt>}},
      {"random", {random, "do_random(context, seq;)"}},
      {"reject", {select<false, false>}},
      {"rejectattr", {select<false, true>}},
      {"reverse", {reverse, "do_reverse(value;)"}},
      {"select", {select<true, false>}},
      {"selectattr", {select<true, true>}},
      {"slice", {slice}},
      {"sort", {sort}},
      {"sum", {sum}},
      {"unique", {unique}},
  };
  const auto found = filters.find(name);
  return found == filters.end() ? nullptr : &found->second;
}

}  // namespace nibble::frontends::chat
