#include "graph/matrix_source.h"

#include <algorithm>
#include <utility>

#include "jit/error.h"

namespace nibble::graph {
namespace {

// Appends, merging with the previous segment where both are one run of columns.
void append(std::vector<ColumnSegment>& segments, const ColumnSegment& segment) {
  if (segment.count == 0) return;
  if (!segments.empty()) {
    ColumnSegment& last = segments.back();
    const bool padding = segment.part < 0 && last.part < 0;
    if (padding || (last.part == segment.part && last.begin + last.count == segment.begin)) {
      last.count += segment.count;
      return;
    }
  }
  segments.push_back(segment);
}

// Calls visit(part, first column in the part, count, first column in the whole) for each run.
template <typename Visit>
void for_each_run(const MatrixSource& source, int64_t begin, int64_t count, const Visit& visit) {
  if (begin < 0 || count < 0 || begin > source.n || count > source.n - begin) {
    fail("Columns {} to {} were asked of a matrix of {} columns.", begin, begin + count, source.n);
  }
  int64_t start = 0;  // of the segment, in columns of the whole
  int64_t covered = begin;
  for (const ColumnSegment& segment : source.segments) {
    const int64_t first = std::max(begin, start);
    const int64_t last = std::min(begin + count, start + segment.count);
    if (first < last) {
      visit(segment.part, segment.begin + first - start, last - first, first);
      covered = last;
    }
    start += segment.count;
  }
  if (covered != begin + count) {
    fail("A matrix of {} columns has column segments for only {}.", source.n, start);
  }
}

const MatrixPart& part_of(const MatrixSource& source, int part) {
  if (part >= static_cast<int>(source.parts.size())) {
    fail("A column segment names part {} of a matrix of {} parts.", part, source.parts.size());
  }
  const MatrixPart& p = source.parts[static_cast<size_t>(part)];
  if (p.tensor.shape.size() != 2 || p.k() != source.k) {
    fail("A part of shape {} does not fit a matrix with k = {}.", to_string(p.tensor.shape),
         source.k);
  }
  return p;
}

}  // namespace

MatrixSource MatrixSource::whole(TensorData tensor, bool k_major) {
  if (tensor.shape.size() != 2) {
    fail("A weight matrix needs two dimensions, but the tensor has shape {}.",
         to_string(tensor.shape));
  }
  MatrixPart part{std::move(tensor), k_major};
  MatrixSource source;
  source.n = part.n();
  source.k = part.k();
  source.parts.push_back(std::move(part));
  append(source.segments, {.part = 0, .begin = 0, .count = source.n});
  return source;
}

void MatrixSource::read_columns(int64_t begin, int64_t count, std::span<float> out) const {
  if (static_cast<int64_t>(out.size()) != count * k) {
    fail("{} columns of {} values do not fit an output of {} values.", count, k, out.size());
  }
  std::vector<float> row;
  for_each_run(*this, begin, count, [&](int index, int64_t first, int64_t run, int64_t to) {
    float* target = out.data() + (to - begin) * k;
    if (index < 0) {
      std::fill(target, target + run * k, 0.0F);
      return;
    }
    const MatrixPart& part = part_of(*this, index);
    if (!part.k_major) {
      read_f32(part.tensor, first * k, {target, static_cast<size_t>(run * k)});
      return;
    }
    row.resize(static_cast<size_t>(run));
    for (int64_t kk = 0; kk < k; ++kk) {
      read_f32(part.tensor, kk * part.n() + first, row);
      for (int64_t c = 0; c < run; ++c) target[c * k + kk] = row[static_cast<size_t>(c)];
    }
  });
}

std::vector<float> MatrixSource::to_k_major() const {
  std::vector<float> out(static_cast<size_t>(element_count({k, n})), 0.0F);
  std::vector<float> columns;
  for_each_run(*this, 0, n, [&](int index, int64_t first, int64_t run, int64_t to) {
    if (index < 0) return;
    const MatrixPart& part = part_of(*this, index);
    if (part.k_major) {
      for (int64_t kk = 0; kk < k; ++kk) {
        read_f32(part.tensor, kk * part.n() + first,
                 {out.data() + kk * n + to, static_cast<size_t>(run)});
      }
      return;
    }
    // Sixteen columns at a time: each line of the output that is written is used whole.
    for (int64_t c0 = 0; c0 < run; c0 += 16) {
      const int64_t width = std::min<int64_t>(16, run - c0);
      columns.resize(static_cast<size_t>(width * k));
      read_f32(part.tensor, (first + c0) * k, columns);
      for (int64_t kk = 0; kk < k; ++kk) {
        float* line = out.data() + kk * n + to + c0;
        for (int64_t c = 0; c < width; ++c) line[c] = columns[static_cast<size_t>(c * k + kk)];
      }
    }
  });
  return out;
}

MatrixSource concatenate(std::span<const MatrixSource> sources) {
  if (sources.empty()) fail("No matrices were given to concatenate.");
  MatrixSource result;
  result.k = sources.front().k;
  for (const MatrixSource& source : sources) {
    if (source.k != result.k) {
      fail("Matrices with k = {} and k = {} cannot be concatenated.", result.k, source.k);
    }
    const int base = static_cast<int>(result.parts.size());
    result.parts.insert(result.parts.end(), source.parts.begin(), source.parts.end());
    for (ColumnSegment segment : source.segments) {
      if (segment.part >= 0) segment.part += base;
      append(result.segments, segment);
    }
    result.n += source.n;
  }
  return result;
}

MatrixSource select_columns(const MatrixSource& source, std::span<const ColumnSegment> columns) {
  MatrixSource result;
  result.k = source.k;
  result.parts = source.parts;
  for (const ColumnSegment& wanted : columns) {
    if (wanted.count < 0) fail("A selection of {} columns makes no sense.", wanted.count);
    result.n += wanted.count;
    if (wanted.part < 0) {
      append(result.segments, {.part = -1, .begin = 0, .count = wanted.count});
      continue;
    }
    for_each_run(
        source, wanted.begin, wanted.count, [&](int part, int64_t first, int64_t run, int64_t) {
          append(result.segments, {.part = part, .begin = part < 0 ? 0 : first, .count = run});
        });
  }
  return result;
}

}  // namespace nibble::graph
