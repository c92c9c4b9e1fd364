#include "tests/tools/page_fault.h"

#include <vector>

namespace nibble::test {

std::string fault_of(const std::string& page) {
  std::vector<std::string> open;
  size_t at = page.starts_with("<!DOCTYPE html>") ? 15 : 0;
  while (at < page.size()) {
    const char c = page[at];
    if (c == '&') {
      const size_t end = page.find(';', at);
      if (end == std::string::npos || end > at + 6) return "a bare & at " + page.substr(at, 40);
    }
    if (c == '>') return "a bare > at " + page.substr(at, 40);
    if (c != '<') {
      ++at;
      continue;
    }
    // The end of the tag: a > outside quotes.
    size_t end = at + 1;
    bool quoted = false;
    for (; end < page.size() && (quoted || page[end] != '>'); ++end) {
      if (page[end] == '"') quoted = !quoted;
      if (page[end] == '<') return "a < within the tag " + page.substr(at, 40);
    }
    if (end == page.size()) return "a tag without end: " + page.substr(at, 40);
    const std::string tag = page.substr(at + 1, end - at - 1);
    const std::string name = tag.substr(0, tag.find_first_of(" \n/", 1));
    if (tag.starts_with('/')) {
      if (open.empty() || "/" + open.back() != name) return "an odd end: " + tag;
      open.pop_back();
    } else if (!tag.ends_with('/')) {
      open.push_back(name);
    }
    at = end + 1;
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

size_t count(const std::string& text, const std::string& what) {
  size_t times = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++times;
  return times;
}

std::string unwanted_in(const std::string& page) {
  for (const char* what :
       {"<script", "<link", "src=", "href=", "url(", "@import", "\"nan", "\"-nan", "\"inf",
        "\"-inf", ">nan", ">-nan", ">inf", ">-inf", " nan", " -nan", ",nan", ",-nan", ",inf"}) {
    if (page.find(what) != std::string::npos) return what;
  }
  return "";
}

}  // namespace nibble::test
