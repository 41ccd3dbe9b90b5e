#pragma once

// Many image files -> embeddings, in order: reading, decoding and resizing run on a pool ahead of
// the engine, which always gets full batches. Memory is bounded by the window, whatever the number
// of files.

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "siglip/siglip.h"

namespace siglip::cli {

struct PipelineOptions {
  int preprocess_threads = 0;  // 0 = one per core
  int batch_size = 8;          // images per engine call
};

// One file's outcome. `embedding` [D] is valid during the call only, and only if status is ok.
using OnEmbedding = std::function<void(std::size_t index, const absl::Status& status,
                                       std::span<const float> embedding)>;

// Calls `on_embedding` once per file, in the order of `paths`, on the calling thread. A bad file
// fails alone; the returned status is an engine's failure, after which nothing more is reported.
absl::Status EmbedImageFiles(Model& model, std::span<const std::string> paths,
                             const PipelineOptions& options, const OnEmbedding& on_embedding);

// The same for texts, in batches on the calling thread.
absl::Status EmbedTexts(Model& model, std::span<const std::string> texts, int batch_size,
                        const OnEmbedding& on_embedding);

}  // namespace siglip::cli
