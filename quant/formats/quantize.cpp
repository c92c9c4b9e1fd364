#include "quant/formats/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <utility>
#include <vector>

#include "jit/error.h"
#include "quant/formats/nested_scales.h"

namespace nibble::quant {
namespace {

using graph::MatrixSource;
using graph::ValueId;
using jit::kColumnBlock;
using jit::PackedShape;
using jit::WeightFormat;
using jit::WeightType;

// What the threads share while one matrix is packed. Tasks are noexcept, so an exception is kept
// here: that of the lowest block, which is the same whatever the threads did.
struct PackingJob {
  const MatrixSource& source;
  const WeightFormat& format;
  RtnRange range;
  const std::string& name;
  PackedShape shape;
  bool as_it_is;  // quantized in the file, and the format holds those numbers
  runtime::PackedBuffer buffer;

  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex{};
  int64_t failed_block = 0;
  std::exception_ptr error{};

  void keep_error(int64_t block) noexcept {
    const std::scoped_lock lock(mutex);
    if (error == nullptr || block < failed_block) {
      failed_block = block;
      error = std::current_exception();
    }
    failed = true;
  }
};

// A thread's room for one column block.
struct BlockRoom {
  std::vector<float> columns;  // [16][k]
  std::vector<uint8_t> q;      // [16][kpad]
  std::vector<float> scales;   // [16][groups]
  std::vector<uint8_t> zeros;
  std::vector<float> minimums;  // of formats that have them
  std::vector<float> super_scales, super_minimums;
};

BlockRoom make_room(const PackingJob& job) {
  BlockRoom room;
  room.columns.resize(static_cast<size_t>(kColumnBlock * job.shape.k));
  if (job.format.type == WeightType::f32) return room;
  room.q.resize(static_cast<size_t>(kColumnBlock * job.shape.kpad));
  room.scales.resize(static_cast<size_t>(kColumnBlock * job.shape.groups));
  room.zeros.resize(room.scales.size());
  room.super_scales.resize(static_cast<size_t>(kColumnBlock * job.shape.supers));
  if (!job.format.minimum) return room;
  room.minimums.resize(room.scales.size());
  room.super_minimums.resize(room.super_scales.size());
  return room;
}

void check_finite(const PackingJob& job, std::span<const float> columns, int64_t first_column) {
  for (size_t i = 0; i < columns.size(); ++i) {
    if (std::isfinite(columns[i])) continue;
    const auto at = static_cast<int64_t>(i);
    fail("The weight '{}' is {} in column {} at k = {}, expected a finite number.", job.name,
         columns[i], first_column + at / job.shape.k, at % job.shape.k);
  }
}

// Column `c` with q8 scales: its weights are rounded once more, to the scales as they are stored.
void nest_column(const PackingJob& job, BlockRoom& room, int64_t c) {
  const PackedShape& shape = job.shape;
  const auto k = static_cast<size_t>(shape.k);
  const std::span<uint8_t> q(room.q.data() + c * shape.kpad, k);
  const std::span<float> scales(room.scales.data() + c * shape.groups,
                                static_cast<size_t>(shape.groups));
  nest_scales(shape.group, symmetric_zero(job.format), q, scales,
              {room.super_scales.data() + c * shape.supers, static_cast<size_t>(shape.supers)});
  for (size_t g = 0; g < scales.size(); ++g) {
    if (scales[g] == 0) continue;  // so are the weights, or too small to matter
    const auto at = g * static_cast<size_t>(shape.group);
    const std::span<const float> w(room.columns.data() + c * shape.k + at,
                                   static_cast<size_t>(shape.group));
    round_group(w, scales[g], rtn_limits(job.format, symmetric_zero(job.format)), q.data() + at);
  }
}

// Quantizes column `c` of the block; `column` is its number in the matrix.
void quantize_column(const PackingJob& job, BlockRoom& room, int64_t c, int64_t column) {
  const PackedShape& shape = job.shape;
  for (int64_t g = 0; g < shape.groups; ++g) {
    const int64_t begin = g * shape.group, end = std::min(shape.k, begin + shape.group);
    const auto length = static_cast<size_t>(end - begin);
    const std::span<const float> w(room.columns.data() + c * shape.k + begin, length);
    const std::span<uint8_t> q(room.q.data() + c * shape.kpad + begin, length);
    const auto at = static_cast<size_t>(c * shape.groups + g);
    try {
      const GroupResult result = rtn_group(w, job.format, job.range, q);
      room.scales[at] = result.scale;
      room.zeros[at] = result.zero;
    } catch (const Error& error) {
      fail("The weight '{}' cannot be quantized in column {}, k from {} to {}. {}", job.name,
           column, begin, end - 1, error.what());
    }
  }
  if (job.format.scale == jit::ScaleType::q8) nest_column(job, room, c);
  // k past the end holds the zero point.
  uint8_t* row = room.q.data() + c * shape.kpad;
  const uint8_t zero = room.zeros[static_cast<size_t>((c + 1) * shape.groups - 1)];
  std::fill(row + shape.k, row + shape.kpad, zero);
}

// Columns past the last are zeros from the start or of the block before.
void check_scales(const PackingJob& job, std::span<const float> numbers, const char* what,
                  int64_t first) {
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (std::isfinite(numbers[i])) continue;
    fail("The weight '{}' has the {} {} in column {}, expected a finite number in {}.", job.name,
         what, numbers[i], first + static_cast<int64_t>(i) / job.shape.groups,
         jit::scale_type_name(job.format.scale));
  }
}

void pack_one(PackingJob& job, BlockRoom& room, int64_t nb) {
  const PackedShape& shape = job.shape;
  const int64_t first = nb * kColumnBlock;
  const int64_t count = std::min(kColumnBlock, shape.n - first);
  if (job.as_it_is) {
    job.source.read_quantized(
        job.format, first, count,
        {room.q, room.scales, room.zeros, room.minimums, room.super_scales, room.super_minimums});
    check_scales(job, room.scales, "scale", first);
    check_scales(job, room.minimums, "minimum", first);
    jit::pack_block(job.format, shape.n, shape.k, nb, room.q.data(), room.scales.data(),
                    room.zeros.data(), job.buffer.data, job.buffer.scales, job.buffer.zeros,
                    room.minimums.data(), {room.super_scales.data(), room.super_minimums.data()});
    return;
  }
  const std::span<float> columns(room.columns.data(), static_cast<size_t>(count * shape.k));
  job.source.read_columns(first, count, columns);
  if (job.format.type == WeightType::f32) {
    check_finite(job, columns, first);
    jit::pack_block_f32(shape.n, shape.k, nb, columns.data(), job.buffer.data);
    return;
  }
  for (int64_t c = 0; c < count; ++c) quantize_column(job, room, c, first + c);
  jit::pack_block(job.format, shape.n, shape.k, nb, room.q.data(), room.scales.data(),
                  room.zeros.data(), job.buffer.data, job.buffer.scales, job.buffer.zeros, nullptr,
                  {room.super_scales.data(), nullptr});
}

// One thread's part: column blocks as they come, until all are packed or one failed.
void pack_blocks(PackingJob& job) noexcept {
  int64_t nb = 0;
  try {
    BlockRoom room = make_room(job);
    while (!job.failed && (nb = job.next++) < job.shape.nblocks) pack_one(job, room, nb);
  } catch (...) {
    job.keep_error(nb);
  }
}

// Whether `format` is the one that holds the numbers of a matrix that is quantized already.
bool holds_as_it_is(const MatrixSource& source, const WeightFormat& format) {
  if (format.type == WeightType::f32 || !source.has_quantized()) return false;
  std::string why_not;
  auto own = source.packed_format(why_not);
  if (!own) return false;
  if (format.scale == jit::ScaleType::f32) own->scale = format.scale;  // which holds every other
  return *own == format;
}

int64_t packed_bytes(const MatrixSource& source, const WeightFormat& format) {
  const PackedShape shape = jit::packed_shape(format, source.n, source.k);
  return shape.data_bytes + shape.scale_bytes + shape.zero_bytes;
}

}  // namespace

