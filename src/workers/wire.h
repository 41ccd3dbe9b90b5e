#pragma once

// What server and decode worker say to each other: one Job down, one Reply up, each one message of
// a SOCK_SEQPACKET pair between two processes of the same program. The bytes of the picture and its
// pixels lie in the memory that both have mapped (shared_arena.h). The kernel copies messages, so a
// Reply cannot change while it is checked. Private to src/workers.

#include "image/preprocess.h"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace siglip {

// Where a worker finds what it was given.
inline constexpr int kWorkerSocket = 3;
inline constexpr int kWorkerMemory = 4;

// The shared memory's first part holds the encoded picture, the second one pixels. Both are
// reserved, not used: pages come as they are written.
inline constexpr std::size_t kEncodedAreaBytes = std::size_t{1} << 30;
inline constexpr std::size_t kPixelAreaBytes = std::size_t{1} << 30;
// Of the pixel area: for pixels that are copied elsewhere as soon as they are there.
inline constexpr std::size_t kPassingBytes = kPixelAreaBytes / 8;

enum class JobKind : std::uint32_t { kReadHeader = 1, kPreprocess = 2, kDecode = 3 };

struct Job {
  JobKind kind = JobKind::kReadHeader;
  PreprocessOptions options;
  std::uint64_t encoded_bytes = 0;  // from the beginning of the encoded area
  std::uint64_t pixels_offset = 0;  // kPreprocess, kDecode: in the pixel area, a multiple of 4
  std::int64_t width = 0;           // kDecode: the picture's, by its head
  std::int64_t height = 0;
};
static_assert(std::is_trivially_copyable_v<Job>);

enum class ReplyCode : std::uint32_t { kOk, kInvalidArgument, kResourceExhausted, kInternal };

// siglip.image_refused, by number; kNone where the error has none.
enum class RefusedReason : std::uint32_t {
  kNone,
  kEmpty,
  kUnknownFormat,
  kTooLarge,
  kDamaged,
  kNoMemory
};
struct RefusedReasonName {
  RefusedReason reason;
  const char* name;
};
// Whatever is not here counts as the first.
inline constexpr RefusedReasonName kRefusedReasonNames[] = {
    {RefusedReason::kDamaged, "damaged"},
    {RefusedReason::kEmpty, "empty"},
    {RefusedReason::kUnknownFormat, "unknown_format"},
    {RefusedReason::kTooLarge, "too_large"},
    {RefusedReason::kNoMemory, "no_memory"},
};

struct Reply {
  ReplyCode code = ReplyCode::kOk;
  RefusedReason reason = RefusedReason::kNone;
  std::uint32_t retiring = 0;  // 1: the worker takes no more jobs
  StageTimes times;
  std::int64_t width = 0;  // of the picture, or of its pixels
  std::int64_t height = 0;
  std::int64_t working_set_bytes = 0;
  std::uint32_t message_bytes = 0;
  char message[1024] = {};  // of an error; cut
};
static_assert(std::is_trivially_copyable_v<Reply>);

}  // namespace siglip
