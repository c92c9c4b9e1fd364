#include "graph/matrix_source.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "jit/error.h"
#include "runtime/mapped_file.h"

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

// Columns [first, first + run) of a part, one after another.
void read_part(const MatrixPart& part, int64_t first, int64_t run, float* target,
               std::vector<float>& row) {
  const int64_t k = part.k();
  if (part.reader) {
    part.reader->read_columns(first, run, {target, static_cast<size_t>(run * k)});
    return;
  }
  if (part.quantized) {
    for (int64_t c = 0; c < run; ++c) {
      part.quantized->read_column(first + c, {target + c * k, static_cast<size_t>(k)});
    }
    return;
  }
  if (!part.k_major) {
    read_f32(part.tensor, first * k, {target, static_cast<size_t>(run * k)});
    return;
  }
  row.resize(static_cast<size_t>(run));
  for (int64_t kk = 0; kk < k; ++kk) {
    read_f32(part.tensor, kk * part.n() + first, row);
    for (int64_t c = 0; c < run; ++c) target[c * k + kk] = row[static_cast<size_t>(c)];
  }
}

MatrixSource whole_part(MatrixPart part) {
  MatrixSource source;
  source.n = part.n();
  source.k = part.k();
  source.parts.push_back(std::move(part));
  append(source.segments, {.part = 0, .begin = 0, .count = source.n});
  return source;
}

const MatrixPart& part_of(const MatrixSource& source, int part) {
  if (part >= static_cast<int>(source.parts.size())) {
    fail("A column segment names part {} of a matrix of {} parts.", part, source.parts.size());
  }
  const MatrixPart& p = source.parts[static_cast<size_t>(part)];
  if ((p.is_tensor() && p.tensor.shape.size() != 2) || p.k() != source.k) {
    fail("A part of shape {} does not fit a matrix with k = {}.", to_string(p.tensor.shape),
         source.k);
  }
  return p;
}

}  // namespace

void ColumnReader::read_columns(int64_t begin, int64_t count, std::span<float> out) const {
  for (int64_t c = 0; c < count; ++c) {
    read_column(begin + c, out.subspan(static_cast<size_t>(c * k_), static_cast<size_t>(k_)));
  }
}

void ColumnReader::read_numbers(int64_t, QuantizedColumn&) const {
  fail("A matrix of {} columns of {} has no quantized numbers.", n_, k_);
}

MatrixSource MatrixSource::whole(TensorData tensor, bool k_major) {
  if (tensor.shape.size() != 2) {
    fail("A weight matrix needs two dimensions, but the tensor has shape {}.",
         to_string(tensor.shape));
  }
  return whole_part({std::move(tensor), k_major});
}

MatrixSource MatrixSource::whole(std::shared_ptr<const QuantizedMatrix> matrix) {
  MatrixPart part;
  part.k_major = false;
  part.quantized = std::move(matrix);
  return whole_part(std::move(part));
}

MatrixSource MatrixSource::whole(std::shared_ptr<const ColumnReader> reader) {
  MatrixPart part;
  part.k_major = false;
  part.reader = std::move(reader);
  return whole_part(std::move(part));
}

bool MatrixPart::same_as(const MatrixPart& other) const {
  if (reader || other.reader) return factor == other.factor && reader == other.reader;
  if (factor != other.factor || (quantized != nullptr) != (other.quantized != nullptr))
    return false;
  if (quantized) return quantized == other.quantized || quantized->same_bytes(*other.quantized);
  return tensor.data == other.tensor.data && tensor.dtype == other.tensor.dtype &&
         tensor.shape == other.tensor.shape && k_major == other.k_major;
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
    read_part(part, first, run, target, row);
    if (part.factor == 1) return;
    for (int64_t i = 0; i < run * k; ++i) target[i] *= part.factor;
  });
}

std::vector<float> MatrixSource::to_k_major() const {
  std::vector<float> out(static_cast<size_t>(element_count({k, n})), 0.0F);
  std::vector<float> columns;
  // Sixteen columns at a time: each line of the output that is written is used whole.
  for (int64_t c0 = 0; c0 < n; c0 += 16) {
    const int64_t width = std::min<int64_t>(16, n - c0);
    columns.resize(static_cast<size_t>(width * k));
    read_columns(c0, width, columns);
    for (int64_t kk = 0; kk < k; ++kk) {
      float* line = out.data() + kk * n + c0;
      for (int64_t c = 0; c < width; ++c) line[c] = columns[static_cast<size_t>(c * k + kk)];
    }
  }
  return out;
}

