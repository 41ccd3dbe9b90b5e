#include "api/many.h"

#include <algorithm>
#include <cstddef>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/absl_view.h"
#include "base/aligned_buffer.h"
#include "base/file_map.h"
#include "base/mutex.h"
#include "base/no_memory.h"
#include "base/status_macros.h"

namespace siglip {
namespace {

// Items of an engine call, as of `siglip embed`: enough to share a pass over the weights.
constexpr std::size_t kImagesPerCall = 8;
constexpr std::size_t kTextsPerCall = 32;

absl::Status CheckRgb(const ImageSource& image) {
  const auto wanted = static_cast<unsigned __int128>(std::max<std::int64_t>(image.width, 0)) *
                      static_cast<std::uint64_t>(std::max<std::int64_t>(image.height, 0)) * 3;
  if (wanted == image.data.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("RGB: expected 3 bytes for each of ", image.width,
                                                 "x", image.height, " pixels, got ",
                                                 image.data.size(), " bytes"));
}

// A path that names no file of bytes is the item's fault, and no state of ours.
absl::StatusOr<std::string> ReadImage(std::string_view path) {
  if (path.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("path: expected no NUL byte in it, got '", AbslView(path), "'"));
  }
  absl::StatusOr<std::string> bytes = ReadFile(std::string(path), kMaxImageBytes);
  if (absl::IsFailedPrecondition(bytes.status())) {
    return absl::InvalidArgumentError(bytes.status().message());
  }
  return bytes;
}

// May throw std::bad_alloc.
absl::StatusOr<PatchGrid> PreprocessOne(const Model& model, const ImageSource& image,
                                        float* pixels) {
  switch (image.kind) {
    case ImageSource::Kind::kFileBytes:
      return model.Preprocess(image.data, pixels);
    case ImageSource::Kind::kRgb:
      SIGLIP_RETURN_IF_ERROR(CheckRgb(image));
      return model.PreprocessRgb(reinterpret_cast<const std::uint8_t*>(image.data.data()),
                                 image.width, image.height, pixels);
    case ImageSource::Kind::kPath: {
      SIGLIP_ASSIGN_OR_RETURN(const std::string bytes, ReadImage(image.data));
      return model.Preprocess(bytes, pixels);
    }
  }
  return absl::InvalidArgumentError("image: unknown kind");
}

// The same on a thread that no exception may leave.
absl::StatusOr<PatchGrid> PreprocessOnPool(const Model& model, const ImageSource& image,
                                           float* pixels) {
  try {
    return PreprocessOne(model, image, pixels);
  } catch (const std::bad_alloc&) {
    return NoMemory("image");
  }
}

// Images that are being preprocessed on the pool: arguments as of PreprocessMany. The destructor
// waits too.
class Preparation {
 public:
  Preparation(const Model& model, ThreadPool& pool, std::span<const ImageSource> images,
              float* pixels, std::span<PatchGrid> grids, std::span<absl::Status> statuses)
      : pending_(images.size()) {
    for (std::size_t i = 0; i < images.size(); ++i) {
      const ImageSource& image = images[i];
      absl::Status& status = statuses[i];
      PatchGrid& grid = grids[i];
      float* const image_pixels = pixels + i * model.info().pixel_values();
      const auto prepare = [this, &model, &image, &status, &grid, image_pixels] {
        const absl::StatusOr<PatchGrid> prepared = PreprocessOnPool(model, image, image_pixels);
        status = prepared.status();
        if (prepared.ok()) grid = *prepared;
        MutexLock lock(mu_);
        if (--pending_ == 0) done_.NotifyAll();
      };
      try {
        pool.Submit(prepare);
      } catch (const std::bad_alloc&) {
        prepare();
      }
    }
  }
  ~Preparation() { Wait(); }
  Preparation(const Preparation&) = delete;
  Preparation& operator=(const Preparation&) = delete;

