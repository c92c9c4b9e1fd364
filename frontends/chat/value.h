// The values that templates compute with: Python's, as far as Jinja lets a template see them.
// Immutable (the sandbox forbids changes) but for namespaces, loops and iterators, which are
// Objects. This file is what values are; operators on them are in operators.h, their attributes and
// methods in attributes.h.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "frontends/chat/budget.h"

namespace nibble::frontends::chat {

class Value;
class Dict;
class Object;
class Interpreter;

using Items = std::vector<Value>;
// Gives the items of something one by one; false at the end.
using Next = std::function<bool(Value&)>;

// UTF-8. `markup`: as Jinja's Markup, joins with plain text by escaping it.
struct Text {
  Text(std::string text, bool is_markup)
      : bytes(std::move(text)), markup(is_markup), charge(sizeof(Text) + bytes.size()) {}
  std::string bytes;
  bool markup;
  Charge charge;
};

// A list or a tuple.
struct Sequence;

class Value {
 public:
  Value() = default;  // None
  static Value undefined(std::string message);
  static Value of(bool value) { return Value(value); }
  static Value of(int64_t value) { return Value(value); }
  static Value of(double value) { return Value(value); }
  static Value of(std::string text) { return text_of(std::move(text), false); }
  static Value of(const char* text) { return text_of(text, false); }
  static Value markup(std::string text) { return text_of(std::move(text), true); }
  static Value list(Items items);
  static Value tuple(Items items);
  // What groupby makes of a group: a tuple that also knows its parts by name.
  static Value group(Value grouper, Value list);
  static Value dict(Dict dict);
  static Value object(std::shared_ptr<Object> object);

  bool is_undefined() const { return holds<UndefinedPtr>(); }
  bool is_none() const { return holds<std::monostate>(); }
  bool is_bool() const { return holds<bool>(); }
  bool is_int() const { return holds<int64_t>(); }  // not bool
  bool is_float() const { return holds<double>(); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_integral() const { return is_bool() || is_int(); }
  bool is_text() const { return holds<TextPtr>(); }
  bool is_markup() const { return is_text() && std::get<TextPtr>(data_)->markup; }
  bool is_sequence() const { return holds<SequencePtr>(); }  // list or tuple
  bool is_list() const;
  bool is_tuple() const;  // also of a group
  bool is_group() const;
  bool is_dict() const { return holds<DictPtr>(); }
  bool is_object() const { return holds<ObjectPtr>(); }

  bool boolean() const { return std::get<bool>(data_); }
  int64_t integer() const { return is_bool() ? int64_t{boolean()} : std::get<int64_t>(data_); }
  double real() const { return is_float() ? std::get<double>(data_) : double(integer()); }
  const std::string& text() const { return std::get<TextPtr>(data_)->bytes; }
  const Items& items() const;
  const Dict& dict() const { return *std::get<DictPtr>(data_); }
  Object& object() const { return *std::get<ObjectPtr>(data_); }
  std::shared_ptr<Object> object_ptr() const { return std::get<ObjectPtr>(data_); }
  // What an operation on an undefined value says.
  const std::string& undefined_message() const { return *std::get<UndefinedPtr>(data_); }
  int depth() const;  // containers within containers
  // Python's `is`.
  bool same(const Value& other) const { return data_ == other.data_; }

 private:
  using UndefinedPtr = std::shared_ptr<const std::string>;
  using TextPtr = std::shared_ptr<const Text>;
  using SequencePtr = std::shared_ptr<const Sequence>;
  using DictPtr = std::shared_ptr<const Dict>;
  using ObjectPtr = std::shared_ptr<Object>;
  template <typename T>
  explicit Value(T value) : data_(std::move(value)) {}
  template <typename T>
  bool holds() const {
    return std::holds_alternative<T>(data_);
  }
  static Value text_of(std::string text, bool markup) {
    return Value(TextPtr(std::make_shared<Text>(std::move(text), markup)));
  }

  std::variant<std::monostate, UndefinedPtr, bool, int64_t, double, TextPtr, SequencePtr, DictPtr,
               ObjectPtr>
      data_;
};

struct Sequence {
  enum class Kind : uint8_t { list, tuple, group };
  Sequence(Items given, Kind given_kind);
  Items items;
  Kind kind;
  int depth;
  Charge charge;
};

// In the order of insertion, as Python's.
class Dict {
 public:
  using Entry = std::pair<Value, Value>;

  Dict() = default;
  // Raises the TypeError of an unhashable key. A key that is there keeps its place.
  void set(const Value& key, Value value);
  // Null when absent; unhashable keys are never there.
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  const std::vector<Entry>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  int depth() const { return depth_; }
  void clear();

