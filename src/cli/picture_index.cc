#include "cli/picture_index.h"

#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "checkpoint/fingerprint.h"
#include "cli/index_file.h"
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
  std::string NameOf(std::int64_t row) const override {
    return absl::StrCat("embedding of ", std::string(rows_.name(row)), " (row ", row, ")");
  }
  absl::Status Read(std::int64_t first, std::int64_t count, float* out) const override {
    rows_.Read(first, count, out);
    return absl::OkStatus();
  }
  const float* Lend(std::int64_t first, std::int64_t count) const override {
    return rows_.Floats(first, count);
  }
  const std::uint16_t* LendHalves(std::int64_t first, std::int64_t count) const override {
    return rows_.Halves(first, count);
  }

 private:
  const bulk::EmbeddedRows& rows_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PictureIndex>> PictureIndex::Open(
    const std::string& path, const PictureIndexOptions& options) {
  Parts parts;
  parts.path = path;
  if (IsIndexFile(path)) {
    SIGLIP_ASSIGN_OR_RETURN(OpenedIndex index, OpenIndexFile(path));
    parts.rows = std::move(index.rows);
    parts.graph = std::move(index.graph);
  } else {
    SIGLIP_ASSIGN_OR_RETURN(parts.rows, bulk::EmbeddedRows::Open(path));
  }
  std::error_code error;
  const fs::path root = fs::canonical(options.root, error);
  if (error || !fs::is_directory(root, error)) {
    return absl::NotFoundError(absl::StrCat(options.root, ": expected a folder of pictures"));
  }
  parts.root = root.string();
  const int threads = options.num_threads > 0
                          ? options.num_threads
                          : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return std::unique_ptr<PictureIndex>(new PictureIndex(std::move(parts), threads, options.ef));
}

absl::Status PictureIndex::CheckCheckpoint(const std::string& folder) const {
  SIGLIP_ASSIGN_OR_RETURN(const std::string expected, CheckpointFingerprint(folder));
  const std::string& got = parts_.rows->checkpoint();
  if (got == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(parts_.path, ": expected rows of the checkpoint ",
                                                 folder, " (", expected,
                                                 "), got those of another one (", got, ")"));
}

void PictureIndex::WarnOfOtherPixels(const bulk::PixelSettings& model) const {
  for (const bulk::PixelSettings& rows : parts_.rows->pixels()) {
    if (rows.pillow == 0 || rows == model) continue;
    SIGLIP_LOG_WARN(
        "rows_of_other_pixels file={} rows_pillow={} model_pillow={} rows_max_patches={} "
        "model_max_patches={}",
        parts_.path, rows.pillow, model.pillow, rows.max_patches, model.max_patches);
  }
}

absl::StatusOr<std::vector<SearchIndex::Hit>> PictureIndex::Search(std::span<const float> query,
                                                                   std::int64_t count) const {
  SIGLIP_ASSIGN_OR_RETURN(std::vector<std::vector<Hit>> each, SearchEach(query, count));
  return std::move(each.front());
}

absl::StatusOr<std::vector<std::vector<SearchIndex::Hit>>> PictureIndex::SearchEach(
    std::span<const float> queries, std::int64_t count) const {
  const auto size = static_cast<std::size_t>(width());
  std::vector<std::vector<Hit>> each;
  if (parts_.graph != nullptr) {
    for (std::size_t begin = 0; begin < queries.size(); begin += size) {
      SIGLIP_ASSIGN_OR_RETURN(each.emplace_back(),
                              SearchCandidates(queries.subspan(begin, size), count));
    }
    return each;
  }
  NearestOptions options;
  options.k = count;
  MutexLock lock(mu_);
  SIGLIP_ASSIGN_OR_RETURN(
      const NearestRows nearest,
      NearestByCosine(team_, EmbeddedRowSource(*parts_.rows), queries, options));
  for (std::size_t query = 0; query < queries.size() / size; ++query) {
    std::vector<Hit>& hits = each.emplace_back();
    for (const Neighbor& neighbor : nearest.Of(static_cast<std::int64_t>(query))) {
      hits.push_back({neighbor.row, 1 - neighbor.distance});
    }
  }
  return each;
}

// The graph's candidates, measured and ordered as an exact search does it.
absl::StatusOr<std::vector<SearchIndex::Hit>> PictureIndex::SearchCandidates(
    std::span<const float> query, std::int64_t count) const {
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::int64_t> candidates,
                          parts_.graph->Candidates(query, std::max(ef_, count)));
  const auto width = static_cast<std::size_t>(parts_.rows->width());
  std::vector<float> numbers(candidates.size() * width);
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    parts_.rows->Read(candidates[i], 1, numbers.data() + i * width);
  }
  NearestOptions options;
  options.k = count;
  MutexLock lock(mu_);
  SIGLIP_ASSIGN_OR_RETURN(
      const NearestRows nearest,
      NearestByCosine(team_, MemoryRows(numbers, parts_.rows->width()), query, options));
  std::vector<Hit> hits;
  for (const Neighbor& neighbor : nearest.Of(0)) {
    hits.push_back({candidates[static_cast<std::size_t>(neighbor.row)], 1 - neighbor.distance});
  }
  return hits;
}

absl::StatusOr<std::string> PictureIndex::ReadPicture(std::int64_t row) const {
  const std::string name(parts_.rows->name(row));
  const fs::path path = fs::path(parts_.root) / name;  // an absolute name stays itself
  std::error_code error;
  const fs::path canonical = fs::canonical(path, error);
  if (error) {
    return absl::NotFoundError(absl::StrCat("picture ", row, ": no such file below --search-root"));
  }
  // With its links followed, so that no link leads out either.
  const std::string below = parts_.root == "/" ? parts_.root : parts_.root + "/";
  if (!absl::StartsWith(canonical.string(), below)) {
    return absl::NotFoundError(
        absl::StrCat("picture ", row, ": its file is not below --search-root"));
  }
  return ReadFile(canonical.string(), kMaxPictureBytes);
}

}  // namespace siglip::cli
