#include "quant/solvers/scaled_columns.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "jit/error.h"

namespace nibble::quant {
namespace {

using graph::ColumnSegment;
using graph::MatrixPart;
using graph::MatrixSource;

std::string_view type_of(const MatrixPart& part) {
  return part.reader ? part.reader->type() : graph::dtype_name(part.tensor.dtype);
}

std::string common_type(const MatrixSource& source) {
  std::string_view common;
  for (const ColumnSegment& segment : source.segments) {
    if (segment.part < 0) continue;
    const std::string_view type = type_of(source.parts.at(static_cast<size_t>(segment.part)));
    if (!common.empty() && common != type) return "mixed";
    common = type;
  }
  return std::string(common);
}

// The scaled reader that a source is the whole of, or null.
const ScaledColumns* scaled(const MatrixSource& source) {
  if (source.parts.size() != 1 || source.parts[0].factor != 1) return nullptr;
  const std::vector<ColumnSegment> all{{.part = 0, .begin = 0, .count = source.n}};
  if (source.segments != all) return nullptr;
  const auto* reader = dynamic_cast<const ScaledColumns*>(source.parts[0].reader.get());
  return reader != nullptr && reader->n() == source.n ? reader : nullptr;
}

// a[i] * b[i], where an empty span is all ones.
std::vector<float> product(std::span<const float> a, std::span<const float> b, int64_t length) {
  std::vector<float> out(static_cast<size_t>(length), 1.0F);
  for (const std::span<const float> factors : {a, b}) {
    for (size_t i = 0; i < factors.size(); ++i) out[i] *= factors[i];
  }
  return out;
}

bool all_ones(std::span<const float> factors) {
  return std::all_of(factors.begin(), factors.end(), [](float factor) { return factor == 1; });
}

void check_length(std::span<const float> factors, int64_t expected, const char* what) {
  if (factors.empty() || static_cast<int64_t>(factors.size()) == expected) return;
  fail("A matrix of {} {} cannot be scaled by {} factors.", expected, what, factors.size());
}

}  // namespace

ScaledColumns::ScaledColumns(MatrixSource source, std::vector<float> k_factors,
                             std::vector<float> column_factors)
    : ColumnReader(source.n, source.k),
      source_(std::move(source)),
      k_factors_(std::move(k_factors)),
      column_factors_(std::move(column_factors)),
      type_(common_type(source_)) {}

void ScaledColumns::read_column(int64_t c, std::span<float> out) const { read_columns(c, 1, out); }

void ScaledColumns::read_columns(int64_t begin, int64_t count, std::span<float> out) const {
  source_.read_columns(begin, count, out);
  for (int64_t c = 0; c < count; ++c) {
    float* column = out.data() + c * k();
    const float factor = column_factors_[static_cast<size_t>(begin + c)];
    for (size_t kk = 0; kk < k_factors_.size(); ++kk) {
      column[kk] = column[kk] * k_factors_[kk] * factor;
    }
  }
}

MatrixSource scale_matrix(const MatrixSource& source, std::span<const float> k_factors,
                          std::span<const float> column_factors) {
  check_length(k_factors, source.k, "rows");
  check_length(column_factors, source.n, "columns");
  if (source.has_quantized()) fail("A matrix that is quantized already cannot be scaled.");
  const ScaledColumns* before = scaled(source);
  const MatrixSource& bare = before != nullptr ? before->source() : source;
  const auto had = [&](auto get) { return before != nullptr ? get() : std::span<const float>(); };
  auto k_all = product(had([&] { return before->k_factors(); }), k_factors, source.k);
  auto column_all =
      product(had([&] { return before->column_factors(); }), column_factors, source.n);
  if (all_ones(k_all) && all_ones(column_all)) return bare;
  return MatrixSource::whole(std::shared_ptr<const graph::ColumnReader>(
      std::make_shared<ScaledColumns>(bare, std::move(k_all), std::move(column_all))));
}

}  // namespace nibble::quant
