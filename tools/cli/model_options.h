// The options that every command which meets a model has.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "quant/formats/quantize.h"

namespace nibble::cli {

// What --scale says. Throws UsageError where q8 does not go with the other two.
jit::ScaleType scale_type_of(const std::string& scale, int64_t group, bool asym);

// How weights are stored and multiplied: the same options for every command that meets an .onnx.
struct WeightOptions {
  std::string weights = "int4";
  int64_t group = 32;
  bool asym = false;
  std::string scale = "f16";
  std::string head, embedding;  // "int4", "int8", "f32"; empty: as default_options chooses
  std::string compute;          // "int8", "bf16", "f32"; empty: int8, or what the .nib says
  bool no_fuse = false;
  std::vector<const CLI::Option*> flags;  // those that only apply to what is not yet quantized

  void add_to(CLI::App& command);
  quant::QuantizeOptions quantize_options() const;
  bool given(const std::string& name) const;  // on the command line: "--group"
};

// How a model is run.
struct RunOptions {
  int threads = 0;      // 0: one a physical core
  int64_t context = 0;  // 0: the model's own
  int64_t chunk = 512;  // rows of a prefill pass
  std::string kv;       // a KvType's name; empty: f32 when all computes in f32

  void add_to(CLI::App& command, bool with_context = true);
};

}  // namespace nibble::cli
