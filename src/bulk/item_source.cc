#include "bulk/item_source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "bulk/listing.h"

namespace siglip::bulk {
namespace {

std::uint64_t CountArchives(const NameList& inputs) {
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) count += KindOf(inputs[i]) != InputKind::kImage;
  return count;
}

// Deals inputs out to shards. Next is called once per input, in order.
class Dealer {
 public:
  Dealer(const Shard& shard, std::uint64_t num_archives)
      : shard_(shard), whole_archives_(num_archives >= shard.count) {}

  // True if the shard has (a part of) the next input.
  bool Next(bool archive) {
    if (!archive) return num_files_++ % shard_.count == shard_.index;
    return num_archives_++ % shard_.count == shard_.index || !whole_archives_;
  }
  // True if the shard has image `member` of an archive that Next was true for.
  bool HasMember(std::uint64_t member) const {
    return whole_archives_ || member % shard_.count == shard_.index;
  }

 private:
  const Shard shard_;
  const bool whole_archives_;
  std::uint64_t num_files_ = 0;  // and texts
  std::uint64_t num_archives_ = 0;
};

class JobSource final : public ItemSource {
 public:
  JobSource(const JobItems& items, const Shard& shard, Position start)
      : items_(items), start_(start), dealer_(shard, CountArchives(items.inputs)) {}

  bool Next(Item& item) override {
    while (true) {
      if (archive_ != nullptr) {
        if (NextMember(item)) return true;
        archive_.reset();
        ++input_;
      }
      if (input_ >= items_.inputs.size() + items_.texts.size()) return false;
      const bool text = input_ >= items_.inputs.size();
      const InputKind kind = text ? InputKind::kImage : KindOf(items_.inputs[input_]);
      const bool mine = dealer_.Next(kind != InputKind::kImage);
      if (!mine || input_ < start_.input) {
        ++input_;
        continue;
      }
      if (kind == InputKind::kImage) {
        Single(text, item);
        return true;
      }
      if (!OpenArchive(kind, item)) return true;
    }
  }

 private:
  void Single(bool text, Item& item) {
    const std::string_view name =
        text ? items_.texts[input_ - items_.inputs.size()] : items_.inputs[input_];
    item = {text ? Item::Kind::kText : Item::Kind::kImage,
            std::string(name),
            std::nullopt,
            absl::OkStatus(),
            {++input_, 0}};
  }

  // A pipe would be waited for, and could not be gone back in.
  absl::StatusOr<std::unique_ptr<Archive>> Open(InputKind kind) const {
    SIGLIP_RETURN_IF_ERROR(CheckInputFile(path_));
    return kind == InputKind::kTar ? OpenTar(path_) : OpenParquet(path_, items_.columns);
  }

  // False: the archive itself is the failed item.
  bool OpenArchive(InputKind kind, Item& item) {
    path_ = std::string(items_.inputs[input_]);
    auto archive = Open(kind);
    if (!archive.ok()) {
      item = {Item::Kind::kImage, path_, std::nullopt, archive.status(), {++input_, 0}};
      return false;
    }
    archive_ = *std::move(archive);
    member_ = 0;
    // An archive that failed after its last image is not gone back to: position.input has moved on.
    first_member_ = input_ == start_.input ? start_.member : 0;
    return true;
  }

  // False at the archive's end.
  bool NextMember(Item& item) {
    while (true) {
      const absl::StatusOr<bool> found = archive_->Next();
      if (!found.ok()) {
        item = {Item::Kind::kImage, path_, std::nullopt, found.status(), {++input_, 0}};
        archive_.reset();
        return true;
      }
      if (!*found) return false;
      const std::uint64_t member = member_++;
      if (member < first_member_ || !dealer_.HasMember(member)) continue;
      item = {Item::Kind::kImage,
              absl::StrCat(path_, "/", archive_->name()),
              std::nullopt,
              absl::OkStatus(),
              {input_, member_}};
      absl::StatusOr<std::string> bytes = archive_->Read();
      item.status = bytes.status();
      if (bytes.ok()) item.bytes = *std::move(bytes);
      return true;
    }
  }

  const JobItems& items_;
  const Position start_;
  Dealer dealer_;
  std::size_t input_ = 0;  // of inputs, then texts
  std::string path_;       // of archive_
  std::unique_ptr<Archive> archive_;
  std::uint64_t member_ = 0;  // of archive_: the next image
  std::uint64_t first_member_ = 0;
};

class FileSource final : public ItemSource {
 public:
  explicit FileSource(std::span<const std::string> paths) : paths_(paths) {}

  bool Next(Item& item) override {
    if (next_ >= paths_.size()) return false;
    const std::string& path = paths_[next_++];
    item = {Item::Kind::kImage, path, std::nullopt, absl::OkStatus(), {next_, 0}};
    return true;
  }

 private:
  const std::span<const std::string> paths_;
  std::size_t next_ = 0;
};

}  // namespace

ShardSize SizeOf(const JobItems& items, const Shard& shard) {
  ShardSize size;
  Dealer dealer(shard, CountArchives(items.inputs));
  for (std::size_t i = 0; i < items.inputs.size() + items.texts.size(); ++i) {
    const bool archive = i < items.inputs.size() && KindOf(items.inputs[i]) != InputKind::kImage;
    if (!dealer.Next(archive)) continue;
    ++(archive ? size.archives : size.items);
  }
  return size;
}

std::unique_ptr<ItemSource> OpenItems(const JobItems& items, const Shard& shard, Position start) {
  return std::make_unique<JobSource>(items, shard, start);
}

std::unique_ptr<ItemSource> OpenFiles(std::span<const std::string> paths) {
  return std::make_unique<FileSource>(paths);
}

}  // namespace siglip::bulk
