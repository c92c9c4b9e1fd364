// Tokenizers and chat templates.
#include <string>
#include <vector>

#include "frontends/chat/chat_template.h"
#include "frontends/tokenizer/tokenizer.h"
#include "jit/error.h"
#include "tests/fuzz/scratch_folder.h"
#include "tests/fuzz/targets.h"

namespace nibble::fuzz {
namespace {

// Words, spaces, digits, marks, a character of every length and one that is combined.
constexpr std::string_view kText =
    "Once upon a time, 12345 times;\n\n  it's <s>\xC3\xA9t\xC3\xA9</s> "
    "e\xCC\x81\xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x98\x80\xE2\x80\x8D!";

void use(const frontends::Tokenizer& tokenizer) {
  const std::vector<int32_t> ids = tokenizer.encode(kText, true);
  tokenizer.decode(ids, false);
  tokenizer.decode(tokenizer.encode_markup(kText), true);
  frontends::StreamDecoder stream(tokenizer, false);
  for (const int32_t id : ids) stream.push(id);
  stream.finish();
  tokenizer.id_of("a");
}

}  // namespace

int fuzz_tokenizer(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const bool json =
      bytes.find_first_not_of(" \t\r\n") < size && bytes[bytes.find_first_not_of(" \t\r\n")] == '{';
  hold_to_promises(size, [&] {
    use(json ? frontends::Tokenizer::from_json(bytes, "tokenizer.json")
             : frontends::Tokenizer::from_sentencepiece(bytes, "tokenizer.model"));
  });
  return 0;
}

int fuzz_chat(const uint8_t* data, size_t size) {
  using frontends::ChatTemplate;
  const auto parts = cut_parts(data, size, 2);
  hold_to_promises(size, [&] {
    ChatTemplate::Json variables = ChatTemplate::Json::object();
    if (parts.size() > 1) variables = ChatTemplate::Json::parse(parts[1], nullptr, false);
    if (!variables.is_object()) variables = ChatTemplate::Json::object();
    ChatTemplate::Options options;
    options.limits.steps /= 20;  // what is slow shows all the same
    ChatTemplate::parse(parts[0]).render(variables, options);
  });
  return 0;
}

}  // namespace nibble::fuzz
