#include "engine/cpu_engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/encode_checks.h"
#include "kernels/target.h"

namespace siglip {
namespace {

// With so many rows the weights' way through the caches no longer shows; more would only cost
// memory.
constexpr std::int64_t kMinRowsPerPass = 1024;
// A worker without so many rows waits for the others.
constexpr std::int64_t kRowsPerThread = 256;

std::size_t ItemsPerPass(std::int64_t tokens, const EngineOptions& options) {
  const std::int64_t rows = std::max(kMinRowsPerPass, kRowsPerThread * options.num_threads);
  const std::int64_t items = (rows + tokens - 1) / tokens;
  return static_cast<std::size_t>(std::min<std::int64_t>(items, options.max_batch_size));
}

// body(first, count) for passes of at most `per_pass` of `items`.
template <class Body>
void ForEachPass(std::size_t items, std::size_t per_pass, Body&& body) {
  for (std::size_t first = 0; first < items; first += per_pass) {
    body(first, std::min(per_pass, items - first));
  }
}

}  // namespace

GemmFormat FormatOf(Precision precision) {
  switch (precision) {
    case Precision::kInt16:
      return GemmFormat::kInt16;
    case Precision::kInt8:
      return GemmFormat::kInt8;
    case Precision::kBf16:
      return GemmFormat::kBf16;
    default:
      return GemmFormat::kFp32;
  }
}

LoadedTowers LoadTowers(WeightLoader& weights, GemmFormat format) {
  VisionTower vision(weights, format);
  TextTower text(weights, format);
  return {.file = std::nullopt, .vision = std::move(vision), .text = std::move(text)};
}

CpuEngine::CpuEngine(LoadedTowers towers, const TextConfig& text, const EngineOptions& options,
                     std::string precision_choice)
    : num_threads_(options.num_threads),
      precision_(options.precision),
      precision_choice_(std::move(precision_choice)),
      text_config_(text),
      towers_(std::move(towers)),
      max_patches_(towers_.vision.naflex() ? options.max_patches : towers_.vision.tokens()),
      images_per_pass_(ItemsPerPass(max_patches_, options)),
      patch_images_per_pass_(static_cast<std::size_t>(options.max_batch_size)),
      texts_per_pass_(ItemsPerPass(text_config_.max_position_embeddings, options)),
      workspace_(Sizes(), options.num_threads),
      memory_bytes_(static_cast<std::int64_t>(towers_.vision.bytes() + towers_.text.bytes() +
                                              workspace_.bytes())) {}

WorkspaceSizes CpuEngine::Sizes() const {
  const std::int64_t images = static_cast<std::int64_t>(images_per_pass_);
  const std::int64_t most_images =
      towers_.vision.naflex() ? static_cast<std::int64_t>(patch_images_per_pass_) : images;
  return WorkspaceSizes::Max(towers_.vision.Sizes(most_images, images * max_patches_, max_patches_),
                             towers_.text.Sizes(static_cast<std::int64_t>(texts_per_pass_)));
}

absl::Status CpuEngine::EncodeImages(std::span<const float* const> images,
                                     std::span<float* const> embeddings) {
  SIGLIP_RETURN_IF_ERROR(CheckSizes("images", images.size(), embeddings.size()));
  if (towers_.vision.naflex()) {
    return absl::FailedPreconditionError(
        "images: expected patches of a NaFlex checkpoint, got [3,S,S]");
  }
  ForEachPass(images.size(), images_per_pass_, [&](std::size_t first, std::size_t count) {
    TurnHold hold(turns_);
    towers_.vision.Run(workspace_, images.subspan(first, count), embeddings.subspan(first, count));
  });
  return absl::OkStatus();
}

std::size_t CpuEngine::PatchImagesOfPass(std::span<const PatchImage> images) const {
  std::int64_t room = static_cast<std::int64_t>(images_per_pass_) * max_patches_;
  std::size_t count = 0;
  while (count < std::min(images.size(), patch_images_per_pass_) &&
         images[count].tokens() <= room) {
    room -= images[count++].tokens();
  }
  return count;
}

absl::Status CpuEngine::EncodePatches(std::span<const PatchImage> images,
                                      std::span<float* const> embeddings) {
  SIGLIP_RETURN_IF_ERROR(CheckSizes("images", images.size(), embeddings.size()));
  if (!towers_.vision.naflex()) return Engine::EncodePatches(images, embeddings);
  SIGLIP_RETURN_IF_ERROR(CheckPatches(images, max_patches_));
  while (!images.empty()) {
    const std::size_t count = PatchImagesOfPass(images);
    TurnHold hold(turns_);
    towers_.vision.RunPatches(workspace_, images.first(count), embeddings.first(count));
    images = images.subspan(count);
    embeddings = embeddings.subspan(count);
  }
  return absl::OkStatus();
}

absl::Status CpuEngine::EncodeTexts(std::span<const std::int64_t* const> ids,
                                    std::int64_t num_tokens, std::span<float* const> embeddings) {
  SIGLIP_RETURN_IF_ERROR(CheckSizes("texts", ids.size(), embeddings.size()));
  SIGLIP_RETURN_IF_ERROR(CheckTexts(text_config_, ids, num_tokens));
  ForEachPass(ids.size(), texts_per_pass_, [&](std::size_t first, std::size_t count) {
    TurnHold hold(turns_);
    towers_.text.Run(workspace_, ids.subspan(first, count), num_tokens,
                     embeddings.subspan(first, count));
  });
  return absl::OkStatus();
}

std::string CpuEngine::Describe() const {
  return absl::StrCat("cpu, ", KernelTargetName(), ", ", PrecisionName(precision_), ", ",
                      num_threads_, num_threads_ == 1 ? " thread" : " threads");
}

void CpuEngine::SetObserver(StageObserver observer) {
  TurnHold hold(turns_);
  workspace_.observer = std::move(observer);
}

}  // namespace siglip
