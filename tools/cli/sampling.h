// The options of how ids are picked, and how a text becomes a prompt: what run and chat share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "frontends/tokenizer/tokenizer.h"
#include "graph/graph.h"
#include "runtime/sampler.h"

namespace nibble::cli {

struct SamplingOptions {
  runtime::SamplerOptions sampler;
  CLI::Option* seed_flag = nullptr;

  void add_to(CLI::App& command);
  // Draws the seed where none was given. Throws UsageError on what is out of range, before a model
  // is loaded for nothing.
  void settle();
};

// The text's ids, with the token that begins a text where tokenizer_config.json asks for it.
std::vector<int32_t> encode_text(const std::string& text, const graph::Graph& graph,
                                 const frontends::Tokenizer& tokenizer);

}  // namespace nibble::cli
