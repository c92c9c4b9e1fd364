// How long a tokenizer takes for a text: loading, encoding and decoding, the best of --rounds.
// Checks that the decoded text is the text, and says so where it is not.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "frontends/tokenizer/tokenizer.h"

namespace {

using nibble::frontends::Tokenizer;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

double best_of(int rounds, const std::function<void()>& work) {
  double best = 1e30;
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

Tokenizer load(const std::string& path) {
  if (path.ends_with(".model")) return Tokenizer::from_sentencepiece(read_file(path), path);
  return Tokenizer::from_json(read_file(path), path);
}

void measure(const std::string& path, const std::string& text, int rounds) {
  const double load_s = best_of(1, [&] { load(path); });
  const Tokenizer tokenizer = load(path);
  std::vector<int32_t> ids;
  std::string decoded;
  const double encode_s = best_of(rounds, [&] { ids = tokenizer.encode(text, false); });
  const double decode_s = best_of(rounds, [&] { decoded = tokenizer.decode(ids, false); });
  std::printf("%-60s load %.3f s  encode %.4f s (%.1f MB/s)  decode %.4f s  %zu ids%s\n",
              path.c_str(), load_s, encode_s, static_cast<double>(text.size()) / 1e6 / encode_s,
              decode_s, ids.size(), decoded == text ? "" : "  (the text does not come back)");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App program("Times tokenizers on a text");
  std::string text;
  std::vector<std::string> tokenizers;
  int rounds = 5;
  program.add_option("--text", text, "A file with the text")->required()->check(CLI::ExistingFile);
  program.add_option("--rounds", rounds, "Rounds to take the best of")->check(CLI::Range(1, 1000));
  program.add_option("TOKENIZER", tokenizers, "tokenizer.json or tokenizer.model files")
      ->required();
  CLI11_PARSE(program, argc, argv);
  try {
    const std::string content = read_file(text);
    for (const std::string& path : tokenizers) measure(path, content, rounds);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
