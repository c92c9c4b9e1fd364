// nibble compile: a model, or random weights of a known shape, quantized into a .nib.
#include <filesystem>

#include "graph/model_shapes.h"
#include "graph/nib_model.h"
#include "jit/error.h"
#include "runtime/clock.h"
#include "tools/cli/commands.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/output.h"
#include "tools/cli/pack_weights.h"

namespace nibble::cli {
namespace {

struct CompileOptions {
  std::string model, shape, output;
  bool json = false;
  int threads = 0;
  CLI::Option *model_flag = nullptr, *shape_flag = nullptr;
  WeightOptions weights;
};

int64_t packed_bytes(const graph::Graph& graph, graph::ValueId id,
                     const jit::WeightFormat& format) {
  const auto& source =
      std::get<graph::MatrixSource>(*graph.values[static_cast<size_t>(id)].constant);
  const jit::PackedShape shape = jit::packed_shape(format, source.n, source.k);
  return shape.data_bytes + shape.scale_bytes + shape.zero_bytes;
}

int compile(const CompileOptions& options) {
  const double start = runtime::seconds_now();
  catch_interrupts();
  runtime::ThreadPool pool(options.threads > 0 ? options.threads : runtime::default_threads());
  if (!options.model.empty() && find_model(options.model).nib) {
    throw UsageError(fmt::format("{} is compiled already.", options.model));
  }
  PreparedGraph prepared = prepare_graph(options.model, options.shape, options.weights, pool);
  graph::Graph& graph = prepared.graph;
  if (!options.weights.no_fuse && !prepared.report.complete()) {
    warn(unfused_warning(prepared.report));
  }
  const std::string compute = options.weights.compute.empty() ? "int8" : options.weights.compute;
  set_compute(graph, compute);
  respect_quantized(graph, options.weights);
  const quant::QuantizeOptions quantize = options.weights.quantize_options();
  const auto formats = quant::choose_formats(graph, quantize);
  int64_t total = 0, done = 0;
  for (const auto& [id, format] : formats) total += packed_bytes(graph, id, format);
  {
    Progress progress("compiling");
    graph::write_nib_model(graph, options.output, [&](graph::ValueId id) {
      if (interrupted()) fail("Interrupted; {} was not written.", options.output);
      const jit::WeightFormat& format = formats.at(id);
      runtime::PackedMatrix packed = pack_weight(graph, id, format, quantize.range, pool);
      done += packed_bytes(graph, id, format);
      progress.update(done, total);
      return packed;
    });
  }
  const double seconds = runtime::seconds_now() - start;
  const auto bytes = static_cast<int64_t>(std::filesystem::file_size(options.output));
  if (options.json) {
    print_json({{"output", options.output},
                {"bytes", bytes},
                {"weights", options.weights.weights},
                {"compute", compute},
                {"fused", prepared.report.complete()},
                {"coverage", prepared.report.coverage()},
                {"seconds", seconds},
                {"peak_rss_mb", peak_rss_mb()}});
  } else {
    print_line(fmt::format("{}: {:.1f} MB of {} weights, {:.0f}% fused, in {:.1f} s",
                           options.output, static_cast<double>(bytes) / 1e6,
                           options.weights.weights, prepared.report.coverage() * 100, seconds));
  }
  return 0;
}

}  // namespace

void add_compile(CLI::App& program, Action& action) {
  auto options = std::make_shared<CompileOptions>();
  CLI::App* command = program.add_subcommand("compile", "Quantize a model into a .nib file");
  options->model_flag = command->add_option(
      "MODEL", options->model, "An .onnx, .safetensors, a .gguf or a folder holding one");
  options->shape_flag =
      command->add_option("--shape", options->shape, "Random weights of this model's shapes")
          ->check(CLI::IsMember(graph::shape_names()))
          ->excludes(options->model_flag);
  command->add_option("-o,--output", options->output, "The .nib to write")->required();
  command->add_option("--threads", options->threads, "Threads (default: one a physical core)")
      ->check(CLI::Range(1, 1024));
  command->add_flag("--json", options->json, "Print a JSON object");
  options->weights.add_to(*command);
  command->callback([options, &action] {
    if (options->model_flag->count() + options->shape_flag->count() == 0) {
      throw CLI::RequiredError("MODEL or --shape");
    }
    action = [options] { return compile(*options); };
  });
}

}  // namespace nibble::cli
