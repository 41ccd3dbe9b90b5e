#pragma once

// A job's items, one after the other: image files, images in archives, texts. Any position can be
// gone back to, and N machines can share a job without talking to each other.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "bulk/archive.h"
#include "bulk/names.h"

namespace siglip::bulk {

// Where an item stands in its job: the input, and for an archive the image in it.
struct Position {
  std::uint64_t input = 0;
  std::uint64_t member = 0;
};

struct Item {
  enum class Kind { kImage, kText };
  Kind kind = Kind::kImage;
  std::string name;  // a file's path, archive path + '/' + name in it, or the text itself
  // An archive member's bytes. Without: the file `name` holds them. REQUIRES nothing of texts.
  std::optional<std::string> bytes;
  absl::Status status;  // not ok: the item failed before it could be read
  Position next;        // the position after this item
};

// Confined to one thread.
class ItemSource {
 public:
  virtual ~ItemSource() = default;
  // False at the end. What goes wrong is an item with a status.
  virtual bool Next(Item& item) = 0;
};

// All that a job embeds: images in the order of `inputs` (files and archives), then `texts`.
struct JobItems {
  NameList inputs;
  NameList texts;
  ParquetColumns columns;
};

// Share `index` of `count`. Files and texts are dealt out in turn; archives too if there are at
// least `count` of them, else the images in each archive are.
struct Shard {
  std::uint32_t index = 0;
  std::uint32_t count = 1;
};

// How many items of a shard are known without opening archives, and how many archives there are.
struct ShardSize {
  std::uint64_t items = 0;
  std::uint64_t archives = 0;
};
ShardSize SizeOf(const JobItems& items, const Shard& shard);

// The shard's items from `start` on. `items` outlives the source.
std::unique_ptr<ItemSource> OpenItems(const JobItems& items, const Shard& shard, Position start);

// Image files by path; `paths` outlives the source.
std::unique_ptr<ItemSource> OpenFiles(std::span<const std::string> paths);

}  // namespace siglip::bulk