 private:
  friend class Value;
  size_t position(const Value& key) const;  // size() when absent

  std::vector<Entry> entries_;
  std::unordered_map<std::string_view, size_t> texts_;  // of text keys, once there are several
  int depth_ = 0;
  std::shared_ptr<Charge> charge_;
};

// The arguments of a call.
struct Arguments {
  Items positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Everything else that a template can hold: namespaces, loops, iterators, ranges, functions.
class Object {
 public:
  Object() : charge_(128) {}
  virtual ~Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  virtual std::string type_name() const = 0;                          // Python's type(x).__name__
  virtual std::string qualified_name() const { return type_name(); }  // with its module
  virtual std::string repr() const { return "<" + type_name() + " object>"; }
  virtual bool truth() const { return true; }
  virtual std::optional<int64_t> length() { return std::nullopt; }
  virtual Next iterate() { return nullptr; }  // null: not iterable
  virtual std::optional<Value> attribute(std::string_view) { return std::nullopt; }
  virtual std::optional<Value> item(const Value&) { return std::nullopt; }
  virtual int depth() const { return 0; }  // of the values that it holds for good
  virtual bool callable() const { return false; }
  virtual Value call(Interpreter& interpreter, Arguments& arguments);

 private:
  Charge charge_;
};

// A generator: gives its items once. `depth`: of what it draws from.
class Iterator : public Object {
 public:
  Iterator(Next next, int depth, std::string type);
  std::string type_name() const override { return type_; }
  // Whoever iterates draws from the one supply, and keeps this alive.
  Next iterate() override {
    return [this](Value& out) { return next_(out); };
  }
  int depth() const override { return depth_; }

 private:
  Next next_;
  int depth_;
  std::string type_;
};

class Range : public Object {
 public:
  Range(int64_t first, int64_t past, int64_t step);
  std::string type_name() const override { return "range"; }
  std::string repr() const override;
  bool truth() const override { return count_ > 0; }
  std::optional<int64_t> length() override { return count_; }
  Next iterate() override;
  std::optional<Value> item(const Value& key) override;
  std::optional<Value> attribute(std::string_view name) override;
  int64_t at(int64_t i) const { return first_ + i * step_; }
  int64_t step() const { return step_; }

 private:
  int64_t first_, past_, step_, count_;
};

// What dict.keys(), .values() and .items() give.
class DictView : public Object {
 public:
  enum class Part : uint8_t { keys, values, items };
  DictView(Value dict, Part part) : dict_(std::move(dict)), part_(part) {}
  std::string type_name() const override;
  std::string repr() const override;
  bool truth() const override { return dict_.dict().size() > 0; }
  std::optional<int64_t> length() override { return int64_t(dict_.dict().size()); }
  Next iterate() override;
  int depth() const override { return dict_.depth() + 1; }

 private:
  Value dict_;
  Part part_;
};

class Namespace : public Object {
 public:
  std::string type_name() const override { return "Namespace"; }
  std::string qualified_name() const override { return "jinja2.utils.Namespace"; }
  std::string repr() const override;
  std::optional<Value> attribute(std::string_view name) override;
  Dict attributes;
};

// A function of C++, with its name for messages.
class Function : public Object {
 public:
  using Body = std::function<Value(Interpreter&, Arguments&)>;
  Function(std::string name, Body body, const char* type)
      : name_(std::move(name)), body_(std::move(body)), type_(type) {}
  std::string type_name() const override { return type_; }
  std::string repr() const override { return "<function " + name_ + ">"; }
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments& arguments) override {
    return body_(interpreter, arguments);
  }

 private:
  std::string name_;
  Body body_;
  const char* type_;
};

// `source`: what the iterator draws from.
Value make_iterator(const Value& source, Next next, std::string type = "generator");
Value make_function(std::string name, Function::Body body, const char* type = "function");

// Python's names: type(x).__name__, and what Jinja's messages call an object of that type.
std::string type_name(const Value& value);
std::string full_type_name(const Value& value);  // with its module
std::string object_name(const Value& value);

bool truth(const Value& value);
// str() and repr(), as Python writes them.
std::string to_text(const Value& value);
std::string to_repr(const Value& value);
std::string to_ascii(const Value& value);  // ascii(): repr() with all else escaped
std::string repr_of_text(std::string_view text);
std::string repr_of_real(double value);
// Raises the TypeError of a value that cannot be a key; `what`: "a dict key".
void require_hashable(const Value& value, const char* what);
// Raises unless `value` is defined.
void require_defined(const Value& value);

}  // namespace nibble::frontends::chat
