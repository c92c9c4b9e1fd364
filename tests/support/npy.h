// Reads and writes .npy files (version 1.0, little-endian, C order) of int64 and float32: how the
// reference data of the models is stored.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::test {

template <typename T>
struct Npy {
  std::vector<int64_t> shape;
  std::vector<T> values;
};

// Throw Error naming the file when it is no such file, of another dtype or order, or of the wrong
// length.
Npy<float> read_npy_f32(const std::string& path);
Npy<int64_t> read_npy_i64(const std::string& path);
void write_npy(const std::string& path, const Npy<float>& array);
void write_npy(const std::string& path, const Npy<int64_t>& array);

}  // namespace nibble::test
