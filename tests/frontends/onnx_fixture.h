// What the tests of the ONNX reader share: a folder to write models into, and the expectation that
// loading ends in one sentence.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "frontends/onnx/onnx.h"
#include "jit/error.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/onnx_builder.h"

namespace nibble::test {

class OnnxTest : public testing::Test {
 protected:
  std::string write(const OnnxModel& model, std::string_view name = "model.onnx") const {
    return folder_.write(name, model.bytes());
  }
  graph::Graph load(const OnnxModel& model) const { return frontends::load_onnx(write(model)); }

  // Loading `path` throws an Error that names the file and has all of `parts`.
  static void expect_error(const std::string& path, const std::vector<std::string>& parts) {
    try {
      frontends::load_onnx(path);
      FAIL() << "expected an error with \"" << (parts.empty() ? "" : parts.front()) << "\"";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      EXPECT_NE(message.find(folder_of(path)), std::string::npos) << message;
      for (const std::string& part : parts) {
        EXPECT_NE(message.find(part), std::string::npos)
            << "expected \"" << part << "\" in: " << message;
      }
    }
  }
  void expect_error(const OnnxModel& model, const std::vector<std::string>& parts) const {
    expect_error(write(model), parts);
  }

  runtime::TemporaryFolder folder_;

 private:
  static std::string folder_of(const std::string& path) {
    return std::filesystem::path(path).parent_path().string();
  }
};

// What the models of one layer read: ids below 24.
inline const std::vector<int32_t> kSomeIds = {3, 7, 1, 1, 12, 5, 0, 9, 23, 14, 2};

// A tensor of numbers around `middle` that differ, by its name.
inline WireMessage onnx_waves(const std::string& name, const std::vector<int64_t>& shape,
                              float amplitude = 0.4F, float middle = 0) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  std::vector<float> values;
  const auto seed = static_cast<float>(std::hash<std::string>()(name) % 97) + 1;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(middle + amplitude * std::sin(seed * static_cast<float>(i + 1) * 0.37F));
  }
  return onnx_floats(name, shape, values);
}

inline const graph::Value& value_named(const graph::Graph& graph, std::string_view name) {
  for (const graph::Value& value : graph.values) {
    if (value.name == name) return value;
  }
  throw Error("no value " + std::string(name));
}

inline const graph::TensorData& tensor_named(const graph::Graph& graph, std::string_view name) {
  return std::get<graph::TensorData>(value_named(graph, name).constant.value());
}

}  // namespace nibble::test
