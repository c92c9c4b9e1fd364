#include "frontends/chat/value.h"

#include <algorithm>

#include "frontends/chat/operators.h"
#include "frontends/chat/parameters.h"

namespace nibble::frontends::chat {
namespace {

constexpr int kMostDepth = 400;    // containers within containers
constexpr size_t kIndexFrom = 12;  // entries from which on text keys are hashed
constexpr uint64_t kLongestRange = 100'000;

int one_deeper(int depth) {
  if (depth >= kMostDepth) {
    fail("The chat template nests lists and dictionaries deeper than {} levels.", kMostDepth);
  }
  return depth + 1;
}

int depth_of(const Items& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return one_deeper(depth);
}

// The list or dict that keeps a value from being a key; null when it can be one.
const Value* unhashable_part(const Value& value) {
  if (value.is_list() || value.is_dict()) return &value;
  if (value.is_object()) {  // the views that are like sets
    const std::string type = value.object().type_name();
    return type == "dict_keys" || type == "dict_items" ? &value : nullptr;
  }
  if (!value.is_tuple()) return nullptr;
  for (const Value& item : value.items()) {
    if (const Value* part = unhashable_part(item)) return part;
  }
  return nullptr;
}

}  // namespace

Sequence::Sequence(Items given, Kind given_kind)
    : items(std::move(given)),
      kind(given_kind),
      depth(depth_of(items)),
      charge(sizeof(Sequence) + items.size() * sizeof(Value)) {}

Value Value::undefined(std::string message) {
  return Value(UndefinedPtr(std::make_shared<std::string>(std::move(message))));
}
Value Value::list(Items items) {
  return Value(SequencePtr(std::make_shared<Sequence>(std::move(items), Sequence::Kind::list)));
}
Value Value::tuple(Items items) {
  return Value(SequencePtr(std::make_shared<Sequence>(std::move(items), Sequence::Kind::tuple)));
}
Value Value::group(Value grouper, Value list) {
  return Value(SequencePtr(std::make_shared<Sequence>(Items{std::move(grouper), std::move(list)},
                                                      Sequence::Kind::group)));
}
Value Value::dict(Dict dict) {
  dict.charge_ =
      std::make_shared<Charge>(sizeof(Dict) + dict.size() * (sizeof(Dict::Entry) + sizeof(void*)));
  return Value(DictPtr(std::make_shared<Dict>(std::move(dict))));
}
Value Value::object(std::shared_ptr<Object> object) { return Value(std::move(object)); }

bool Value::is_list() const {
  return is_sequence() && std::get<SequencePtr>(data_)->kind == Sequence::Kind::list;
}
bool Value::is_tuple() const { return is_sequence() && !is_list(); }
bool Value::is_group() const {
  return is_sequence() && std::get<SequencePtr>(data_)->kind == Sequence::Kind::group;
}
const Items& Value::items() const { return std::get<SequencePtr>(data_)->items; }

int Value::depth() const {
  if (is_sequence()) return std::get<SequencePtr>(data_)->depth;
  if (is_dict()) return dict().depth();
  return is_object() ? object().depth() : 0;
}

size_t Dict::position(const Value& key) const {
  if (key.is_text() && !texts_.empty()) {
    const auto found = texts_.find(key.text());
    return found == texts_.end() ? entries_.size() : found->second;
  }
  size_t at = 0;
  if (key.is_text()) {
    while (at < entries_.size() &&
           !(entries_[at].first.is_text() && entries_[at].first.text() == key.text())) {
      ++at;
    }
  } else {
    while (at < entries_.size() && !equal(entries_[at].first, key)) ++at;
  }
  return at;
}

void Dict::set(const Value& key, Value value) {
  require_hashable(key, "a dict key");
  depth_ = std::max(depth_, one_deeper(std::max(key.depth(), value.depth())));
  const size_t at = position(key);
  if (at < entries_.size()) {
    entries_[at].second = std::move(value);
    return;
  }
  entries_.emplace_back(key, std::move(value));
  if (entries_.size() == kIndexFrom) {
    for (size_t i = 0; i < kIndexFrom; ++i) {
      if (entries_[i].first.is_text()) texts_.emplace(entries_[i].first.text(), i);
    }
  } else if (entries_.size() > kIndexFrom && key.is_text()) {
    texts_.emplace(entries_.back().first.text(), at);
  }
}

const Value* Dict::find(const Value& key) const {
  if (unhashable_part(key) != nullptr) return nullptr;
  const size_t at = position(key);
  return at < entries_.size() ? &entries_[at].second : nullptr;
}

const Value* Dict::find(std::string_view key) const {
  if (!texts_.empty()) {
    const auto found = texts_.find(key);
    return found == texts_.end() ? nullptr : &entries_[found->second].second;
  }
  for (const auto& [name, value] : entries_) {
    if (name.is_text() && name.text() == key) return &value;
  }
  return nullptr;
}

void Dict::clear() {
  texts_.clear();
  entries_.clear();
}

Value Object::call(Interpreter&, Arguments&) { raise("'{}' object is not callable", type_name()); }

Range::Range(int64_t first, int64_t past, int64_t step) : first_(first), past_(past), step_(step) {
  if (step == 0) raise("range() arg 3 must not be zero");
  // Without overflow: the distance fits an unsigned number.
  const bool up = step > 0;
  const bool empty = up ? past <= first : past >= first;
  const uint64_t distance = up ? static_cast<uint64_t>(past) - static_cast<uint64_t>(first)
                               : static_cast<uint64_t>(first) - static_cast<uint64_t>(past);
  const uint64_t stride = up ? static_cast<uint64_t>(step) : 0 - static_cast<uint64_t>(step);
  const uint64_t count = empty ? 0 : (distance - 1) / stride + 1;
  if (count > kLongestRange) {
    raise("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kLongestRange);
  }
  count_ = static_cast<int64_t>(count);
}

std::string Range::repr() const {
  return step_ == 1 ? fmt::format("range({}, {})", first_, past_)
                    : fmt::format("range({}, {}, {})", first_, past_, step_);
}

Next Range::iterate() {
  return [i = int64_t{0}, first = first_, step = step_, count = count_](Value& out) mutable {
    if (i == count) return false;
    out = Value::of(first + i++ * step);
    return true;
  };
}

std::optional<Value> Range::item(const Value& key) {
  if (!key.is_integral()) return std::nullopt;
  const int64_t i = key.integer() < 0 ? key.integer() + count_ : key.integer();
  if (i < 0 || i >= count_) return std::nullopt;
  return Value::of(at(i));
}

std::optional<Value> Range::attribute(std::string_view name) {
  if (name == "start") return Value::of(first_);
  if (name == "stop") return Value::of(past_);
  if (name == "step") return Value::of(step_);
  if (name != "count" && name != "index") return std::nullopt;
  return make_function(std::string(name), [next = iterate(), counts = name == "count"](
                                              Interpreter&, Arguments& arguments) {
    const Value wanted =
        Parameters(counts ? "range.count(value, /)" : "range.index(value, /)", arguments).need(0);
    int64_t at = 0;
    Value item;
    for (const Next each = next; each(item); ++at) {
      spend();
      if (equal(item, wanted)) return Value::of(counts ? int64_t{1} : at);
    }
    if (counts) return Value::of(int64_t{0});
    raise("{0}.index(x): x not in {0}", wanted.is_integral() ? "range" : "sequence");
  });
}

std::string DictView::type_name() const {
  return part_ == Part::keys ? "dict_keys" : part_ == Part::values ? "dict_values" : "dict_items";
}

std::string DictView::repr() const {
  Items items;
  Value item;
  const Next next = const_cast<DictView*>(this)->iterate();
  while (next(item)) items.push_back(item);
  return type_name() + "(" + to_repr(Value::list(std::move(items))) + ")";
}

Next DictView::iterate() {
  return [i = size_t{0}, dict = dict_, part = part_](Value& out) mutable {
    const auto& entries = dict.dict().entries();
    if (i == entries.size()) return false;
    const auto& [key, value] = entries[i++];
    out = part == Part::keys ? key : part == Part::values ? value : Value::tuple({key, value});
    return true;
  };
}

std::string Namespace::repr() const {
  const Deeper deeper;
  return "<Namespace " + to_repr(Value::dict(attributes)) + ">";
}

std::optional<Value> Namespace::attribute(std::string_view name) {
  const Value* found = attributes.find(name);
  return found == nullptr ? std::nullopt : std::optional(*found);
}

Iterator::Iterator(Next next, int depth, std::string type)
    : next_(std::move(next)), depth_(one_deeper(depth)), type_(std::move(type)) {}

Value make_iterator(const Value& source, Next next, std::string type) {
  return Value::object(
      std::make_shared<Iterator>(std::move(next), source.depth(), std::move(type)));
}
Value make_function(std::string name, Function::Body body, const char* type) {
  return Value::object(std::make_shared<Function>(std::move(name), std::move(body), type));
}

void require_hashable(const Value& value, const char* what) {
  if (const Value* culprit = unhashable_part(value)) {
    raise("cannot use '{}' as {} (unhashable type: '{}')", full_type_name(value), what,
          type_name(*culprit));
  }
}

void require_defined(const Value& value) {
  if (value.is_undefined()) throw TemplateError(value.undefined_message());
}

}  // namespace nibble::frontends::chat
