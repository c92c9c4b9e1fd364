// nibble logits: the logits after every id, for comparing with other programs.
#include "jit/error.h"
#include "runtime/clock.h"
#include "tools/cli/commands.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/npy.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

struct LogitsOptions {
  std::string model, ids, output;
  bool json = false;
  WeightOptions weights;
  RunOptions run;
};

std::vector<int32_t> row_of(const IdMatrix& ids, int64_t row, const std::string& path,
                            int64_t vocabulary) {
  std::vector<int32_t> out;
  for (int64_t column = 0; column < ids.columns; ++column) {
    const int64_t id = ids.values[static_cast<size_t>(row * ids.columns + column)];
    if (id < 0 || id >= vocabulary) {
      fail("{}: the id {} at [{}, {}] is outside the vocabulary 0..{}.", path, id, row, column,
           vocabulary - 1);
    }
    out.push_back(static_cast<int32_t>(id));
  }
  return out;
}

int logits(const LogitsOptions& options) {
  const IdMatrix ids = read_ids(options.ids);
  const LoadedModel model = load_model(options.model, "", options.weights, options.run);
  runtime::Decoder& decoder = *model.decoder;
  const int64_t vocabulary = decoder.vocab_size();
  std::vector<std::vector<int32_t>> rows;  // all checked before anything is written
  for (int64_t row = 0; row < ids.rows; ++row) {
    rows.push_back(row_of(ids, row, options.ids, vocabulary));
  }
  if (ids.columns > decoder.context_length()) {
    fail("{}: a row has {} ids, but the context of {} holds {}.", options.ids, ids.columns,
         options.model, decoder.context_length());
  }
  const int64_t shape[] = {ids.rows, ids.columns, vocabulary};
  FloatFile file(options.output, shape);
  std::vector<float> out(static_cast<size_t>(ids.columns * vocabulary));
  catch_interrupts();
  const double start = runtime::seconds_now();
  for (const std::vector<int32_t>& row : rows) {
    if (interrupted()) fail("Interrupted; {} was not written.", options.output);
    decoder.reset();
    decoder.forward_all(row, out);
    file.append(out);
  }
  file.commit();
  const double seconds = runtime::seconds_now() - start;
  if (options.json) {
    print_json({{"output", options.output},
                {"shape", shape},
                {"seconds", seconds},
                {"load_s", model.load_s},
                {"jit_ms", model.jit_ms},
                {"threads", model.pool->size()},
                {"isa", model.isa()},
                {"compute", model.compute},
                {"fused", model.report.complete()}});
  } else {
    print_line(fmt::format("{}: float32 [{}, {}, {}], in {:.2f} s", options.output, shape[0],
                           shape[1], shape[2], seconds));
  }
  return 0;
}

}  // namespace

void add_logits(CLI::App& program, Action& action) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* command = program.add_subcommand("logits", "Write the logits after every id");
  command
      ->add_option("MODEL", options->model,
                   "An .onnx, a .nib, .safetensors, a .gguf or a folder holding one")
      ->required();
  command->add_option("--ids", options->ids, "A .npy of int64 [batch, length]")->required();
  command
      ->add_option("-o,--output", options->output,
                   "The .npy of float32 [batch, length, vocabulary]")
      ->required();
  command->add_flag("--json", options->json, "Print a JSON object");
  options->run.add_to(*command);
  options->weights.add_to(*command);
  command->callback([options, &action] { action = [options] { return logits(*options); }; });
}

}  // namespace nibble::cli
