#pragma once

// An approximate index of rows: a hierarchical navigable small-world graph (Malkov and Yashunin,
// 2016) over rows that stay where they are. It is built and walked by hnswlib; it holds the links
// and each row's length, no copy of the rows.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/thread_pool.h"

namespace siglip {

// A matrix in memory, in parts that lie anywhere: mapped files. Borrows them.
struct StoredRows {
  struct Part {
    const std::byte* rows = nullptr;  // [n,width] float32, or the bits of binary16; 2-byte aligned
    bool half = false;
    std::int64_t end = 0;  // one past its last row, counted over all parts
  };
  std::vector<Part> parts;
  std::int64_t width = 0;

  std::int64_t rows() const { return parts.empty() ? 0 : parts.back().end; }
};

struct NeighborGraphOptions {
  // Neighbours of a row in each layer but the lowest, which has twice as many: 4 x (2 links + 1)
  // bytes a row. 16 is the middle of what the authors advise, 12 to 48.
  std::int64_t links = 16;
  // Rows that are looked at, about, to find them; the time of building grows with it.
  std::int64_t ef_construction = 200;
};

// Thread-safe once built or read.
class NeighborGraph {
 public:
  // Rows are numbers of 31 bits in hnswlib.
  static constexpr std::int64_t kMaxRows = 0x7fffffff;
  static constexpr std::int64_t kMinLinks = 2;
  static constexpr std::int64_t kMaxLinks = 256;

  // Links all rows with the threads of `team`; `added` is called by the caller's thread with the
  // number of rows that were added since its last call. With one thread the same rows give the same
  // graph. InvalidArgument: no rows, too many, or a row (whose number is said) that is not finite.
  // ResourceExhausted: no memory. REQUIRES: links and ef_construction are in range.
  static absl::StatusOr<std::unique_ptr<NeighborGraph>> Build(
      StoredRows rows, const NeighborGraphOptions& options, ThreadTeam& team,
      const std::function<void(std::int64_t)>& added);

  // What Serialize gave, for the same rows. Every number is checked before it is used: DataLoss if
  // it is no graph of so many rows.
  static absl::StatusOr<std::unique_ptr<NeighborGraph>> Parse(std::span<const std::byte> bytes,
                                                              StoredRows rows);
  // Little-endian, without padding: links, ef_construction, entry point and number of layers
  // (uint32); each row's point (uint32), rows of the same bytes being one, numbered by their first
  // rows; each point's 1 / |row| (float32); each point's layers above the lowest (uint8); each
  // point's neighbours in the lowest layer: their number and 2 x links points; the same with
  // `links` points for each layer above, by point and then upwards (uint32).
  std::string Serialize() const;

  ~NeighborGraph();
  NeighborGraph(const NeighborGraph&) = delete;
  NeighborGraph& operator=(const NeighborGraph&) = delete;

  // About the `count` rows nearest to `query` [width] by cosine, in ascending order of their
  // numbers; fewer if there are not so many, more if some are copies of others. A larger `count`
  // misses fewer of the nearest.
  // InvalidArgument: a query that is not finite.
  absl::StatusOr<std::vector<std::int64_t>> Candidates(std::span<const float> query,
                                                       std::int64_t count) const;

  std::int64_t links() const;

 private:
  struct State;
  explicit NeighborGraph(std::unique_ptr<State> state);

  const std::unique_ptr<State> state_;
};

}  // namespace siglip
