#include "frontends/decoder/numbered_checkpoint.h"

#include <numeric>
#include <utility>

#include "jit/error.h"

namespace nibble::frontends::decoder {
namespace {

constexpr int64_t kMostNumbers = int64_t{1} << 24;  // whole numbers that a float can tell apart

}  // namespace

void NamedMatrix::read_column(int64_t, std::span<float>) const {
  fail("The matrix '{}' stands for a name alone and has no numbers.", name_);
}

NumberedCheckpoint::NumberedCheckpoint(std::string path)
    : checkpoint_(std::move(path),
                  Checkpoint::Maker{[](const std::string& name, int64_t n, int64_t k) {
                                      return graph::MatrixSource::whole(
                                          std::make_shared<const NamedMatrix>(name, n, k));
                                    },
                                    [this](const std::string& name, const graph::Shape& shape) {
                                      return make(name, shape);
                                    }}) {}

graph::TensorData NumberedCheckpoint::make(const std::string& name, const graph::Shape& shape) {
  const int64_t count = graph::element_count(shape);
  if (shape.size() == 2) {
    graph::TensorData table =
        graph::make_f32(shape, std::vector<float>(static_cast<size_t>(count), 0.0F));
    tables_[table.data] = name;
    return table;
  }
  if (count >= kMostNumbers - next_) {
    fail("{}: the norms and biases have more than {} numbers.", checkpoint_.path(), kMostNumbers);
  }
  std::vector<float> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), static_cast<float>(next_));
  first_[next_] = name;
  lengths_[name] = count;
  next_ += count;
  return graph::make_f32(shape, std::move(numbers));
}

VectorElement NumberedCheckpoint::element(float number) const {
  const auto id = static_cast<int64_t>(number);
  if (id == 0) return {};
  const auto after = first_.upper_bound(id);
  if (id < 0 || id >= next_ || after == first_.begin()) {
    fail("{}: {} is no number of a vector.", checkpoint_.path(), number);
  }
  const auto& [first, name] = *std::prev(after);
  return {&name, id - first};
}

std::string NumberedCheckpoint::table_name(const graph::TensorData& tensor) const {
  const auto found = tables_.find(tensor.data);
  return found == tables_.end() ? "" : found->second;
}

}  // namespace nibble::frontends::decoder
