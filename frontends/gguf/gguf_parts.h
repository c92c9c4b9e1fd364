// The names of the files of a GGUF that is split, as llama.cpp's gguf-split writes them:
// NAME-00001-of-00003.gguf and so on. Only names: what the parts hold is gguf_file.h's.
#pragma once

#include <string>
#include <vector>

namespace nibble::frontends::gguf {

// All parts, in order, of the GGUF of which `path` is named as one; empty when it is not so named.
std::vector<std::string> part_paths(const std::string& path);

}  // namespace nibble::frontends::gguf
