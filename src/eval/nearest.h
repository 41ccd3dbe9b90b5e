#pragma once

// The k nearest rows by cosine distance, exactly: candidates come from a float32 matrix product
// with a margin that provably holds all true neighbours, and are then measured again in float64.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/thread_pool.h"

namespace siglip {

// A matrix [rows,width] that need not fit memory. Called by one thread at a time.
class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual std::int64_t rows() const = 0;
  virtual std::int64_t width() const = 0;
  // What an error calls a row: "training row 7".
  virtual std::string NameOf(std::int64_t row) const;
  // Rows [first, first + count) -> out [count,width].
  virtual absl::Status Read(std::int64_t first, std::int64_t count, float* out) const = 0;
  // Where these rows lie as they are, for as long as the source; null if they do not, and have to
  // be read. Other threads then read there.
  virtual const float* Lend(std::int64_t /*first*/, std::int64_t /*count*/) const {
    return nullptr;
  }
  // The same of rows that lie as the bits of binary16. Reading these does not fail.
  virtual const std::uint16_t* LendHalves(std::int64_t /*first*/, std::int64_t /*count*/) const {
    return nullptr;
  }
};

// Borrows `values` [rows,width] row-major.
class MemoryRows final : public RowSource {
 public:
  MemoryRows(std::span<const float> values, std::int64_t width) : values_(values), width_(width) {}
  std::int64_t rows() const override { return static_cast<std::int64_t>(values_.size()) / width_; }
  std::int64_t width() const override { return width_; }
  absl::Status Read(std::int64_t first, std::int64_t count, float* out) const override;
  const float* Lend(std::int64_t first, std::int64_t /*count*/) const override {
    return values_.data() + first * width_;
  }

 private:
  const std::span<const float> values_;
  const std::int64_t width_;
};

struct Neighbor {
  std::int64_t row = 0;
  double distance = 0;  // 1 - cosine in float64, clipped to 0..2; 1 if either vector is zero

  friend bool operator==(const Neighbor&, const Neighbor&) = default;
};

struct NearestOptions {
  std::int64_t k = 10;
  // Training rows that are in memory at once. Their similarities to a block of queries are
  // 1024 x 4096 floats = 16 MB, about a third-level cache.
  std::int64_t train_block = 1024;
  // Queries per pass over the training rows.
  std::int64_t query_block = 4096;
};

struct NearestRows {
  std::int64_t k = 0;               // min(options.k, rows of the training set)
  std::vector<Neighbor> neighbors;  // [queries,k], by distance, then by row
  std::int64_t num_rescored = 0;    // distances that were measured in float64

  std::span<const Neighbor> Of(std::int64_t query) const {
    return std::span(neighbors).subspan(static_cast<std::size_t>(query * k),
                                        static_cast<std::size_t>(k));
  }
};

// Equal distances go to the lowest row. A query that equals a training row bit for bit has distance
// exactly 0 to it. queries [n, train.width()]. Memory, beside the queries: a block of training rows
// and a block of similarities.
// InvalidArgument: no training rows, or a row (of which side and number is said) that is not
// finite.
absl::StatusOr<NearestRows> NearestByCosine(ThreadTeam& team, const RowSource& train,
                                            std::span<const float> queries,
                                            const NearestOptions& options);

// Bound of |float32 similarity - true cosine| for rows of `width` elements: see nearest.cc.
double CosineErrorBound(std::int64_t width);

}  // namespace siglip