  void Wait() {
    MutexLock lock(mu_);
    while (pending_ > 0) done_.Wait(mu_);
  }

 private:
  Mutex mu_;
  CondVar done_;
  std::size_t pending_ SIGLIP_GUARDED_BY(mu_);
};

// Encodes those of the prepared images that are good into their rows [N,D].
absl::Status EncodeGood(Model& model, const float* pixels, std::span<const PatchGrid> grids,
                        float* rows, std::span<const absl::Status> statuses) {
  const std::size_t width = static_cast<std::size_t>(model.info().embedding_size);
  std::vector<ImagePixels> good;
  std::vector<float*> good_rows;
  for (std::size_t i = 0; i < statuses.size(); ++i) {
    if (!statuses[i].ok()) continue;
    good.push_back({pixels + i * model.info().pixel_values(), grids[i]});
    good_rows.push_back(rows + i * width);
  }
  return good.empty() ? absl::OkStatus() : model.EncodePixels(good, good_rows);
}

}  // namespace

void PreprocessMany(const Model& model, ThreadPool& pool, std::span<const ImageSource> images,
                    float* pixels, std::span<PatchGrid> grids, std::span<absl::Status> statuses) {
  Preparation(model, pool, images, pixels, grids, statuses).Wait();
}

absl::Status EmbedManyImages(Model& model, ThreadPool& pool, std::span<const ImageSource> images,
                             float* rows, std::span<absl::Status> statuses) {
  const std::size_t width = static_cast<std::size_t>(model.info().embedding_size);
  const std::size_t per_call = std::min(kImagesPerCall, images.size());
  // While the engine reads one, the pool fills the other.
  AlignedBuffer<float> pixels[2];
  std::vector<PatchGrid> grids[2];
  for (auto& half : pixels) half = AlignedBuffer<float>(per_call * model.info().pixel_values());
  for (auto& half : grids) half.resize(per_call);
  std::optional<Preparation> preparations[2];
  const auto prepare = [&](std::size_t call) {
    const std::size_t begin = call * per_call;
    if (begin >= images.size()) return;
    const std::size_t count = std::min(per_call, images.size() - begin);
    preparations[call % 2].emplace(model, pool, images.subspan(begin, count),
                                   pixels[call % 2].data(), grids[call % 2],
                                   statuses.subspan(begin, count));
  };
  prepare(0);
  for (std::size_t call = 0; call * per_call < images.size(); ++call) {
    prepare(call + 1);
    preparations[call % 2]->Wait();
    const std::size_t begin = call * per_call;
    const std::size_t count = std::min(per_call, images.size() - begin);
    SIGLIP_RETURN_IF_ERROR(EncodeGood(model, pixels[call % 2].data(), grids[call % 2],
                                      rows + begin * width, statuses.subspan(begin, count)));
  }
  return absl::OkStatus();
}

absl::Status EmbedManyTexts(Model& model, std::span<const std::string_view> texts, float* rows,
                            std::span<absl::Status> statuses) {
  const std::size_t width = static_cast<std::size_t>(model.info().embedding_size);
  for (std::size_t begin = 0; begin < texts.size(); begin += kTextsPerCall) {
    std::vector<std::vector<std::int64_t>> ids;
    std::vector<float*> good_rows;
    for (std::size_t i = begin; i < std::min(begin + kTextsPerCall, texts.size()); ++i) {
      auto tokens = model.Tokenize(texts[i]);
      statuses[i] = tokens.status();
      if (!tokens.ok()) continue;
      ids.push_back(*std::move(tokens));
      good_rows.push_back(rows + i * width);
    }
    if (ids.empty()) continue;
    std::vector<const std::int64_t*> good;
    for (const auto& text : ids) good.push_back(text.data());
    SIGLIP_RETURN_IF_ERROR(model.EncodeTokens(good, model.info().text_length, good_rows));
  }
  return absl::OkStatus();
}

}  // namespace siglip
