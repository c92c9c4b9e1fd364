// The .nib container: named, versioned, check-summed sections of data, 64-byte aligned, mapped at
// load. It knows nothing of what the sections mean (graph/nib_model.h does). Never machine code.
//
//   0    char[8]  "NIBBLE\r\n"          magic; the line end catches text-mode damage
//   8    u32      format version (1)    a larger one is refused: written by a newer Nibble
//   12   u32      flags (0)
//   16   u64      offset of the directory      32  u64  file size
//   24   u64      bytes of the directory       40  u32  CRC-32C of the directory
//   44   u32      CRC-32C of bytes 0..43       48  zeros to 64
//   64   sections, each aligned to 64 (weights to 4096), the gaps zero; then the directory, aligned
//        to 64, to the end of the file: per section
//          u64 offset, u64 bytes, u64 bytes of its name, the name, u32 CRC-32C per 1 MiB of its
//          data
//        in the order of their offsets. All integers little-endian. Every bit of the file counts:
//        one that flips is noticed when check sums are verified.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/atomic_file.h"
#include "runtime/mapped_file.h"
#include "runtime/thread_pool.h"

namespace nibble::runtime {

// CRC-32C; `seed` is the check of what came before. The second form is what a machine without
// SSE4.2 runs.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t seed = 0);
uint32_t crc32c_by_table(std::span<const std::byte> bytes, uint32_t seed = 0);

class NibWriter {
 public:
  explicit NibWriter(const std::string& path);
  // Throws Error on a duplicate or empty name, or when writing fails.
  void add(std::string_view name, std::span<const std::byte> bytes, uint64_t alignment = 64);
  void commit();  // directory, header, fsync, rename
  uint64_t size() const { return file_.size(); }

 private:
  struct Entry {
    std::string name;
    uint64_t offset, bytes;
    std::vector<uint32_t> checks;
  };
  AtomicFile file_;
  std::vector<Entry> entries_;
};

class NibFile {
 public:
  struct Section {
    std::string name;
    std::span<const std::byte> bytes;
  };

  // Maps the file and validates header, directory and bounds (overlaps, names, alignment); with a
  // pool also every check sum, in parallel. Throws Error naming the file and what is wrong, or that
  // it is newer.
  static std::shared_ptr<const NibFile> open(const std::string& path, ThreadPool* verify);

  const std::vector<Section>& sections() const { return sections_; }
  // nullopt when there is no such section.
  std::optional<std::span<const std::byte>> find(std::string_view name) const;
  std::span<const std::byte> get(std::string_view name) const;  // throws Error when missing
  const std::string& path() const { return file_->path(); }
  uint64_t size() const { return file_->bytes().size(); }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<Section> sections_;
};

}  // namespace nibble::runtime
