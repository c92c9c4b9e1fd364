// Runs a parsed template: statements write text, expressions give values. One Interpreter is one
// rendering; ChatTemplate makes it, filters and methods get it to call back.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "frontends/chat/ast.h"
#include "frontends/chat/value.h"

namespace nibble::frontends::chat {

// The variables of a block that has its own, within those of the blocks around it.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> around)
      : parent(std::move(around)), charge(sizeof(Scope)) {}
  void set(const std::string& name, Value value);
  const Value* find(const std::string& name) const;  // here or around; null when nowhere

  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> variables;
  bool kept = false;  // by a macro
  Charge charge;
};
using ScopePtr = std::shared_ptr<Scope>;

class Interpreter {
 public:
  // `variables`: what the template finds defined; `now`: what strftime_now tells, local time.
  Interpreter(const Template& parsed, const Dict& variables, const std::tm& now,
              size_t output_bytes);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  std::string render();

  Value call(const Value& function, Arguments& arguments);
  Value call_filter(const Value& name, const Value& value, Arguments& arguments);
  bool call_test(const Value& name, const Value& value, Arguments& arguments);

  // For the objects that run parts of the template.
  Value call_macro(const Signature& signature, const ScopePtr& around, Arguments& arguments);
  Value run_loop_again(const Statement& loop, const Value& iterable, const ScopePtr& around,
                       int depth);
  const Signature* find_block(std::string_view name) const;  // nullptr when there is none
  // What the block writes, seeing the variables of `around`.
  Value render_block(const Signature& block, const ScopePtr& around);
  Value make_namespace(Arguments& arguments);
  // Whether what is made at this moment is escaped for HTML, or markup.
  bool autoescape() const { return autoescape_; }
  std::string format_now(const std::string& format) const;

 private:
  enum class Flow : uint8_t { normal, leave, next };
  class InScope;

  // Statements.
  Flow run(const Body& body);
  Flow run(const Statement& statement);
  Flow run_branch(const Statement& statement);
  Flow run_loop(const Statement& statement, const Value& iterable, const ScopePtr& around,
                int depth);
  Flow run_scoped(const Body& body);
  void run_with(const Statement& statement);
  void run_macro(const Statement& statement);
  void run_call(const Statement& statement);
  Flow run_autoescape(const Statement& statement);
  void run_block(const Statement& statement);
  void run_block(const Signature& block, ScopePtr around);
  void load(const Statement& statement);
  bool escapes(Escape escape) const {
    return escape == Escape::on || (escape == Escape::open && autoescape_);
  }
  Value text_of(std::string text, bool markup) const {
    return markup ? Value::markup(std::move(text)) : Value::of(std::move(text));
  }
  Value captured_text(const Statement& statement);  // of the statement's body
  void emit_text(const Value& value);               // of a part that has to be text
  template <typename Write>
  std::string captured(const Write& write);  // what write() writes, kept from the output
  std::string captured(const Body& body, const ScopePtr& scope);
  void emit(std::string_view text);
  void assign(const Expression& target, Value value);
  Namespace& find_namespace(const Expression& target);
  void expect_namespaces(const Expression& target);
  void assign_tuple(const Expression& target, const Value& value);
  Next filtered(const Statement& loop, Next next, const ScopePtr& around);

  // Expressions (evaluate.cpp).
  Value evaluate(const Expression& node);
  Value evaluate_container(const Expression& node);
  Value evaluate_slice(const Expression& node);
  Value evaluate_compare(const Expression& node);
  Value evaluate_concat(const Expression& node);
  Value evaluate_call(const Expression& node, const Value* caller);
  Value apply_filter(const Expression& node, const Value& value);
  Value filter_text(const Expression& node, const Value& text);
  Value evaluate_test(const Expression& node);
  Arguments evaluate_arguments(const CallArguments& arguments, const Value* caller = nullptr);
  Value look_up(const std::string& name);

  const Template& parsed_;
  const Dict& variables_;
  std::tm now_;
  size_t output_limit_, output_bytes_ = 0;  // of all buffers that are being written
  std::string* out_ = nullptr;
  ScopePtr scope_;
  ScopePtr
      context_;  // what a block sees: the template's own variables, or those around a scoped one
  bool autoescape_ = false;
  // What may hold itself, emptied at the end.
  std::vector<ScopePtr> kept_scopes_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  Dict globals_;
};

// range, namespace, raise_exception and so on.
Dict make_globals();

}  // namespace nibble::frontends::chat