void MatrixSource::release() const noexcept {
  const auto release_tensor = [](const TensorData& tensor) {
    runtime::release_pages({tensor.data, tensor.bytes});
  };
  for (const MatrixPart& part : parts) {
    if (part.reader) part.reader->release();
    if (part.is_tensor()) release_tensor(part.tensor);
    if (!part.quantized) continue;
    release_tensor(part.quantized->values);
    release_tensor(part.quantized->scales);
    if (part.quantized->zeros) release_tensor(*part.quantized->zeros);
  }
}

bool MatrixSource::has_quantized() const {
  return std::any_of(segments.begin(), segments.end(), [&](const ColumnSegment& segment) {
    return segment.part >= 0 && part_of(*this, segment.part).is_quantized();
  });
}

namespace {

std::optional<jit::WeightFormat> format_of(const MatrixPart& part, std::string& why_not) {
  return part.quantized ? part.quantized->packed_format(why_not) : part.reader->packed_format();
}

// The format that holds the numbers of both.
jit::WeightFormat common_format(const jit::WeightFormat& a, const jit::WeightFormat& b) {
  using jit::ScaleType;
  jit::WeightFormat both = a;
  if (jit::weight_bits(b.type) > jit::weight_bits(a.type)) both.type = b.type;
  if (a.scale != b.scale) both.scale = ScaleType::f32;
  // A middle times a scale is a minimum of the scale's type, any other zero point is not.
  const auto has_zeros = [](const jit::WeightFormat& f) { return f.asym && !f.minimum; };
  if (a.minimum != b.minimum && (has_zeros(a) || has_zeros(b))) both.scale = ScaleType::f32;
  both.asym = a.asym || b.asym;
  both.minimum = a.minimum || b.minimum;
  both.group = std::gcd(a.group, b.group);  // 0: the whole of k
  return both;
}

}  // namespace

std::optional<jit::WeightFormat> MatrixSource::packed_format(std::string& why_not) const {
  std::optional<jit::WeightFormat> all;
  bool floats = false, quantized = false;
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool used = std::any_of(segments.begin(), segments.end(), [&](const ColumnSegment& s) {
      return s.part == static_cast<int>(i);
    });
    if (!used) continue;
    const MatrixPart& part = parts[i];
    floats = floats || !part.is_quantized();
    if (!part.is_quantized()) continue;
    quantized = true;
    auto format = format_of(part, why_not);
    if (!format) return std::nullopt;
    if (part.factor != 1) format->scale = jit::ScaleType::f32;
    all = all ? common_format(*all, *format) : *format;
  }
  if (floats && quantized) {
    why_not = "it is merged with a matrix that is not quantized";
    return std::nullopt;
  }
  return all;
}

