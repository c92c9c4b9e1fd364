// Reads #include lines and tells which of them look into a room that the including file must not
// see:
//
//   jit  <-  runtime  <-  graph  <-  { quant, frontends }  <-  tools        perf, tests see all
//
// quant and frontends do not see each other, nor does a frontend see another: what several share
// (wire, documents, decoder) has rooms of its own. frontends/tokenizer and frontends/chat see the
// runtime and below only (they run without a graph), and nothing but tests sees tests.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace nibble::test {

struct Include {
  std::string file;    // "graph/lower.cpp", from the repository root
  std::string target;  // "jit/isa.h", as written between the quotes
};

// Every quoted include of every .h and .cpp in the rooms under `root`.
std::vector<Include> read_includes(const std::filesystem::path& root);

// A sentence for each include that points the wrong way or names no room.
std::vector<std::string> wrong_arrows(const std::vector<Include>& includes);

}  // namespace nibble::test
