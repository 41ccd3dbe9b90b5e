#pragma once

// Embedded pictures that can be searched by cosine: the rows of `siglip embed` exactly, or with an
// index of `siglip index` approximately.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "bulk/embedded_rows.h"
#include "eval/neighbor_graph.h"
#include "server/ui.h"

namespace siglip::cli {

struct PictureIndexOptions {
  // Pictures are read below it only; names that are no absolute paths begin there.
  std::string root = ".";
  int num_threads = 0;  // 0 = one per core
  // Rows that an approximate search looks at closely, at the least: more miss less.
  std::int64_t ef = kDefaultEf;

  static constexpr std::int64_t kDefaultEf = 200;
  static constexpr std::int64_t kMaxEf = 100'000;
};

// Thread-safe; searches queue.
class PictureIndex final : public SearchIndex {
 public:
  // `path`: a .npy of `siglip embed`, a folder of them, or an index of `siglip index`.
  static absl::StatusOr<std::unique_ptr<PictureIndex>> Open(const std::string& path,
                                                            const PictureIndexOptions& options);

  // InvalidArgument unless the rows were made by the checkpoint in `folder`: embeddings of another
  // one mean something else.
  absl::Status CheckCheckpoint(const std::string& folder) const;

  // A warning for rows whose pictures became pixels otherwise than the model's do: their numbers
  // differ a little.
  void WarnOfOtherPixels(const bulk::PixelSettings& model) const;

  std::int64_t rows() const override { return parts_.rows->rows(); }
  std::int64_t width() const override { return parts_.rows->width(); }
  std::string_view name(std::int64_t row) const override { return parts_.rows->name(row); }
  absl::StatusOr<std::vector<Hit>> Search(std::span<const float> query,
                                          std::int64_t count) const override;
  // What Search finds for each of queries [n,width()]; an exact search reads the rows once for all.
  absl::StatusOr<std::vector<std::vector<Hit>>> SearchEach(std::span<const float> queries,
                                                           std::int64_t count) const;
  absl::StatusOr<std::string> ReadPicture(std::int64_t row) const override;

 private:
  struct Parts {
    std::string path;
    std::string root;  // canonical
    std::unique_ptr<bulk::EmbeddedRows> rows;
    std::unique_ptr<NeighborGraph> graph;  // of `rows`; null: exact
  };
  PictureIndex(Parts parts, int num_threads, std::int64_t ef)
      : parts_(std::move(parts)), ef_(ef), team_(num_threads) {}

  absl::StatusOr<std::vector<Hit>> SearchCandidates(std::span<const float> query,
                                                    std::int64_t count) const;

  const Parts parts_;
  const std::int64_t ef_;
  mutable Mutex mu_;
  mutable ThreadTeam team_ SIGLIP_GUARDED_BY(mu_);
};

}  // namespace siglip::cli
