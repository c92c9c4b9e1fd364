#include "frontends/chat/chat_template.h"

#include "frontends/chat/interpreter.h"
#include "frontends/chat/parser.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

using chat::Value;
using Json = ChatTemplate::Json;

constexpr int kMostJsonDepth = 300;  // of JSON values within each other

Value to_value(const Json& json, int depth) {
  if (depth > kMostJsonDepth)
    fail("The variables of a chat nest deeper than {} levels.", kMostJsonDepth);
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::of(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::of(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX) {
        fail("The variables of a chat hold {}, which does not fit into 64 bits.",
             json.get<uint64_t>());
      }
      return Value::of(json.get<int64_t>());
    case Json::value_t::number_float:
      return Value::of(json.get<double>());
    case Json::value_t::string:
      return Value::of(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      chat::Items items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(to_value(item, depth + 1));
      return Value::list(std::move(items));
    }
    case Json::value_t::object: {
      chat::Dict dict;
      for (const auto& [key, item] : json.items()) {
        dict.set(Value::of(key), to_value(item, depth + 1));
      }
      return Value::dict(std::move(dict));
    }
    default:
      return {};
  }
}

std::tm local_time() {
  const std::time_t seconds = std::time(nullptr);
  std::tm out = {};
  localtime_r(&seconds, &out);
  return out;
}

}  // namespace

struct ChatTemplate::Impl {
  chat::Template parsed;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

ChatTemplate ChatTemplate::parse(std::string_view source) {
  if (const size_t at = find_invalid_utf8(source); at != std::string_view::npos) {
    fail("The chat template is not valid UTF-8: byte {} does not belong there.", at);
  }
  return ChatTemplate(std::make_unique<const Impl>(Impl{chat::parse(source)}));
}

std::string ChatTemplate::render(const Json& variables, const Options& options) const {
  if (!variables.is_object()) fail("The variables of a chat should be a JSON object.");
  chat::Limits limits = options.limits;
  limits.memory_bytes = SIZE_MAX / 2;  // what is given is there already
  chat::Budget budget(limits);
  const chat::BudgetScope scope(&budget);
  const Value values = to_value(variables, 0);
  budget.limits.memory_bytes = options.limits.memory_bytes + budget.live;
  budget.steps = 0;
  chat::Interpreter interpreter(impl_->parsed, values.dict(),
                                options.now ? *options.now : local_time(),
                                options.limits.output_bytes);
  return interpreter.render();
}

}  // namespace nibble::frontends
