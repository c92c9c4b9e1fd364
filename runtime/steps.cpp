#include "runtime/steps.h"

#include <algorithm>
#include <span>

#include "jit/gemm.h"
#include "jit/row_kernels.h"
#include "runtime/matmul_sharing.h"

namespace nibble::runtime {
namespace {

constexpr int64_t kLongPiece = 2048;  // elements of a long row that a thread takes at a time
// Weights fetched ahead of a step: what waiting at a barrier has time for, and an L2 has room for.
constexpr int64_t kAheadBytes = 128 << 10;

const float* pointer(const std::shared_ptr<const std::vector<float>>& values) {
  return values ? values->data() : nullptr;
}

void run_embed(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<EmbedStep>(&step.body);
  const int64_t width = s.table.view.k;
  context.claim(context.rows, 1, [&](int64_t begin, int64_t end) {
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

int64_t column_blocks(const jit::PackedView& w) noexcept {
  return (w.n + jit::kColumnBlock - 1) / jit::kColumnBlock;
}

// A call for rows [row, row + rows), but for its columns.
jit::GemmArgs gemm_args(const GemmStep& s, const StepContext& context, int64_t row,
                        int64_t rows) noexcept {
  jit::GemmArgs args;
  if (s.a.present()) {
    args.a = context.at<float>(s.a, row);
    args.a_stride = s.a.width;
  } else {
    args.a = context.at<std::byte>(s.quantized.q, row);
    args.a_stride = s.quantized.q.width / s.quantized.element_bytes;
    if (s.quantized.scale.present()) {
      args.a_scale = context.at<float>(s.quantized.scale, row);
      args.a_sum = context.at<int32_t>(s.quantized.sum, row);
    }
  }
  args.w = s.weight.view.data;
  args.w_scale = s.weight.view.scales;
  args.w_zero = s.weight.view.zeros;
  args.bias = pointer(s.bias);
  if (s.residual.present()) {
    args.residual = context.at<float>(s.residual, row);
    args.residual_stride = s.residual.width;
  }
  args.c = context.at<float>(s.out, row);
  args.c_stride = s.out.place == Operand::kLogits ? context.logits_width : s.out.width;
  args.c_columns = s.out_columns;
  args.m = rows;
  args.scratch = context.scratch;
  return args;
}

void run_gemm(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<GemmStep>(&step.body);
  const jit::Kernel& kernel = s.kernel(context.rows);
  share_matmul(context.share, kernel, context.rows, column_blocks(s.weight.view), step.weight_bytes,
               [&](const MatmulPiece& piece) {
                 jit::GemmArgs args = gemm_args(s, context, context.row + piece.row, piece.rows);
                 args.nb_begin = piece.nb_begin;
                 args.nb_end = piece.nb_end;
                 kernel.run(args);
               });
}

// Scales and softcaps of rows that may be as long as a vocabulary.
void run_long_row(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<RowStep>(&step.body);
  const int64_t pieces = (s.columns + kLongPiece - 1) / kLongPiece;
  context.claim(context.rows * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t r = context.row + piece / pieces, first = piece % pieces * kLongPiece;
      jit::RowArgs args;
      args.x = context.at<float>(s.x, r) + first;
      args.y = context.at<float>(s.y, r) + first;
      args.n = std::min(kLongPiece, s.columns - first);
      args.scale = s.scale;
      args.cap = s.cap;
      args.rows = 1;
      s.kernel->run(args);
    }
  });
}

void run_row(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<RowStep>(&step.body);
  const auto rows = [&](int64_t begin, int64_t end) {
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
      args.q = context.at<std::byte>(s.quantized.q, r);
      args.q_stride = s.quantized.q.width;
    }
    if (s.quantized.scale.present()) {
      args.q_scale = context.at<float>(s.quantized.scale, r);
      args.q_sum = context.at<int32_t>(s.quantized.sum, r);
      args.q_groups = s.quantized.scale.width;
      args.q_sum_words = s.quantized.sum.width;
    }
    args.rows = end - begin;
    s.kernel->run(args);
  };
  if (context.replicate && step.replicable) return rows(0, context.rows);
  context.claim(context.rows, 1, rows);
}

}  // namespace

Ahead weights_ahead(const Step& step, const WorkShare& share, int64_t rows) noexcept {
  const auto* s = std::get_if<GemmStep>(&step.body);
  if (s == nullptr || rows > jit::kStreamedRows) return {};
  const jit::PackedView& w = s->weight.view;
  const int64_t blocks = column_blocks(w);
  const WorkShare::Cut cut =
      cut_columns(s->kernel(rows), rows, blocks, step.weight_bytes, share.threads());
  const Range home = share.home(blocks, cut.unit);
  const int64_t block_bytes = jit::packed_shape(w.format, w.n, w.k).block_bytes;
  const int64_t bytes = std::min((home.end - home.begin) * block_bytes, kAheadBytes);
  const auto* data = reinterpret_cast<const std::byte*>(w.data) + home.begin * block_bytes;
  return {data, data + bytes};
}

Step Step::of(EmbedStep body) { return Step::with(std::move(body), run_embed); }
Step Step::of(GemmStep body) { return Step::with(std::move(body), run_gemm); }
Step Step::of(RowStep body) {
  const bool by_columns = body.columns > 0;
  return Step::with(std::move(body), by_columns ? run_long_row : run_row);
}

}  // namespace nibble::runtime
