#pragma once

// Memory that the server and one decode worker have in common: an area for the encoded picture,
// which the worker maps read-only, and one for pixels, which the encoder reads where the worker
// wrote them. It outlives the worker: a new one is given the same memory. Nothing in it is ever a
// size, an offset or a pointer.

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"

namespace siglip {

// Thread-safe; the encoded area belongs to whoever has the worker.
class SharedArena {
 public:
  // A memfd sealed against any change of its size, mapped. ResourceExhausted if there is none.
  static absl::StatusOr<std::shared_ptr<SharedArena>> Create();
  ~SharedArena();
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;

  int descriptor() const { return descriptor_; }

  std::span<std::byte> encoded_area() const;
  // Gives back the memory of an encoded picture, all but the beginning, which is kept warm.
  void TrimEncoded(std::size_t encoded_bytes);

  // Gives back the memory of all that is in no block, the whole encoded area too: a worker may have
  // touched any of it. REQUIRES: nobody has the worker.
  void GiveBackUnused();

  // How long pixels stay: until they are copied at once, or as long as the encoder lets them wait.
  enum class Stay { kPasses, kWaits };
  // A place for `bytes` of pixels, at a page's beginning; null if none is free. Those that wait
  // leave kPassingBytes to those that pass.
  std::byte* Allocate(std::size_t bytes, Stay stay = Stay::kPasses);
  void Free(std::byte* block);
  // Where in the pixel area it begins, if all of it is in one block.
  std::optional<std::size_t> OffsetOf(const std::byte* begin, std::size_t bytes) const;

  // Blocks that nobody has written to yet: work that is coming.
  int num_reserved() const;
  void MarkWritten(const std::byte* begin);

 private:
  struct Block {
    std::size_t bytes = 0;  // a multiple of the page size
    bool reserved = true;
  };
  using Blocks = std::map<std::size_t, Block>;  // by offset

  SharedArena(int descriptor, std::byte* memory) : descriptor_(descriptor), memory_(memory) {}
  std::byte* pixel_area() const;
  Blocks::const_iterator BlockAt(std::size_t offset) const SIGLIP_REQUIRES(mu_);

  const int descriptor_;
  std::byte* const memory_;
  mutable Mutex mu_;
  Blocks blocks_ SIGLIP_GUARDED_BY(mu_);
  int num_reserved_ SIGLIP_GUARDED_BY(mu_) = 0;
};

}  // namespace siglip
