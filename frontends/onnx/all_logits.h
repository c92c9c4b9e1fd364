// Exports that give out the logits of some tokens alone: by an input that says how many
// (num_logits_to_keep), or always the last one's. Here every decoder gives out those of all its
// tokens; whoever runs it takes what is wanted.
#pragma once

#include "graph/graph.h"

namespace nibble::frontends::onnx {

// The input num_logits_to_keep or logits_to_keep becomes the constant 0, which keeps all. Before
// find_decoder_io.
void keep_all_logits(graph::Graph& graph);

// Drops the Slice of the last token on the way to io.logits, where what follows it works on each
// token alone.
void drop_last_token_slice(graph::Graph& graph);

}  // namespace nibble::frontends::onnx
