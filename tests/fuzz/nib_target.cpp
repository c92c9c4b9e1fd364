// The .nib container and the graph within. Check sums would keep all mutations out, so every input
// is tried twice: as it is, and with the check sums that a liar would write.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "graph/interpreter.h"
#include "graph/lower.h"
#include "graph/nib_model.h"
#include "graph/nib_model_sections.h"
#include "runtime/nib_file.h"
#include "runtime/thread_pool.h"
#include "tests/fuzz/scratch_folder.h"
#include "tests/fuzz/targets.h"

namespace nibble::fuzz {
namespace {

constexpr size_t kHeaderBytes = 64, kMostSections = 64;
constexpr uint64_t kChunk = 1 << 20;

template <typename T>
T load(const std::string& bytes, size_t at) {
  T value{};
  if (at + sizeof(T) <= bytes.size()) std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

template <typename T>
void store(std::string& bytes, size_t at, T value) {
  if (at + sizeof(T) <= bytes.size()) std::memcpy(bytes.data() + at, &value, sizeof(T));
}

uint32_t check_of(const std::string& bytes, size_t at, size_t count) {
  return runtime::crc32c(std::as_bytes(std::span(bytes)).subspan(at, count));
}

// The layout is that of runtime/nib_file.h; where the bytes make no sense they stay as they are.
std::string with_right_checks(std::string bytes) {
  if (bytes.size() < kHeaderBytes) return bytes;
  store<uint64_t>(bytes, 32, bytes.size());
  const auto directory = load<uint64_t>(bytes, 16);
  if (directory <= bytes.size()) {
    store<uint64_t>(bytes, 24, bytes.size() - directory);
    for (uint64_t at = directory; at < bytes.size();) {
      const auto offset = load<uint64_t>(bytes, at), count = load<uint64_t>(bytes, at + 8),
                 name = load<uint64_t>(bytes, at + 16);
      if (name > bytes.size() || offset > bytes.size() || count > bytes.size() - offset) break;
      at += 24 + name;
      for (uint64_t done = 0; done < count; done += kChunk, at += 4) {
        store(bytes, at, check_of(bytes, offset + done, std::min(kChunk, count - done)));
      }
    }
    store(bytes, 40, check_of(bytes, directory, bytes.size() - directory));
  }
  store(bytes, 44, check_of(bytes, 0, 44));
  return bytes;
}

void read(const std::string& path) {
  static runtime::ThreadPool pool(1);
  const graph::Graph graph = graph::read_nib_model(path, &pool);
  graph::to_text(graph);
  graph::lower(graph, {});
}

// Parts as sections of a sound container.
void write_container(const std::string& path, const std::vector<std::string_view>& parts) {
  runtime::NibWriter writer(path);
  writer.add(graph::kGraphSection, std::as_bytes(std::span(parts[0])));
  for (size_t i = 1; i < parts.size(); ++i) {
    const size_t end = std::min(parts[i].find('\n'), parts[i].size());
    const auto bytes = parts[i].substr(std::min(end + 1, parts[i].size()));
    writer.add(parts[i].substr(0, end), std::as_bytes(std::span(bytes)));
  }
  writer.commit();
}

}  // namespace

int fuzz_nib(const uint8_t* data, size_t size) {
  const Scratch scratch;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.starts_with("NIBBLE")) {
    for (const std::string& form : {bytes, with_right_checks(bytes)}) {
      const std::string path = scratch.write("model.nib", form);
      hold_to_promises(size, [&] { read(path); });
    }
    return 0;
  }
  const std::string path = scratch.write("model.nib", "");
  hold_to_promises(size, [&] {
    write_container(path, cut_parts(data, size, kMostSections));
    read(path);
  });
  return 0;
}

}  // namespace nibble::fuzz
