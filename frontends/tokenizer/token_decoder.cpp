#include "frontends/tokenizer/token_decoder.h"

#include <optional>
#include <utility>

#include "frontends/tokenizer/pattern.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

// For stages that need a token as a whole: collects its parts.
class WholeTokenStage : public DecodeStage {
 public:
  void push(TokenPart part, const Emit& emit) final {
    held_ += part.text;
    if (part.ends) on_token(std::exchange(held_, {}), emit);
  }
  void finish(const Emit& emit) override { (void)emit; }

 protected:
  virtual void on_token(std::string token, const Emit& emit) = 0;

 private:
  std::string held_;
};

// For stages that make one token of all: marks its first and last part.
class OneTokenStage : public DecodeStage {
 public:
  void finish(const Emit& emit) override { emit({last_text(), !begun_, true}); }

 protected:
  void emit_part(std::string text, const Emit& emit) {
    if (text.empty()) return;
    emit({std::move(text), !begun_, false});
    begun_ = true;
  }
  virtual std::string last_text() { return {}; }

 private:
  bool begun_ = false;
};

class FuseStage : public OneTokenStage {
  void push(TokenPart part, const Emit& emit) override { emit_part(std::move(part.text), emit); }
};

// Characters of the byte alphabet back to bytes; a token with another character stays as it is.
class ByteLevelStage : public OneTokenStage {
  void push(TokenPart part, const Emit& emit) override {
    held_ += part.text;
    if (!part.ends) return;
    std::string bytes;
    for (size_t at = 0; at < held_.size();) {
      int byte = character_to_byte(next_code_point(held_, at));
      if (byte < 0) {
        bytes = held_;
        break;
      }
      bytes += static_cast<char>(byte);
    }
    held_.clear();
    bytes_ += bytes;
    emit_part(take_utf8(bytes_, false), emit);
  }
  std::string last_text() override { return take_utf8(bytes_, true); }

  std::string held_, bytes_;
};

