#pragma once

// What every engine refuses before it runs anything.

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/config.h"
#include "engine/patch_image.h"

namespace siglip {

inline absl::Status CheckSizes(const char* what, std::size_t inputs, std::size_t outputs) {
  if (inputs == outputs) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("expected as many embeddings as ", what, " (", inputs, "), got ", outputs));
}

inline absl::Status CheckPatches(std::span<const PatchImage> images, std::int64_t max_patches) {
  for (std::size_t item = 0; item < images.size(); ++item) {
    const auto [patches, rows, columns] = images[item];
    // By division: the product of what a client sends may not fit.
    if (rows >= 1 && columns >= 1 && rows <= max_patches / columns) continue;
    return absl::InvalidArgumentError(absl::StrCat("image ", item, ": expected 1 to ", max_patches,
                                                   " patches, got ", rows, " rows of ", columns));
  }
  return absl::OkStatus();
}

inline absl::Status CheckTexts(const TextConfig& config, std::span<const std::int64_t* const> ids,
                               std::int64_t num_tokens) {
  if (num_tokens < 1 || num_tokens > config.max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat(
        "texts: expected 1 to ", config.max_position_embeddings, " tokens, got ", num_tokens));
  }
  for (std::size_t item = 0; item < ids.size(); ++item) {
    for (std::int64_t t = 0; t < num_tokens; ++t) {
      const std::int64_t id = ids[item][t];
      if (id >= 0 && id < config.vocab_size) continue;
      return absl::InvalidArgumentError(absl::StrCat("text ", item, ", position ", t,
                                                     ": expected a token id from 0 to ",
                                                     config.vocab_size - 1, ", got ", id));
    }
  }
  return absl::OkStatus();
}

}  // namespace siglip
