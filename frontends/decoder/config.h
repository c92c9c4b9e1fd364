// A view of config.json that complains by file and key. Families spell a key in several ways, so
// every look-up takes a list of names and uses the first that is there; null counts as absent.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::frontends::decoder {

class Config {
 public:
  using Names = std::initializer_list<const char*>;

  // Throws Error when the text is no JSON object. `origin`: the file, for messages.
  static Config parse(const std::string& text, std::string origin);

  bool has(Names names) const { return find(names) != nullptr; }

  // 1 to 2^24; so products of three sizes never overflow.
  int64_t size(Names names) const;
  int64_t size(Names names, int64_t fallback) const;
  int64_t integer(Names names, int64_t fallback) const;
  double number(Names names) const;
  double number(Names names, double fallback) const;
  std::optional<double> maybe_number(Names names) const;
  bool boolean(Names names, bool fallback) const;
  std::string text(Names names, const std::string& fallback) const;
  std::vector<double> numbers(Names names) const;
  std::vector<std::string> texts(Names names) const;  // empty when absent
  // The object under a key; nullopt when absent.
  std::optional<Config> object(Names names) const;

  // Throws Error unless the key is absent or says `expected`: its other values change what the
  // model computes in a way that is not supported.
  void only(const char* name, bool expected) const;
  void only_absent(const char* name) const;
  // "FILE: "KEY" is VALUE, but EXPECTED is expected."
  [[noreturn]] void refuse(Names names, std::string_view expected) const;

 private:
  using Json = nlohmann::json;
  Config(Json content, std::string origin)
      : content_(std::move(content)), origin_(std::move(origin)) {}

  const Json* find(Names names) const;
  const Json& need(Names names, std::string_view expected) const;

  Json content_;
  std::string origin_;  // the file, and the object inside it
};

}  // namespace nibble::frontends::decoder