// The byte of a token "<0xXX>", or -1.
int byte_of(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (char c : token.substr(3, 2)) {
    int digit = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                       : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// Runs of tokens "<0xXX>" to characters; a run that is no UTF-8 as a whole becomes one U+FFFD a
// byte, which is why a run is kept until it ends.
class ByteFallbackStage : public WholeTokenStage {
  void flush(const Emit& emit) {
    if (run_.empty()) return;
    std::string run = std::exchange(run_, {});
    if (find_invalid_utf8(run) == std::string::npos) {
      emit({std::move(run)});
    } else {
      for (size_t i = 0; i < run.size(); ++i) emit({"\xEF\xBF\xBD"});
    }
  }
  void on_token(std::string token, const Emit& emit) override {
    if (int byte = byte_of(token); byte >= 0) {
      run_ += static_cast<char>(byte);
      return;
    }
    flush(emit);
    emit({std::move(token)});
  }
  void finish(const Emit& emit) override { flush(emit); }

  std::string run_;
};

// Bytes to characters as soon as they are whole, U+2581 to spaces, less those in front.
class SentencePieceStage : public WholeTokenStage {
 public:
  SentencePieceStage(bool drop_first, bool drop_all)
      : drop_all_(drop_all), at_front_(drop_first || drop_all) {}

 private:
  void on_token(std::string token, const Emit& emit) override {
    if (int byte = byte_of(token); byte >= 0) {
      at_front_ = false;
      bytes_ += static_cast<char>(byte);
      emit({take_utf8(bytes_, false, true)});
      return;
    }
    std::string text = take_utf8(bytes_, true, true);
    if (at_front_ && token.starts_with(kMark)) {
      token.erase(0, kMark.size());
      at_front_ = drop_all_ && token.empty();
    } else if (!token.empty()) {
      at_front_ = false;
    }
    text += marks_.replace_all(token, " ");
    emit({std::move(text)});
  }
  void finish(const Emit& emit) override { emit({take_utf8(bytes_, true, true)}); }

  static constexpr std::string_view kMark = "\xE2\x96\x81";  // U+2581
  Pattern marks_ = Pattern::literal(std::string(kMark));
  bool drop_all_, at_front_;
  std::string bytes_;
};

class ReplaceStage : public WholeTokenStage {
 public:
  ReplaceStage(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

 private:
  void on_token(std::string token, const Emit& emit) override {
    emit({pattern_.replace_all(token, content_)});
  }
  Pattern pattern_;
  std::string content_;
};

// Removes up to `left` and `right` times one character from the ends of every token.
class StripStage : public DecodeStage {
 public:
  StripStage(std::string content, int64_t left, int64_t right)
      : content_(std::move(content)), left_(left), right_(right) {}

 private:
  void push(TokenPart part, const Emit& emit) override {
    if (part.begins) left_now_ = left_;
    held_ += part.text;
    while (left_now_ > 0 && !held_.empty()) {
      if (!held_.starts_with(content_)) {
        left_now_ = 0;
        break;
      }
      held_.erase(0, content_.size());
      --left_now_;
    }
    begins_ = begins_ || part.begins;
    if (right_ > 0 && !part.ends) return;  // what is last is not known yet
    for (int64_t i = 0; i < right_ && held_.ends_with(content_); ++i) {
      held_.erase(held_.size() - content_.size());
    }
    emit({std::exchange(held_, {}), std::exchange(begins_, false), part.ends});
  }
  void finish(const Emit& emit) override { (void)emit; }

  std::string content_, held_;
  int64_t left_, right_, left_now_ = 0;
  bool begins_ = false;
};

class MetaspaceStage : public DecodeStage {
 public:
  MetaspaceStage(std::string mark, bool prepended)
      : marks_(Pattern::literal(std::move(mark))), first_(prepended) {}

 private:
  void push(TokenPart part, const Emit& emit) override {
    part.text = marks_.replace_all(part.text, first_ ? "" : " ");
    if (part.ends) first_ = false;
    emit(std::move(part));
  }
  void finish(const Emit& emit) override { (void)emit; }

  Pattern marks_;
  bool first_;  // the first token, whose mark was not in the text
};

// For stages that treat the last token in another way: holds each back until the next one comes.
class LastTokenStage : public WholeTokenStage {
 protected:
  virtual std::string text_of(std::string token, bool first, bool last) = 0;

 private:
  void on_token(std::string token, const Emit& emit) final {
    if (held_) emit({text_of(std::move(*held_), std::exchange(first_, false), false)});
    held_ = std::move(token);
  }
  void finish(const Emit& emit) final {
    if (held_) emit({text_of(std::move(*held_), first_, true)});
  }
  std::optional<std::string> held_;
  bool first_ = true;
};

// Ends of words become spaces, save the last.
class BpeStage : public LastTokenStage {
 public:
  explicit BpeStage(std::string suffix) : suffix_(Pattern::literal(std::move(suffix))) {}

 private:
  std::string text_of(std::string token, bool first, bool last) override {
    (void)first;
    return suffix_.replace_all(token, last ? "" : " ");
  }
  Pattern suffix_;
};

using Cleanups = std::vector<std::pair<Pattern, std::string>>;

// Spaces taken away where English has none.
Cleanups english_cleanups() {
  Cleanups out;
  for (auto [from, to] : {std::pair{" .", "."},
                          {" ?", "?"},
                          {" !", "!"},
                          {" ,", ","},
                          {" ' ", "'"},
                          {" n't", "n't"},
                          {" 'm", "'m"},
                          {" do not", " don't"},
                          {" 's", "'s"},
                          {" 've", "'ve"},
                          {" 're", "'re"}}) {
    out.emplace_back(Pattern::literal(from), to);
  }
  return out;
}

// Tokens with spaces between, but for those that continue a word; cleanup: as English is written.
class WordPieceStage : public WholeTokenStage {
 public:
  WordPieceStage(std::string prefix, bool cleanup) : prefix_(std::move(prefix)) {
    if (cleanup) cleanups_ = english_cleanups();
  }

 private:
  void on_token(std::string token, const Emit& emit) override {
    if (std::exchange(begun_, true)) {
      if (token.starts_with(prefix_)) {
        token.erase(0, prefix_.size());
      } else {
        token.insert(token.begin(), ' ');
      }
    }
    for (const auto& [from, to] : cleanups_) token = from.replace_all(token, to);
    emit({std::move(token)});
  }
  std::string prefix_;
  Cleanups cleanups_;
  bool begun_ = false;
};

// One token of each run of equal ones, which is how speech was labelled frame by frame; less the
// pads, and with spaces for the ends of words.
class CtcStage : public WholeTokenStage {
 public:
  CtcStage(std::string pad, std::string delimiter, bool cleanup)
      : pad_(Pattern::literal(std::move(pad))) {
    if (!cleanup) return;
    cleanups_ = english_cleanups();
    cleanups_.emplace_back(Pattern::literal(std::move(delimiter)), " ");
  }

 private:
  void on_token(std::string token, const Emit& emit) override {
    if (previous_ == token) return;
    previous_ = token;
    token = pad_.replace_all(token, "");
    for (const auto& [from, to] : cleanups_) token = from.replace_all(token, to);
    if (!token.empty()) emit({std::move(token)});
  }
  Pattern pad_;
  Cleanups cleanups_;
  std::optional<std::string> previous_;
};

class JoinBySpaceStage : public DecodeStage {
  void push(TokenPart part, const Emit& emit) override {
    if (std::exchange(begun_, true)) part.text.insert(part.text.begin(), ' ');
    emit(std::move(part));
  }
  void finish(const Emit& emit) override { (void)emit; }
  bool begun_ = false;
};

template <typename Stage, typename... Args>
TokenDecoder::Factory factory(Args... args) {
  return [args...]() -> std::unique_ptr<DecodeStage> { return std::make_unique<Stage>(args...); };
}

std::string one_character(const JsonView& json) {
  const std::string& text = json.string();
  if (text.empty() || utf8_length(text[0]) != text.size()) {
    fail("{} should be one character, found \"{}\".", json.where(), text);
  }
  return text;
}

std::string not_empty(const JsonView& json, const char* key, const char* fallback) {
  std::string text = json.string_or(key, fallback);
  if (text.empty()) fail("{} is empty.", json.at(key).where());
  return text;
}

TokenDecoder::Factory strip(const JsonView& json) {
  json.allow_only({"type", "content", "start", "stop"});
  int64_t left = json.integer_or("start", 0), right = json.integer_or("stop", 0);
  if (left < 0 || right < 0) {
    fail("{} should strip 0 or more characters, found {} and {}.", json.where(), left, right);
  }
  return factory<StripStage>(one_character(json.at("content")), left, right);
}

}  // namespace

void TokenDecoder::add(const JsonView& json, int depth) {
  if (depth > 8) fail("{} nests sequences more than 8 deep.", json.where());
  const std::string& type = json.type();
  if (type == "Sequence") {
    json.allow_only({"type", "decoders"});
    for (const JsonView& item : json.at("decoders").items()) add(item, depth + 1);
  } else if (type == "ByteLevel") {
    json.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    factories_.push_back(factory<ByteLevelStage>());
  } else if (type == "ByteFallback") {
    json.allow_only({"type"});
    factories_.push_back(factory<ByteFallbackStage>());
  } else if (type == "Fuse") {
    json.allow_only({"type"});
    factories_.push_back(factory<FuseStage>());
  } else if (type == "BPEDecoder") {
    json.allow_only({"type", "suffix"});
    factories_.push_back(factory<BpeStage>(not_empty(json, "suffix", "</w>")));
  } else if (type == "WordPiece") {
    json.allow_only({"type", "prefix", "cleanup"});
    factories_.push_back(
        factory<WordPieceStage>(not_empty(json, "prefix", "##"), json.boolean_or("cleanup", true)));
  } else if (type == "CTC") {
    json.allow_only({"type", "pad_token", "word_delimiter_token", "cleanup"});
    factories_.push_back(factory<CtcStage>(not_empty(json, "pad_token", "<pad>"),
                                           not_empty(json, "word_delimiter_token", "|"),
                                           json.boolean_or("cleanup", true)));
  } else if (type == "Replace") {
    json.allow_only({"type", "pattern", "content"});
    factories_.push_back(
        factory<ReplaceStage>(Pattern::from_json(json.at("pattern")), json.at("content").string()));
  } else if (type == "Strip") {
    factories_.push_back(strip(json));
  } else if (type == "Metaspace") {
    json.allow_only(
        {"type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"});
    std::string scheme = json.string_or(
        "prepend_scheme", json.boolean_or("add_prefix_space", true) ? "always" : "never");
    factories_.push_back(
        factory<MetaspaceStage>(one_character(json.at("replacement")), scheme != "never"));
  } else {
    fail("{} is a decoder of type \"{}\", which is not supported.", json.where(), type);
  }
}

void TokenDecoder::add_join_by_space() { factories_.push_back(factory<JoinBySpaceStage>()); }

void TokenDecoder::add_byte_level() { factories_.push_back(factory<ByteLevelStage>()); }

void TokenDecoder::add_sentencepiece(bool drop_first, bool drop_all) {
  factories_.push_back(factory<SentencePieceStage>(drop_first, drop_all));
}

TokenDecoder::Chain TokenDecoder::start() const {
  Chain chain;
  for (const Factory& make : factories_) chain.stages_.push_back(make());
  return chain;
}

void TokenDecoder::Chain::feed(size_t stage, TokenPart part, std::string& out) {
  if (stage == stages_.size()) {
    out += part.text;
    return;
  }
  stages_[stage]->push(std::move(part),
                       [&](TokenPart next) { feed(stage + 1, std::move(next), out); });
}

std::string TokenDecoder::Chain::push(const std::string& token) {
  std::string out;
  feed(0, {token}, out);
  return out;
}

std::string TokenDecoder::Chain::finish() {
  std::string out;
  for (size_t i = 0; i < stages_.size(); ++i) {
    stages_[i]->finish([&](TokenPart next) { feed(i + 1, std::move(next), out); });
  }
  return out;
}

}  // namespace nibble::frontends
