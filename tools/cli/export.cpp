// nibble export: a compiled model in a form that other programs read.
#include <fmt/format.h>

#include <filesystem>

#include "frontends/onnx/export_onnx.h"
#include "frontends/safetensors/gptq_export.h"
#include "graph/nib_model.h"
#include "runtime/clock.h"
#include "tools/cli/commands.h"
#include "tools/cli/model_path.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

struct ExportOptions {
  std::string model, output, format = "onnx";
  bool v2 = false, json = false;
};

int64_t bytes_in(const std::string& folder) {
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file()) bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

int export_model(const ExportOptions& options) {
  const double start = runtime::seconds_now();
  const bool gptq = options.format == "gptq";
  if (options.v2 && !gptq) throw UsageError("--gptq-v2 applies to --format gptq alone.");
  const ModelPath found = find_model(options.model);
  if (!found.nib) {
    throw UsageError(fmt::format(
        "{} is not compiled yet: 'nibble compile {} -o MODEL.nib' makes what is exported.",
        found.path, options.model));
  }
  runtime::ThreadPool pool(runtime::default_threads());
  const graph::Graph graph = graph::read_nib_model(found.path, &pool);
  if (gptq) {
    frontends::write_gptq(graph, options.output, {.v2 = options.v2});
  } else {
    frontends::write_onnx(graph, options.output);
  }
  const double seconds = runtime::seconds_now() - start;
  const int64_t bytes = bytes_in(options.output);
  if (options.json) {
    print_json({{"output", options.output},
                {"format", options.format},
                {"bytes", bytes},
                {"seconds", seconds}});
  } else {
    print_line(fmt::format("{}: {:.1f} MB as {}, in {:.1f} s", options.output,
                           static_cast<double>(bytes) / 1e6, options.format, seconds));
  }
  return 0;
}

}  // namespace

void add_export(CLI::App& program, Action& action) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* command =
      program.add_subcommand("export", "Write a .nib for other programs: ONNX, or GPTQ's layout");
  command->add_option("MODEL", options->model, "A .nib, or a folder holding one")->required();
  command->add_option("-o,--output", options->output, "The folder to write into")->required();
  command
      ->add_option("--format", options->format,
                   "onnx (MatMulNBits, for onnxruntime 1.23 and later) or gptq (a Hugging Face "
                   "folder)")
      ->check(CLI::IsMember({"onnx", "gptq"}))
      ->capture_default_str();
  command->add_flag("--gptq-v2", options->v2,
                    "Store zero points as they are (checkpoint_format gptq_v2)");
  command->add_flag("--json", options->json, "Print a JSON object");
  command->callback([options, &action] { action = [options] { return export_model(*options); }; });
}

}  // namespace nibble::cli
