#pragma once

// Many items -> embeddings, in order: one thread lists items and reads archives, a pool reads
// files, decodes, resizes and tokenizes ahead of the engine, which gets full batches. Memory is
// bounded by the window, whatever the number of items.

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bulk/item_source.h"
#include "siglip/siglip.h"

namespace siglip::cli {

struct PipelineOptions {
  int preprocess_threads = 0;  // 0 = one per core
  int batch_size = 8;          // items per engine call
};

// One item's outcome. `embedding` [D] is valid during the call only, and only if status is ok. An
// error that is returned ends the job.
using OnItem = std::function<absl::Status(const bulk::Item& item, const absl::Status& status,
                                          std::span<const float> embedding)>;

// Calls `on_item` once per item of `source`, in order, on the calling thread. A bad item fails
// alone; the returned status is an engine's failure or one of `on_item`, after which nothing more
// is reported. `source` is used by another thread during the call.
absl::Status EmbedItems(Model& model, bulk::ItemSource& source, const PipelineOptions& options,
                        const OnItem& on_item);

// The same for a plain list of files or of texts; `index` is that in the list.
using OnEmbedding = std::function<void(std::size_t index, const absl::Status& status,
                                       std::span<const float> embedding)>;
absl::Status EmbedImageFiles(Model& model, std::span<const std::string> paths,
                             const PipelineOptions& options, const OnEmbedding& on_embedding);
absl::Status EmbedTexts(Model& model, std::span<const std::string> texts, int batch_size,
                        const OnEmbedding& on_embedding);

}  // namespace siglip::cli
