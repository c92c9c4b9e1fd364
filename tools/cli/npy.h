// NumPy's .npy files, as far as the command line needs them: int64 matrices in, fp32 tensors out.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/atomic_file.h"

namespace nibble::cli {

struct IdMatrix {
  int64_t rows = 0, columns = 0;
  std::vector<int64_t> values;  // [rows][columns]
};

// Throws Error naming the path, what was expected (little-endian int64, C order, two dimensions,
// exactly the bytes that the shape asks for) and what was found.
IdMatrix read_ids(const std::string& path);

// A float32 file written from front to back; nothing is left when it is not finished.
class FloatFile {
 public:
  FloatFile(const std::string& path, std::span<const int64_t> shape);
  void append(std::span<const float> values);
  // Throws Error unless exactly the shape's values were appended.
  void commit();

 private:
  std::string path_;
  runtime::AtomicFile file_;
  int64_t left_ = 1;
};

}  // namespace nibble::cli
