// The page of `nibble quantize --report`: which recipe was chosen and why, loss against bits,
// errors layer by layer, and what it took. Plain data in, one self-contained HTML page out, as of
// report.h: whoever runs the trials fills in what there is, and a section without data says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nibble::report {

struct QuantizeReport {
  std::string model;
  std::string calibration;         // where the text came from
  int64_t calibration_tokens = 0;  // 0: none were needed
  int64_t held_out_tokens = 0;     // that trials are scored on
  double max_loss = 0;             // the mark: a loss of no more is good enough; 0.01 is 1%
  bool met = false;                // by the best
  size_t best = 0;                 // of trials

  // A weight that was quantized against what it computes: W' for W, with inputs X from the
  // calibration text. Errors are |X W'^T - X W^T| / |X W^T|, in Frobenius norms.
  struct Weight {
    std::string name;
    int64_t layer = -1;        // below 0: outside of the layers
    double error = 0;          // as quantized
    double nearest_error = 0;  // had it been rounded to nearest; 0: not known
    double seconds = 0;
  };
  struct Trial {
    std::string method;  // "gptq"
    std::string text;    // "gptq int4 in groups of 32, with f16 scales"
    double perplexity = 0, base_perplexity = 0;
    double loss = 0;                     // the largest of the estimates
    double loss_low = 0, loss_high = 0;  // the interval of 95% confidence around it
    std::string decided_by;              // that estimate's name
    // Of the loss, by each measure: "perplexity", "KL", a task's name.
    struct Estimate {
      std::string by;
      double loss = 0, low = 0, high = 0;
    };
    std::vector<Estimate> estimates;
    double kl = 0;                // mean KL(base || model), nats
    double top1 = 0;              // share of ids before which both have the same likeliest
    double bits = 0;              // stored bits of a weight
    double seconds = 0;           // of quantizing
    std::vector<Weight> weights;  // those with errors, in any order; of rtn none
  };
  std::vector<Trial> trials;  // in the order they were made
};

std::string quantize_page(const QuantizeReport& report);

// The sections, each complete HTML; "" of a report that has nothing for it.
std::string render_choice(const QuantizeReport& report);  // one or two sentences
std::string render_trials(const QuantizeReport& report);
std::string render_loss(const QuantizeReport& report);
std::string render_errors(const QuantizeReport& report);
std::string render_seconds(const QuantizeReport& report);

}  // namespace nibble::report
