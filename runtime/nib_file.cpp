#include "runtime/nib_file.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "jit/error.h"
#include "runtime/pages.h"

namespace nibble::runtime {
namespace {

constexpr char kMagic[8] = {'N', 'I', 'B', 'B', 'L', 'E', '\r', '\n'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kHeaderBytes = 64;
constexpr uint64_t kLeastAlignment = 64;
constexpr uint64_t kMostAlignment = 4096;
constexpr uint64_t kChunk = 1 << 20;  // bytes a check sum
constexpr uint64_t kMostNameBytes = 4096;

// The first 48 bytes as they lie in the file (x86-64 is little-endian).
struct Header {
  char magic[8];
  uint32_t version, flags;
  uint64_t directory_offset, directory_bytes, file_bytes;
  uint32_t directory_check, header_check;
};
static_assert(sizeof(Header) == 48);
constexpr size_t kCheckedBytes = 44;  // of the header, before its own check

struct EntryHead {
  uint64_t offset, bytes, name_bytes;
};
static_assert(sizeof(EntryHead) == 24);

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

template <typename T>
void put(std::vector<std::byte>& out, const T& value) {
  const auto bytes = bytes_of(value);
  out.insert(out.end(), bytes.begin(), bytes.end());
}

uint64_t chunks_of(uint64_t bytes) { return bytes / kChunk + (bytes % kChunk != 0 ? 1 : 0); }

std::span<const std::byte> chunk_at(std::span<const std::byte> data, uint64_t chunk) {
  const uint64_t begin = chunk * kChunk;
  return data.subspan(begin, std::min<uint64_t>(kChunk, data.size() - begin));
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

void pad_to(AtomicFile& file, uint64_t alignment) {
  static constexpr std::byte kZeros[kMostAlignment] = {};
  const uint64_t over = file.size() % alignment;
  if (over != 0) file.append({kZeros, alignment - over});
}

// Checks the header against the file it heads.
Header read_header(const MappedFile& file) {
  const auto bytes = file.bytes();
  const std::string& path = file.path();
  if (bytes.size() < sizeof(kMagic) || std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) {
    const bool text_damage = bytes.size() >= 6 && std::memcmp(bytes.data(), kMagic, 6) == 0;
    if (text_damage) {
      fail(
          "{}: the file begins like a .nib file but its line end is damaged, as a transfer in "
          "text mode does.",
          path);
    }
    fail("{}: expected a .nib file, but it does not begin with NIBBLE.", path);
  }
  if (bytes.size() < kHeaderBytes) {
    fail("{}: the file is truncated: a .nib header has {} bytes, found {}.", path, kHeaderBytes,
         bytes.size());
  }
  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  const bool intact = crc32c(bytes.first(kCheckedBytes)) == header.header_check;
  if (header.version > kVersion) {
    fail("{}: the file has format version {}, but this Nibble reads up to version {}: {}.", path,
         header.version, kVersion,
         intact ? "it was written by a newer Nibble"
                : "it was written by a newer Nibble, or its header is damaged");
  }
  if (!intact) fail("{}: the file is damaged: its header does not match its check sum.", path);
  if (header.version != kVersion || header.flags != 0) {
    fail("{}: expected format version {} with flags 0, found version {} with flags {}.", path,
         kVersion, header.version, header.flags);
  }
  if (header.file_bytes != bytes.size()) {
    fail("{}: the file is {}: expected {} bytes, found {}.", path,
         header.file_bytes > bytes.size() ? "truncated" : "longer than its header says",
         header.file_bytes, bytes.size());
  }
  if (!all_zero(bytes.subspan(sizeof(Header), kHeaderBytes - sizeof(Header)))) {
    fail("{}: the file is damaged: the end of its header is not zero.", path);
  }
  if (header.directory_offset < kHeaderBytes || header.directory_offset % kLeastAlignment != 0 ||
      header.directory_offset > bytes.size() ||
      header.directory_bytes != bytes.size() - header.directory_offset) {
    fail("{}: the file is damaged: a directory of {} bytes at {} does not end a file of {} bytes.",
         path, header.directory_bytes, header.directory_offset, bytes.size());
  }
  return header;
}

// A section with its check sums, which may lie unaligned.
struct Found {
  NibFile::Section section;
  std::span<const std::byte> checks;

  uint32_t check(uint64_t chunk) const {
    uint32_t value;
    std::memcpy(&value, checks.data() + chunk * sizeof(value), sizeof(value));
    return value;
  }
};

// Takes directory entries off the front of what is left of the directory.
class DirectoryReader {
 public:
  DirectoryReader(const MappedFile& file, const Header& header)
      : path_(file.path()),
        data_(file.bytes().first(header.directory_offset)),
        left_(file.bytes().subspan(header.directory_offset)) {}

  std::vector<Found> read_all() {
    std::vector<Found> found;
    while (!left_.empty()) found.push_back(read_one());
    check_gap(data_.size(), kLeastAlignment, "the directory");
    check_names(found);
    return found;
  }

 private:
  std::span<const std::byte> take(uint64_t bytes) {
    if (bytes > left_.size()) {
      fail("{}: the file is damaged: its directory ends inside an entry, {} bytes short.", path_,
           bytes - left_.size());
    }
    const auto taken = left_.first(bytes);
    left_ = left_.subspan(bytes);
    return taken;
  }

  Found read_one() {
    EntryHead head;
    std::memcpy(&head, take(sizeof(head)).data(), sizeof(head));
    if (head.name_bytes == 0 || head.name_bytes > kMostNameBytes) {
      fail("{}: the file is damaged: a section's name has {} bytes, expected 1 to {}.", path_,
           head.name_bytes, kMostNameBytes);
    }
    const auto name = take(head.name_bytes);
    Found found;
    found.section.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    if (head.offset % kLeastAlignment != 0 || head.offset > data_.size() ||
        head.bytes > data_.size() - head.offset) {
      fail("{}: the section '{}' of {} bytes at {} does not lie in the file's {} bytes of data.",
           path_, found.section.name, head.bytes, head.offset, data_.size());
    }
    check_gap(head.offset, kMostAlignment, found.section.name);
    found.section.bytes = data_.subspan(head.offset, head.bytes);
    end_ = head.offset + head.bytes;
    found.checks = take(chunks_of(head.bytes) * sizeof(uint32_t));
    return found;
  }

  // What lies between the end of the last section and `offset` is less than `most` zeros.
  void check_gap(uint64_t offset, uint64_t most, std::string_view what) const {
    if (offset < end_) {
      fail("{}: the file is damaged: {} at {} overlaps the section that ends at {}.", path_, what,
           offset, end_);
    }
    if (offset - end_ >= most || !all_zero(data_.subspan(end_, offset - end_))) {
      fail("{}: the file is damaged: there are unknown bytes before {}, from {} to {}.", path_,
           what, end_, offset);
    }
  }

  void check_names(const std::vector<Found>& found) const {
    std::vector<std::string_view> names;
    names.reserve(found.size());
    for (const Found& f : found) names.push_back(f.section.name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) {
      fail("{}: the file is damaged: there are two sections named '{}'.", path_, *twice);
    }
  }

  const std::string& path_;
  std::span<const std::byte> data_;  // everything before the directory
  std::span<const std::byte> left_;
  uint64_t end_ = kHeaderBytes;  // of the section before
};

// Maps the pages of a chunk in one call: faults one by one cost as much as the check itself.
void populate(std::span<const std::byte> bytes) {
#ifndef MADV_POPULATE_READ
  constexpr int MADV_POPULATE_READ = 22;  // Linux 5.14; older kernels refuse it, which is harmless
#endif
  const size_t before = reinterpret_cast<uintptr_t>(bytes.data()) % kPage;  // of the same page
  auto* begin = const_cast<std::byte*>(bytes.data()) - before;
  madvise(begin, bytes.size() + before, MADV_POPULATE_READ);
}

// One 1 MiB piece of one section.
struct Piece {
  const Found* found;
  uint64_t chunk;
};

void verify_data(const std::string& path, const std::vector<Found>& found, ThreadPool& pool) {
  std::vector<Piece> pieces;
  for (const Found& f : found) {
    for (uint64_t c = 0; c < chunks_of(f.section.bytes.size()); ++c) pieces.push_back({&f, c});
  }
  const auto count = static_cast<int64_t>(pieces.size());
  std::atomic<int64_t> next{0}, first_bad{count};
  pool.parallel_for(pool.size(), [&](int64_t, int64_t, int) {
    for (int64_t i = next++; i < count && i < first_bad.load(); i = next++) {
      const Piece& piece = pieces[static_cast<size_t>(i)];
      const auto bytes = chunk_at(piece.found->section.bytes, piece.chunk);
      populate(bytes);
      if (crc32c(bytes) == piece.found->check(piece.chunk)) continue;
      for (int64_t bad = first_bad; i < bad && !first_bad.compare_exchange_weak(bad, i);) {
      }
    }
  });
  if (first_bad == count) return;
  const Piece& bad = pieces[static_cast<size_t>(first_bad.load())];
  fail("{}: the file is damaged: the section '{}' does not match its check sum in the MiB from {}.",
       path, bad.found->section.name, bad.chunk * kChunk);
}

}  // namespace

NibWriter::NibWriter(const std::string& path) : file_(path) {
  const Header empty{};  // until commit() knows what it says
  file_.append(bytes_of(empty));
  pad_to(file_, kHeaderBytes);
}

void NibWriter::add(std::string_view name, std::span<const std::byte> bytes, uint64_t alignment) {
  if (name.empty() || name.size() > kMostNameBytes) {
    fail("A section's name must have 1 to {} bytes, found {}.", kMostNameBytes, name.size());
  }
  if (alignment < kLeastAlignment || alignment > kMostAlignment ||
      (alignment & (alignment - 1)) != 0) {
    fail("The section '{}' asks for an alignment of {}; expected a power of two from {} to {}.",
         name, alignment, kLeastAlignment, kMostAlignment);
  }
  for (const Entry& entry : entries_) {
    if (entry.name == name) fail("There are two sections named '{}'.", name);
  }
  pad_to(file_, alignment);
  Entry entry{std::string(name), file_.size(), bytes.size(), {}};
  for (uint64_t c = 0; c < chunks_of(bytes.size()); ++c) {
    entry.checks.push_back(crc32c(chunk_at(bytes, c)));
  }
  // At once: the page cache keeps what one write brings in pages as large as the write allows, and
  // who maps the file next faults and walks less. In pieces of 1 MiB no page was larger than 512
  // KiB.
  file_.append(bytes);
  entries_.push_back(std::move(entry));
}

void NibWriter::commit() {
  pad_to(file_, kLeastAlignment);
  std::vector<std::byte> directory;
  for (const Entry& entry : entries_) {
    put(directory, EntryHead{entry.offset, entry.bytes, entry.name.size()});
    const auto name = std::as_bytes(std::span(entry.name));
    directory.insert(directory.end(), name.begin(), name.end());
    for (const uint32_t check : entry.checks) put(directory, check);
  }
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.directory_offset = file_.size();
  header.directory_bytes = directory.size();
  header.file_bytes = file_.size() + directory.size();
  header.directory_check = crc32c(directory);
  header.header_check = crc32c(bytes_of(header).first(kCheckedBytes));
  file_.append(directory);
  file_.write_at(0, bytes_of(header));
  file_.commit();
}

std::shared_ptr<const NibFile> NibFile::open(const std::string& path, ThreadPool* verify) {
  auto nib = std::make_shared<NibFile>();
  nib->file_ = MappedFile::open(path);
  const MappedFile& file = *nib->file_;
  const Header header = read_header(file);
  if (crc32c(file.bytes().subspan(header.directory_offset)) != header.directory_check) {
    fail("{}: the file is damaged: its directory does not match its check sum.", path);
  }
  std::vector<Found> found = DirectoryReader(file, header).read_all();
  if (verify != nullptr) verify_data(path, found, *verify);
  for (Found& f : found) nib->sections_.push_back(std::move(f.section));
  return nib;
}

std::optional<std::span<const std::byte>> NibFile::find(std::string_view name) const {
  for (const Section& section : sections_) {
    if (section.name == name) return section.bytes;
  }
  return std::nullopt;
}

std::span<const std::byte> NibFile::get(std::string_view name) const {
  const auto found = find(name);
  if (!found) fail("{}: there is no section named '{}' in the file.", path(), name);
  return *found;
}

}  // namespace nibble::runtime
