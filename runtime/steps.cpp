#include "runtime/steps.h"

#include <algorithm>
#include <span>

#include "jit/gemm.h"
#include "jit/row_kernels.h"

namespace nibble::runtime {
namespace {

constexpr int64_t kFewRows = 16;         // GemmStep::few serves 2..kFewRows rows
constexpr int64_t kClaimsPerThread = 8;  // work is claimed in about this many pieces a thread

// Calls body(begin, end) for pieces of [0, count) until all are claimed; pieces are multiples of
// `unit`.
template <typename Body>
void claim(const StepContext& context, int64_t count, int64_t unit, Body body) noexcept {
  int64_t piece = count / (context.threads * kClaimsPerThread) / unit * unit;
  piece = std::max(piece, unit);
  if (context.threads == 1) piece = count;
  for (;;) {
    const int64_t begin = context.work->next.fetch_add(piece, std::memory_order_relaxed);
    if (begin >= count) return;
    body(begin, std::min(begin + piece, count));
  }
}

const float* pointer(const std::shared_ptr<const std::vector<float>>& values) {
  return values ? values->data() : nullptr;
}

void run_embed(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<EmbedStep>(&step.body);
  const int64_t width = s.table.view.k;
  claim(context, context.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = context.row + begin; r < context.row + end; ++r) {
      float* out = context.at<float>(s.out, r);
      jit::unpack_column(s.table.view, context.ids[r], {out, static_cast<size_t>(width)});
      if (s.scale != 1.0F) {
        for (int64_t i = 0; i < width; ++i) out[i] *= s.scale;
      }
      if (s.positions) {
        const float* p = s.positions->data() + (context.position + r + s.position_offset) * width;
        for (int64_t i = 0; i < width; ++i) out[i] += p[i];
      }
    }
  });
}

void run_gemm(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<GemmStep>(&step.body);
  const jit::Kernel* kernel = s.many;
  if (context.rows == 1) {
    kernel = s.decode;
  } else if (context.rows <= kFewRows) {
    kernel = s.few;
  }
  jit::GemmArgs args;
  if (s.a.present()) {
    args.a = context.at<float>(s.a, context.row);
    args.a_stride = s.a.width;
  } else {
    args.a = context.at<int8_t>(s.quantized.q, context.row);
    args.a_stride = s.quantized.q.width;
    args.a_scale = context.at<float>(s.quantized.scale, context.row);
    args.a_sum = context.at<int32_t>(s.quantized.sum, context.row);
  }
  args.w = s.weight.view.data;
  args.w_scale = s.weight.view.scales;
  args.w_zero = s.weight.view.zeros;
  args.bias = pointer(s.bias);
  if (s.residual.present()) {
    args.residual = context.at<float>(s.residual, context.row);
    args.residual_stride = s.residual.width;
  }
  args.c = context.at<float>(s.out, context.row);
  args.c_stride = s.out.place == Operand::kLogits ? context.logits_width : s.out.width;
  args.c_columns = s.out_columns;
  args.m = context.rows;
  args.scratch = context.scratch;
  const int64_t nblocks = (s.weight.view.n + jit::kColumnBlock - 1) / jit::kColumnBlock;
  const int64_t nr = kernel->key.tiling.nr;
  const int64_t unit = s.gate ? (nr % 2 == 0 ? nr : 2 * nr) : nr;
  claim(context, nblocks, unit, [&](int64_t begin, int64_t end) {
    jit::GemmArgs part = args;
    part.nb_begin = begin;
    part.nb_end = end;
    kernel->run(part);
  });
}

void run_row(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<RowStep>(&step.body);
  claim(context, context.rows, 1, [&](int64_t begin, int64_t end) {
    const int64_t r = context.row + begin;
    jit::RowArgs args;
    args.x = context.at<float>(s.x, r);
    args.x_stride = s.x.width;
    if (s.x2.present()) {
      args.x2 = context.at<float>(s.x2, r);
      args.x2_stride = s.x2.width;
    }
    args.weight = pointer(s.weight);
    args.bias = pointer(s.bias);
    args.eps = s.eps;
    if (s.y.present()) {
      args.y = context.at<float>(s.y, r);
      args.y_stride = s.y.width;
    }
    if (s.quantized.q.present()) {
      args.q = context.at<int8_t>(s.quantized.q, r);
      args.q_stride = s.quantized.q.width;
      args.q_scale = context.at<float>(s.quantized.scale, r);
      args.q_sum = context.at<int32_t>(s.quantized.sum, r);
      args.q_groups = s.groups;
    }
    args.rows = end - begin;
    s.kernel->run(args);
  });
}

template <typename Body>
Step wrap(Body body, Step::Run run) {
  Step step;
  step.run = run;
  step.body = std::move(body);
  return step;
}

}  // namespace

Step Step::of(EmbedStep body) { return wrap(std::move(body), run_embed); }
Step Step::of(GemmStep body) { return wrap(std::move(body), run_gemm); }
Step Step::of(RowStep body) { return wrap(std::move(body), run_row); }

}  // namespace nibble::runtime
