#pragma once

// Embedded pictures that can be searched: the rows of `siglip embed`, exactly, by cosine.

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
#include "server/ui.h"

namespace siglip::cli {

// Thread-safe; searches queue.
class PictureIndex final : public SearchIndex {
 public:
  // `path`: a .npy of `siglip embed`, or a folder of them. `root`: pictures are read below it only;
  // names that are no absolute paths begin there. `num_threads`: 0 = one per core.
  static absl::StatusOr<std::unique_ptr<PictureIndex>> Open(const std::string& path,
                                                            const std::string& root,
                                                            int num_threads);

  // InvalidArgument unless the rows were made by the checkpoint in `folder`: embeddings of another
  // one mean something else.
  absl::Status CheckCheckpoint(const std::string& folder) const;

  std::int64_t rows() const override { return rows_->rows(); }
  std::int64_t width() const override { return rows_->width(); }
  std::string_view name(std::int64_t row) const override { return rows_->name(row); }
  absl::StatusOr<std::vector<Hit>> Search(std::span<const float> query,
                                          std::int64_t count) const override;
  absl::StatusOr<std::string> ReadPicture(std::int64_t row) const override;

 private:
  PictureIndex(std::string path, std::string root, std::unique_ptr<bulk::EmbeddedRows> rows,
               int num_threads)
      : path_(std::move(path)),
        root_(std::move(root)),
        rows_(std::move(rows)),
        team_(num_threads) {}

  const std::string path_;
  const std::string root_;  // canonical
  const std::unique_ptr<bulk::EmbeddedRows> rows_;
  mutable Mutex mu_;
  mutable ThreadTeam team_ SIGLIP_GUARDED_BY(mu_);
};

}  // namespace siglip::cli
