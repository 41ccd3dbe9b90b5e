#pragma once

// Lists of images and texts at once: images are read, decoded and resized on a pool ahead of the
// engine, which gets full batches. Memory beside the result does not grow with the list. A bad item
// fails alone: its status says why, and its row is left as it was.
//
// Each function fills statuses[i], whose size is that of the list, and returns an engine's failure
// only, after which nothing is known of the rows. Thread-safe; calls may share a pool.

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "base/thread_pool.h"
#include "siglip/siglip.h"

namespace siglip {

// Borrowed for the call.
struct ImageSource {
  enum class Kind { kFileBytes, kPath, kRgb };
  Kind kind = Kind::kFileBytes;
  std::string_view data;    // what `kind` says; kRgb: [height,width,3]
  std::int64_t width = 0;   // kRgb only
  std::int64_t height = 0;  // kRgb only
};

// pixels [N, model.info().pixel_values()] float32, as Model::Preprocess writes them.
// grids: that of each good image.
void PreprocessMany(const Model& model, ThreadPool& pool, std::span<const ImageSource> images,
                    float* pixels, std::span<PatchGrid> grids, std::span<absl::Status> statuses);

// rows [N,D] float32, not normalised.
absl::Status EmbedManyImages(Model& model, ThreadPool& pool, std::span<const ImageSource> images,
                             float* rows, std::span<absl::Status> statuses);

// rows [N,D] float32, not normalised. Throws std::bad_alloc.
absl::Status EmbedManyTexts(Model& model, std::span<const std::string_view> texts, float* rows,
                            std::span<absl::Status> statuses);

}  // namespace siglip
