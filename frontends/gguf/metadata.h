// A view of the metadata of one architecture ("llama.block_count" is "block_count" in it) that
// bounds every number and keeps count of the keys that were asked for: one that was not may change
// what the model computes.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "frontends/gguf/gguf_file.h"

namespace nibble::frontends::gguf {

class Metadata {
 public:
  explicit Metadata(const File& file);

  const std::string& architecture() const { return architecture_; }
  const std::string& path() const { return file_.path(); }
  bool has(const std::string& key) const { return file_.has(full(key)); }
  bool is_list(const std::string& key) const { return has(key) && file_.is_list(full(key)); }

  // 1 to 2^24, so that products of three sizes never overflow; or a list of as many equal ones.
  int64_t size(const std::string& key);
  int64_t size(const std::string& key, int64_t fallback);
  // The same with 0.
  int64_t count(const std::string& key);
  double real(const std::string& key);
  double real(const std::string& key, double fallback);
  std::string text(const std::string& key, const std::string& fallback);
  bool boolean(const std::string& key, bool fallback);
  // A list of booleans or of integers, one a layer.
  std::vector<bool> flags(const std::string& key, int64_t layers);

  // Throws Error unless the key is absent or says this.
  void only(const std::string& key, int64_t expected);
  void only_true(const std::string& key);
  // The key is known to change nothing.
  void pass(const std::string& key) { used_.insert(full(key)); }
  // The same of all that begin so.
  void pass_group(const std::string& prefix);
  // Throws Error naming a key of the architecture that nothing asked for.
  void refuse_unused() const;
  // "FILE: metadata 'KEY' is FOUND, but EXPECTED is expected."
  [[noreturn]] void refuse(const std::string& key, const std::string& found,
                           const std::string& expected) const;

 private:
  std::string full(const std::string& key) const { return architecture_ + "." + key; }
  std::string use(const std::string& key);

  const File& file_;
  std::string architecture_;
  std::set<std::string, std::less<>> used_;
};

}  // namespace nibble::frontends::gguf