namespace {

// The numbers of a column as the part has them.
struct OwnColumn {
  jit::WeightType type = jit::WeightType::u4;
  bool minimums = false;  // what the offsets are
  bool supers = false;    // of q8 scales
  int64_t group = 0;
  QuantizedColumn numbers;
};

OwnColumn read_own(const MatrixPart& part, int64_t column) {
  OwnColumn own;
  const auto resize = [&] {
    const auto groups = static_cast<size_t>((part.k() - 1) / own.group + 1);
    own.numbers.q.resize(static_cast<size_t>(part.k()));
    own.numbers.scales.resize(groups);
    own.numbers.offsets.resize(groups);
    if (!own.supers) return;
    own.numbers.super_scales.resize(static_cast<size_t>(part.k() / jit::kSuperBlock));
    own.numbers.super_offsets.resize(own.numbers.super_scales.size());
  };
  if (const QuantizedMatrix* matrix = part.quantized.get()) {
    own.type = matrix->bits < 8 ? jit::WeightType::u4 : jit::WeightType::u8;
    own.group = matrix->group;
    resize();
    matrix->read_values(column, own.numbers.q);
    matrix->read_scales(column, own.numbers.scales);
    matrix->read_zeros(column, own.numbers.offsets);
    return own;
  }
  const jit::WeightFormat format = *part.reader->packed_format();
  own.type = format.type;
  own.minimums = format.minimum;
  own.supers = format.scale == jit::ScaleType::q8;
  own.group = jit::packed_shape(format, part.n(), part.k()).group;
  resize();
  if (!format.asym) {
    std::fill(own.numbers.offsets.begin(), own.numbers.offsets.end(),
              static_cast<float>(jit::middle_value(own.type)));
  }
  part.reader->read_numbers(column, own.numbers);
  return own;
}

struct ColumnTarget {
  uint8_t* q;
  float* scales;
  uint8_t* zeros;
  float *minimums, *super_scales, *super_minimums;
};

// One column in a format that holds it: see MatrixSource::read_quantized.
void read_column_as(const MatrixPart& part, int64_t column, const jit::WeightFormat& format,
                    const jit::PackedShape& shape, const ColumnTarget& to) {
  const OwnColumn own = read_own(part, column);
  // Keeps a symmetric matrix symmetric.
  const int shift =
      format.minimum ? 0 : jit::middle_value(format.type) - jit::middle_value(own.type);
  for (int64_t g = 0; g < shape.groups; ++g) {
    const auto from = static_cast<size_t>(g * shape.group / own.group);
    const float scale = own.numbers.scales[from] * part.factor;
    const float offset = own.numbers.offsets[from];
    to.scales[g] = jit::round_to(format.scale, scale);
    if (!format.minimum) {
      to.zeros[g] = static_cast<uint8_t>(static_cast<int>(offset) + shift);
    } else {
      const float minimum = own.minimums ? offset * part.factor : -offset * scale;
      to.minimums[g] = jit::round_to(format.scale, minimum);
    }
  }
  for (int64_t s = 0; s < shape.supers; ++s) {
    const auto from = static_cast<size_t>(s);
    to.super_scales[s] = own.numbers.super_scales[from];
    if (!format.minimum) continue;
    const float middle = jit::middle_value(own.type);
    to.super_minimums[s] =
        own.minimums ? own.numbers.super_offsets[from] : -middle * own.numbers.super_scales[from];
  }
  for (int64_t kk = 0; kk < part.k(); ++kk) {
    to.q[kk] = static_cast<uint8_t>(own.numbers.q[static_cast<size_t>(kk)] + shift);
  }
  std::fill(to.q + part.k(), to.q + shape.kpad,
            format.minimum ? uint8_t{0} : to.zeros[shape.groups - 1]);
}

}  // namespace

void MatrixSource::read_quantized(const jit::WeightFormat& format, int64_t begin, int64_t count,
                                  const QuantizedColumns& out) const {
  const jit::PackedShape shape = jit::packed_shape(format, n, k);
  const auto lacks = [count](const auto& numbers, int64_t a_column) {
    return static_cast<int64_t>(numbers.size()) < count * a_column;
  };
  if (lacks(out.q, shape.kpad) || lacks(out.scales, shape.groups) ||
      lacks(out.zeros, shape.groups) || lacks(out.super_scales, shape.supers) ||
      (format.minimum &&
       (lacks(out.minimums, shape.groups) || lacks(out.super_minimums, shape.supers)))) {
    fail("{} quantized columns of {} do not fit an output of {} values.", count, k, out.q.size());
  }
  const uint8_t middle = format.minimum ? uint8_t{0} : jit::middle_value(format.type);
  for_each_run(*this, begin, count, [&](int index, int64_t first, int64_t run, int64_t to) {
    for (int64_t c = 0; c < run; ++c) {
      const int64_t at = to - begin + c;
      const ColumnTarget target{
          out.q.data() + at * shape.kpad,
          out.scales.data() + at * shape.groups,
          out.zeros.data() + at * shape.groups,
          format.minimum ? out.minimums.data() + at * shape.groups : nullptr,
          out.super_scales.data() + at * shape.supers,
          format.minimum ? out.super_minimums.data() + at * shape.supers : nullptr};
      if (index < 0) {  // padding
        std::fill(target.q, target.q + shape.kpad, middle);
        std::fill(target.scales, target.scales + shape.groups, 0.0F);
        std::fill(target.zeros, target.zeros + shape.groups, middle);
        std::fill(target.super_scales, target.super_scales + shape.supers, 0.0F);
        if (!format.minimum) continue;
        std::fill(target.minimums, target.minimums + shape.groups, 0.0F);
        std::fill(target.super_minimums, target.super_minimums + shape.supers, 0.0F);
      } else {
        read_column_as(part_of(*this, index), first + c, format, shape, target);
      }
    }
  });
}

bool same_source(const MatrixSource& a, const MatrixSource& b) {
  if (a.n != b.n || a.k != b.k || a.segments != b.segments || a.parts.size() != b.parts.size()) {
    return false;
  }
  return std::equal(a.parts.begin(), a.parts.end(), b.parts.begin(),
                    [](const MatrixPart& x, const MatrixPart& y) { return x.same_as(y); });
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