runtime::PackedMatrix quantize_matrix(const MatrixSource& source, const WeightFormat& format,
                                      RtnRange range, const std::string& name,
                                      runtime::ThreadPool& pool) {
  if (source.n < 1 || source.k < 1) {
    fail("The weight '{}' is a matrix of {} columns of {}, which cannot be packed.", name, source.n,
         source.k);
  }
  PackingJob job{.source = source,
                 .format = format,
                 .range = range,
                 .name = name,
                 .shape = jit::packed_shape(format, source.n, source.k),
                 .as_it_is = holds_as_it_is(source, format),
                 .buffer = runtime::allocate_packed(format, source.n, source.k, &pool.placement())};
  pool.run([](void* arg, int) noexcept { pack_blocks(*static_cast<PackingJob*>(arg)); }, &job);
  source.release();
  if (job.error) std::rethrow_exception(job.error);
  return std::move(job.buffer.matrix);
}

void quantize_graph(graph::Graph& graph, const QuantizeOptions& options, runtime::ThreadPool& pool,
                    const std::function<void(int64_t, int64_t)>& progress) {
  const auto formats = choose_formats(graph, options);
  const auto source_of = [&](ValueId id) -> const MatrixSource& {
    return std::get<MatrixSource>(*graph.values[static_cast<size_t>(id)].constant);
  };
  int64_t total = 0, done = 0;
  for (const auto& [id, format] : formats) total += packed_bytes(source_of(id), format);

  // Tied weights are packed once and shared.
  struct Packed {
    MatrixSource source;
    runtime::PackedMatrix matrix;
  };
  std::vector<Packed> packed;
  for (const auto& entry : formats) {
    const ValueId id = entry.first;
    const WeightFormat& format = entry.second;
    const MatrixSource& source = source_of(id);
    done += packed_bytes(source, format);
    const auto twin = std::find_if(packed.begin(), packed.end(), [&](const Packed& p) {
      return p.matrix.view.format == format && graph::same_source(p.source, source);
    });
    runtime::PackedMatrix matrix;
    if (twin != packed.end()) {
      matrix = twin->matrix;
    } else {
      matrix = quantize_matrix(source, format, options.range, graph.value_name(id), pool);
      packed.push_back({source, matrix});
    }
    graph.values[static_cast<size_t>(id)].constant = std::move(matrix);  // `source` is gone now
    if (progress) progress(done, total);
  }
}

}  // namespace nibble::quant
