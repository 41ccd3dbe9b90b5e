#include "workers/shared_arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "workers/wire.h"

namespace siglip {
namespace {

constexpr std::size_t kMemoryBytes = kEncodedAreaBytes + kPixelAreaBytes;
// The largest page of the two architectures, so that a worker can open a block alone.
constexpr std::size_t kBlockAlignment = std::size_t{64} << 10;
// What stays in memory between pictures: most encoded pictures, and the pixels of a full queue.
constexpr std::size_t kWarmEncodedBytes = std::size_t{4} << 20;
constexpr std::size_t kWarmPixelBytes = std::size_t{64} << 20;

absl::Status NoArena(const char* what) {
  return absl::ResourceExhaustedError(
      absl::StrCat("memory shared with a decode worker: ", what, ": ", std::strerror(errno)));
}

std::size_t RoundUp(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

absl::StatusOr<std::shared_ptr<SharedArena>> SharedArena::Create() {
  const int descriptor = memfd_create("siglip-pixels", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return NoArena("memfd_create");
  void* memory = MAP_FAILED;
  // Without the seals a worker could shrink it, and the server's next look would be SIGBUS.
  if (ftruncate(descriptor, static_cast<off_t>(kMemoryBytes)) == 0 &&
      fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
    memory = mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  }
  if (memory == MAP_FAILED) {
    const absl::Status status = NoArena("mmap");
    close(descriptor);
    return status;
  }
  // A core dump of the server has no use for the pictures.
  madvise(memory, kMemoryBytes, MADV_DONTDUMP);
  return std::shared_ptr<SharedArena>(new SharedArena(descriptor, static_cast<std::byte*>(memory)));
}

SharedArena::~SharedArena() {
  munmap(memory_, kMemoryBytes);
  close(descriptor_);
}

std::span<std::byte> SharedArena::encoded_area() const { return {memory_, kEncodedAreaBytes}; }

std::byte* SharedArena::pixel_area() const { return memory_ + kEncodedAreaBytes; }

void SharedArena::TrimEncoded(std::size_t encoded_bytes) {
  if (encoded_bytes <= kWarmEncodedBytes) return;
  madvise(memory_ + kWarmEncodedBytes, RoundUp(encoded_bytes, kBlockAlignment) - kWarmEncodedBytes,
          MADV_REMOVE);
}

void SharedArena::GiveBackUnused() {
  madvise(memory_, kEncodedAreaBytes, MADV_REMOVE);
  MutexLock lock(mu_);
  std::size_t offset = 0;
  const auto give_back_until = [&](std::size_t end) {
    if (offset < end) madvise(pixel_area() + offset, end - offset, MADV_REMOVE);
  };
  for (const auto& [begin, block] : blocks_) {
    give_back_until(begin);
    offset = begin + block.bytes;
  }
  give_back_until(kPixelAreaBytes);
}

std::byte* SharedArena::Allocate(std::size_t bytes, Stay stay) {
  const std::size_t limit = kPixelAreaBytes - (stay == Stay::kWaits ? kPassingBytes : 0);
  if (bytes > limit) return nullptr;
  const std::size_t wanted = RoundUp(bytes, kBlockAlignment);
  MutexLock lock(mu_);
  // The lowest gap: what was used last is likely in cache, and its pages are there.
  std::size_t offset = 0;
  for (const auto& [begin, block] : blocks_) {
    if (begin - offset >= wanted) break;
    offset = begin + block.bytes;
  }
  if (offset > limit || limit - offset < wanted) return nullptr;
  blocks_.emplace(offset, Block{.bytes = wanted});
  ++num_reserved_;
  return pixel_area() + offset;
}

void SharedArena::Free(std::byte* memory) {
  const auto offset = static_cast<std::size_t>(memory - pixel_area());
  MutexLock lock(mu_);
  const auto block = blocks_.find(offset);
  SIGLIP_CHECK(block != blocks_.end());
  if (block->second.reserved) --num_reserved_;
  if (offset + block->second.bytes > kWarmPixelBytes) {
    madvise(memory, block->second.bytes, MADV_REMOVE);
  }
  blocks_.erase(block);
}

SharedArena::Blocks::const_iterator SharedArena::BlockAt(std::size_t offset) const {
  auto block = blocks_.upper_bound(offset);
  if (block == blocks_.begin()) return blocks_.end();
  --block;
  return offset < block->first + block->second.bytes ? block : blocks_.end();
}

std::optional<std::size_t> SharedArena::OffsetOf(const std::byte* begin, std::size_t bytes) const {
  const auto area = reinterpret_cast<std::uintptr_t>(pixel_area());
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  if (address < area || address - area >= kPixelAreaBytes) return std::nullopt;
  const std::size_t offset = address - area;
  MutexLock lock(mu_);
  const auto block = BlockAt(offset);
  if (block == blocks_.end() || bytes > block->first + block->second.bytes - offset) {
    return std::nullopt;
  }
  return offset;
}

int SharedArena::num_reserved() const {
  MutexLock lock(mu_);
  return num_reserved_;
}

void SharedArena::MarkWritten(const std::byte* begin) {
  MutexLock lock(mu_);
  const auto found = BlockAt(static_cast<std::size_t>(begin - pixel_area()));
  if (found == blocks_.end() || !found->second.reserved) return;
  blocks_[found->first].reserved = false;
  --num_reserved_;
}

}  // namespace siglip
