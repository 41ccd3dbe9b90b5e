#pragma once

// The accuracy table: embeddings of an ImageNet folder -> rows of top-1 and top-5.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/thread_pool.h"
#include "cli/embedder.h"
#include "cli/embedding_cache.h"
#include "eval/confusion.h"
#include "eval/imagenet_folder.h"
#include "eval/knn_classifier.h"

namespace siglip::cli {

// The images of one split that could be embedded.
struct EmbeddedImages {
  std::vector<LabelledImage> images;
  std::vector<float> rows;  // [images,D]
};

struct FailedItem {
  std::string name;
  std::string error;
};

// One line of the table.
struct ValidationRow {
  std::string name;           // "10-shot", "Zero-shot", ...
  std::string text_template;  // empty: none
  std::int64_t training_rows = 0;
  std::int64_t k = 0;  // neighbours that vote
  std::vector<KnnVotes::Result>
      predictions;  // per image of the valid split; classes as in the folder
  std::int64_t hits1 = 0;
  std::int64_t hits5 = 0;
  Confusion confusion;  // of top-1

  double top1() const { return Share(hits1); }
  double top5() const { return Share(hits5); }

 private:
  double Share(std::int64_t hits) const {
    return predictions.empty()
               ? 0
               : static_cast<double>(hits) / static_cast<double>(predictions.size());
  }
};

struct Validation {
  std::string embedder;  // what embedded
  ImagenetFolder folder;
  EmbeddedImages train;
  EmbeddedImages valid;
  std::vector<std::vector<float>> text_rows;  // per template, [classes,D]
  std::vector<float> unpadded_text_rows;      // of the first template; empty: not asked
  std::vector<std::string> templates;
  std::vector<ValidationRow> rows;
  std::vector<FailedItem> failures;
  std::vector<std::string> remarks;
};

struct ValidationOptions {
  std::vector<std::string> templates;
  bool unpadded = false;
  int k = 10;
  int threads = 0;  // of the nearest-neighbour search; 0 = one per core
  bool show_progress = false;
};

// Embeds what `cache` (may be null) does not hold, then classifies. A file that fails is in
// `failures`. Errors: texts that fail, no image left in a split, an embedder that broke.
absl::StatusOr<Validation> Validate(Embedder& embedder, EmbeddingCache* cache,
                                    ImagenetFolder folder, const ValidationOptions& options);

}  // namespace siglip::cli
