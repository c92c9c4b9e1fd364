// How cost moves with the context and with the rows of a pass: measurements of a decoder, shared by
// `nibble bench` and the report. Each is a median, so that one interruption does not count.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/decoder.h"
#include "runtime/machine_roofs.h"

namespace nibble::report {

double median(std::vector<double> values);  // of at least one
std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary);

// Called between passes; throws to stop.
using Pause = std::function<void()>;

// Appends random ids until `context` positions are held, in one call of forward.
void fill(runtime::Decoder& decoder, int64_t context);

// Seconds of decoding a token, the median of `steps`, from where the decoder stands.
double decode_seconds(runtime::Decoder& decoder, int64_t steps, const Pause& pause);

// The same beside the read roof of the same moment: tokens in rounds, a pass over memory before and
// after each. On shared machines the share says more than the rates.
struct DecodeRounds {
  double seconds = 0;   // a token, the median
  double roof_gbs = 0;  // 1e9 bytes a second, the median over rounds
  double share = 0;     // bytes a token / seconds / roof, the median over rounds
};
DecodeRounds decode_rounds(runtime::Decoder& decoder, int64_t steps, int64_t bytes_per_token,
                           runtime::ReadRoof& roof, const Pause& pause);

// Prompts beside the roof of dot products, likewise: a prompt a round, from an empty context, and a
// pass of dots before and after each; at most kPromptRounds, fewer when they take longer than
// `seconds`, and one at least.
inline constexpr int kPromptRounds = 5;
struct PrefillRounds {
  double tok_s = 0;      // ids a second, the median
  double roof_gops = 0;  // 1e9 operations a second, the median over rounds
  double share = 0;      // operations an id * ids a second / roof, the median over rounds
};
PrefillRounds prefill_rounds(runtime::Decoder& decoder, std::span<const int32_t> ids,
                             double operations_per_id, runtime::ThreadPool& pool, double seconds,
                             const Pause& pause);

struct ContextPoint {
  int64_t context = 0;  // positions held before the middle token
  double seconds = 0;   // a token
};
// Resets the decoder and decodes `steps` tokens at each context; `contexts` ascend.
std::vector<ContextPoint> context_curve(runtime::Decoder& decoder,
                                        std::span<const int64_t> contexts, int64_t steps,
                                        const Pause& pause);

struct RowsPoint {
  int64_t m = 0;
  double seconds = 0;  // a pass of m rows, logits of all
  double ratio = 0;    // to the first of the list, the median over rounds
};
// Passes of each m from where the decoder stands, `rounds` times in turn: a machine that slows down
// slows all alike. Appends rows_needed positions.
std::vector<RowsPoint> rows_curve(runtime::Decoder& decoder, std::span<const int64_t> rows,
                                  int64_t rounds, const Pause& pause);
int64_t rows_needed(std::span<const int64_t> rows, int64_t rounds);

}  // namespace nibble::report
