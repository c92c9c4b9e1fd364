// The documents of a model without the model: its tokenizer's and configuration's files, from
// beside an .onnx, out of a .nib, or from a folder that need hold nothing else.
#pragma once

#include <map>
#include <string>

namespace nibble::cli {

// By file name, as graph::Graph::documents has them. Throws Error when there is nothing to be
// found.
std::map<std::string, std::string> read_model_documents(const std::string& model);

// The text of a file. Throws Error when it cannot be read or is larger than 256 MiB.
std::string read_text_file(const std::string& path);

}  // namespace nibble::cli
