// The tree that a template is parsed into: expressions and statements, as Jinja's.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "frontends/chat/operators.h"
#include "frontends/chat/value.h"

namespace nibble::frontends::chat {

// Whether what is written is escaped for HTML, as far as the source says: `open` is found out while
// rendering.
enum class Escape : uint8_t { off, on, open };

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr star, double_star;
};

struct Expression {
  enum class Kind : uint8_t {
    constant,     // value
    name,         // name
    list,         // items
    tuple,        // items
    dict,         // items: key, value, key, value ...
    attribute,    // first.name
    space,        // as a target only: name.text of a namespace, `attribute` its attribute
    subscript,    // first[second]
    slice,        // first[items[0]:items[1]:items[2]], null where a part is missing
    call,         // first(arguments)
    filter,       // first | name(arguments); first is null in a filter block
    test,         // first is name(arguments)
    logical_not,  // first
    negative,     // first
    positive,     // first
    binary,       // first op second
    concat,       // items
    compare,      // items[0] comparisons[0] items[1] ...
    logical_and,  // first, second
    logical_or,   // first, second
    conditional,  // items[0] if items[1] else items[2], which may be null
  };
  Kind kind;
  int line = 0;
  int height = 1;
  std::string name, attribute_name;
  Value value;
  Operator op = Operator::add;
  Escape escape = Escape::off;  // of a concat
  std::vector<Comparison> comparisons;
  ExpressionPtr first, second;
  std::vector<ExpressionPtr> items;
  CallArguments arguments;
};

struct Statement;
using Body = std::vector<Statement>;

// What macros, call blocks and blocks share.
struct Signature {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // of the last parameters
  bool uses_caller = false, uses_kwargs = false, uses_varargs = false;
  std::shared_ptr<const Body> body;  // shared with the macros made from it
};

struct Statement {
  enum class Kind : uint8_t {
    data,          // text
    output,        // expressions
    branch,        // if: conditions expressions[i] with bodies[i]; one more body: else
    loop,          // for target in expressions[0] if expressions[1]: bodies[0] else bodies[1]
    set,           // target = expressions[0]
    set_block,     // target = bodies[0] through expressions[0], a filter or null
    macro,         // signature
    call,          // expressions[0], a call, with signature as its caller
    filter_block,  // bodies[0] through expressions[0]
    with,          // targets = expressions: bodies[0]
    scope,         // bodies[0]
    autoescape,    // bodies[0], with escaping if expressions[0]
    block,         // signature: its name and body
    load,          // another template, expressions[0]: for the tag `text`
    leave,         // break
    next,          // continue
  };
  Kind kind;
  int line = 0;
  bool recursive = false;       // of a loop
  bool scoped = false;          // of a block: sees the variables around it
  bool required = false;        // of a block: has to be defined in another template
  bool ignore_missing = false;  // of an include
  Escape escape = Escape::off;
  std::string text;
  ExpressionPtr target;
  std::vector<ExpressionPtr> targets, expressions;
  std::vector<Body> bodies;
  std::shared_ptr<const Signature> signature;
};

struct Template {
  Body body;
  std::vector<std::shared_ptr<const Signature>> blocks;  // wherever they stand
};

}  // namespace nibble::frontends::chat
