#include "cli/picture_index.h"

#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "bulk/fingerprint.h"
#include "eval/nearest.h"

namespace siglip::cli {
namespace {

namespace fs = std::filesystem;

// A picture that is shown; larger ones are originals of cameras and scanners.
constexpr std::uint64_t kMaxPictureBytes = 32u << 20;

class EmbeddedRowSource final : public RowSource {
 public:
  explicit EmbeddedRowSource(const bulk::EmbeddedRows& rows) : rows_(rows) {}
  std::int64_t rows() const override { return rows_.rows(); }
  std::int64_t width() const override { return rows_.width(); }
  absl::Status Read(std::int64_t first, std::int64_t count, float* out) const override {
    rows_.Read(first, count, out);
    return absl::OkStatus();
  }

 private:
  const bulk::EmbeddedRows& rows_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PictureIndex>> PictureIndex::Open(const std::string& path,
                                                                 const std::string& root,
                                                                 int num_threads) {
  SIGLIP_ASSIGN_OR_RETURN(std::unique_ptr<bulk::EmbeddedRows> rows, bulk::EmbeddedRows::Open(path));
  std::error_code error;
  const fs::path canonical = fs::canonical(root, error);
  if (error || !fs::is_directory(canonical, error)) {
    return absl::NotFoundError(absl::StrCat(root, ": expected a folder of pictures"));
  }
  if (num_threads == 0)
    num_threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return std::unique_ptr<PictureIndex>(
      new PictureIndex(path, canonical.string(), std::move(rows), num_threads));
}

absl::Status PictureIndex::CheckCheckpoint(const std::string& folder) const {
  SIGLIP_ASSIGN_OR_RETURN(const std::string expected, bulk::CheckpointFingerprint(folder));
  if (rows_->checkpoint() == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ": expected rows of the checkpoint ", folder, " (", expected,
                   "), got those of another one (", rows_->checkpoint(), ")"));
}

absl::StatusOr<std::vector<SearchIndex::Hit>> PictureIndex::Search(std::span<const float> query,
                                                                   std::int64_t count) const {
  const EmbeddedRowSource source(*rows_);
  NearestOptions options;
  options.k = count;
  absl::StatusOr<NearestRows> nearest = absl::UnknownError("not run");
  {
    MutexLock lock(mu_);
    nearest = NearestByCosine(team_, source, query, options);
  }
  SIGLIP_RETURN_IF_ERROR(nearest.status());
  std::vector<Hit> hits;
  for (const Neighbor& neighbor : nearest->Of(0))
    hits.push_back({neighbor.row, 1 - neighbor.distance});
  return hits;
}

absl::StatusOr<std::string> PictureIndex::ReadPicture(std::int64_t row) const {
  const std::string name(rows_->name(row));
  const fs::path path = fs::path(root_) / name;  // an absolute name stays itself
  std::error_code error;
  const fs::path canonical = fs::canonical(path, error);
  if (error) {
    return absl::NotFoundError(absl::StrCat("picture ", row, ": no such file below --search-root"));
  }
  // With its links followed, so that no link leads out either.
  const std::string below = root_ == "/" ? root_ : root_ + "/";
  if (!absl::StartsWith(canonical.string(), below)) {
    return absl::NotFoundError(
        absl::StrCat("picture ", row, ": its file is not below --search-root"));
  }
  return ReadFile(canonical.string(), kMaxPictureBytes);
}

}  // namespace siglip::cli
