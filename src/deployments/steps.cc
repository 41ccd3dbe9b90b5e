#include "deployments/steps.h"

#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/pixel_recipe.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "image/preprocess.h"

namespace siglip {
namespace {

std::string_view BytesOf(const Item& item) {
  return {reinterpret_cast<const char*>(item.inputs[0].data()), item.inputs[0].size()};
}

float* FloatRow(Item& item) { return reinterpret_cast<float*>(item.outputs[0].data()); }

// SPATIAL_SHAPES is the second tensor of NaFlex.
void WriteShape(const PatchGrid& grid, Item& item) {
  const std::int64_t shape[] = {grid.rows, grid.columns};
  std::memcpy(item.outputs[1].data(), shape, sizeof(shape));
}

PatchGrid ReadShape(const Item& item) {
  std::int64_t shape[2];
  std::memcpy(shape, item.inputs[1].data(), sizeof(shape));
  return {shape[0], shape[1]};
}

// Where pictures are decoded is what the two kinds below differ in.
class ImageProcessStep : public Step {
 public:
  explicit ImageProcessStep(const ModelInfo& info) : is_naflex_(info.naflex()) {}

  absl::Status Run(std::span<Item* const> items) override {
    for (Item* item : items) {
      PreprocessTimes times;
      const auto grid = Preprocess(*item, times);
      item->status = grid.status();
      if (grid.ok() && is_naflex_) WriteShape(*grid, *item);
      Count(times, item->status);
    }
    return absl::OkStatus();
  }
  int MaxBatchItems() const override { return std::numeric_limits<int>::max(); }
  absl::StatusOr<std::int64_t> EstimateCost(const Item& item) const override {
    absl::StatusOr<std::int64_t> bytes = WorkingSetBytes(item);
    if (!bytes.ok()) Count({}, bytes.status());
    return bytes;
  }
  StepCounters Counters() const override {
    MutexLock lock(mu_);
    return counters_;
  }

 private:
  // Writes the item's pixels.
  virtual absl::StatusOr<PatchGrid> Preprocess(Item& item, PreprocessTimes& times) = 0;
  virtual absl::StatusOr<std::int64_t> WorkingSetBytes(const Item& item) const = 0;

  void Count(const PreprocessTimes& times, const absl::Status& status) const {
    MutexLock lock(mu_);
    const std::pair<const char*, std::int64_t> stages[] = {{"decode", times.decode_ns},
                                                           {"resize", times.resize_ns},
                                                           {"normalize", times.normalize_ns}};
    for (const auto& [name, ns] : stages) {
      if (ns == 0) continue;
      StatisticDuration& stage = counters_.stages[name];
      ++stage.count;
      stage.ns += static_cast<std::uint64_t>(ns);
    }
    if (status.ok()) return;
    const auto reason = status.GetPayload(kImageRefusedPayload);
    ++counters_.refused[reason ? std::string(*reason) : "other"];
  }

  const bool is_naflex_;
  mutable Mutex mu_;
  mutable StepCounters counters_ SIGLIP_GUARDED_BY(mu_);
};

class InProcessStep final : public ImageProcessStep {
 public:
  explicit InProcessStep(std::shared_ptr<const Model> model)
      : ImageProcessStep(model->info()), model_(std::move(model)) {}

 private:
  absl::StatusOr<PatchGrid> Preprocess(Item& item, PreprocessTimes& times) override {
    return model_->Preprocess(BytesOf(item), FloatRow(item), &times);
  }
  absl::StatusOr<std::int64_t> WorkingSetBytes(const Item& item) const override {
    SIGLIP_ASSIGN_OR_RETURN(const ImageInfo image, model_->InspectImage(BytesOf(item)));
    return image.working_set_bytes;
  }

  const std::shared_ptr<const Model> model_;
};

class RecipeStep final : public ImageProcessStep {
 public:
  explicit RecipeStep(const ModelInfo& info)
      : ImageProcessStep(info),
        patch_size_(info.patch_size),
        preprocessor_(PreprocessOptionsOf(info)) {}

 private:
  absl::StatusOr<PatchGrid> Preprocess(Item& item, PreprocessTimes& times) override {
    StageTimes stages;
    const auto size = preprocessor_.Preprocess(BytesOf(item), FloatRow(item), stages);
    times = TimesOf(stages);
    if (!size.ok()) return size.status();
    return GridOf(*size, patch_size_);
  }
  absl::StatusOr<std::int64_t> WorkingSetBytes(const Item& item) const override {
    SIGLIP_ASSIGN_OR_RETURN(const ImageHeader image, preprocessor_.ReadHeader(BytesOf(item)));
    return image.working_set_bytes;
  }

  const std::int64_t patch_size_;
  const Preprocessor preprocessor_;
};

class InWorkersStep : public ImageProcessStep {
 public:
  InWorkersStep(const ModelInfo& info, DecodeWorkers& workers)
      : ImageProcessStep(info),
        patch_size_(info.patch_size),
        preprocessor_(PreprocessOptionsOf(info)),
        workers_(workers) {}

  OutputMemory AllocateOutput(std::size_t bytes) override {
    const bool pixels = bytes % (preprocessor_.pixel_values() * sizeof(float)) == 0;
    PixelMemory memory = pixels ? workers_.Allocate(bytes) : PixelMemory{};
    if (memory.owner == nullptr) return Step::AllocateOutput(bytes);
    return {.bytes = memory.bytes, .owner = std::move(memory.owner)};
  }
  absl::Status Readiness() const override { return workers_.Readiness(); }
  bool EstimateMayWait(const Item& item) const override {
    return LibraryReadsHeader(BytesOf(item));
  }

 protected:
  absl::StatusOr<PatchGrid> Preprocess(Item& item, PreprocessTimes& times) override {
    StageTimes stages;
    const absl::StatusOr<PixelSize> size =
        workers_.Preprocess(preprocessor_, BytesOf(item), FloatRow(item), LimitOf(item), stages);
    times = TimesOf(stages);
    if (!size.ok()) return size.status();
    return GridOf(*size, patch_size_);
  }
  absl::StatusOr<std::int64_t> WorkingSetBytes(const Item& item) const override {
    SIGLIP_ASSIGN_OR_RETURN(const ImageHeader image, ReadHeader(item));
    return image.working_set_bytes;
  }

  static WaitLimit LimitOf(const Item& item) {
    return {.end_ns = item.end_ns, .is_cancelled = item.is_cancelled};
  }
  absl::StatusOr<ImageHeader> ReadHeader(const Item& item) const {
    return workers_.ReadImageHeader(preprocessor_, BytesOf(item), LimitOf(item));
  }
  absl::StatusOr<DecodedPicture> Decode(const Item& item, const ImageHeader& header,
                                        PreprocessTimes& times) {
    StageTimes stages;
    absl::StatusOr<DecodedPicture> picture =
        workers_.Decode(preprocessor_, BytesOf(item), header, LimitOf(item), stages);
    times = TimesOf(stages);
    return picture;
  }

 private:
  const std::int64_t patch_size_;
  const Preprocessor preprocessor_;
  DecodeWorkers& workers_;
};

// Decodes in workers, which have no GPU, and resizes in the server, which has one.
class ResizedOnGpuStep final : public InWorkersStep {
 public:
  ResizedOnGpuStep(std::shared_ptr<const Model> model, DecodeWorkers& workers)
      : InWorkersStep(model->info(), workers), model_(std::move(model)) {}

  // No worker writes most pictures' pixels.
  OutputMemory AllocateOutput(std::size_t bytes) override { return Step::AllocateOutput(bytes); }

 private:
  absl::StatusOr<PatchGrid> Preprocess(Item& item, PreprocessTimes& times) override {
    SIGLIP_ASSIGN_OR_RETURN(const ImageHeader header, ReadHeader(item));
    if (!model_->ResizesOnGpu(header.width, header.height)) {
      return InWorkersStep::Preprocess(item, times);
    }
    SIGLIP_ASSIGN_OR_RETURN(const DecodedPicture picture, Decode(item, header, times));
    PreprocessTimes others;
    const auto grid =
        model_->PreprocessRgb(reinterpret_cast<const std::uint8_t*>(picture.rgb.bytes.data()),
                              picture.size.width, picture.size.height, FloatRow(item), &others);
    times.resize_ns = others.resize_ns;
    times.normalize_ns = others.normalize_ns;
    return grid;
  }
  // What lies between worker and server comes on top.
  absl::StatusOr<std::int64_t> WorkingSetBytes(const Item& item) const override {
    SIGLIP_ASSIGN_OR_RETURN(const ImageHeader header, ReadHeader(item));
    const bool on_gpu = model_->ResizesOnGpu(header.width, header.height);
    return header.working_set_bytes + (on_gpu ? 3 * header.width * header.height : 0);
  }

  const std::shared_ptr<const Model> model_;
};

class VisionStep final : public Step {
 public:
  explicit VisionStep(std::shared_ptr<Model> model) : model_(std::move(model)) {}

  absl::Status Run(std::span<Item* const> items) override {
    std::vector<ImagePixels> images;
    std::vector<float*> rows;
    for (Item* item : items) {
      ImagePixels image{.values = reinterpret_cast<const float*>(item->inputs[0].data())};
      if (model_->info().naflex()) {
        image.grid = ReadShape(*item);
        item->status = CheckShape(image.grid);
        if (!item->status.ok()) continue;
      }
      images.push_back(image);
      rows.push_back(FloatRow(*item));
    }
    return images.empty() ? absl::OkStatus() : model_->EncodePixels(images, rows);
  }
  absl::Status Health() const override { return model_->Health(); }
  int MaxBatchItems() const override { return std::numeric_limits<int>::max(); }
  absl::StatusOr<std::int64_t> EstimateCost(const Item&) const override { return 0; }

 private:
  // Checked here so that a bad shape fails alone: the library refuses the whole batch.
  absl::Status CheckShape(const PatchGrid& grid) const {
    const std::int64_t most = model_->info().max_patches;
    if (grid.rows >= 1 && grid.columns >= 1 && grid.rows <= most / grid.columns) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat("SPATIAL_SHAPES: expected rows and columns of 1 to ", most, " patches, got [",
                     grid.rows, ",", grid.columns, "]"));
  }

  const std::shared_ptr<Model> model_;
};

class TextStep final : public Step {
 public:
  explicit TextStep(std::shared_ptr<Model> model) : model_(std::move(model)) {}

  absl::Status Run(std::span<Item* const> items) override {
    std::vector<const std::int64_t*> texts;
    std::vector<float*> rows;
    for (Item* item : items) {
      const auto* ids = reinterpret_cast<const std::int64_t*>(item->inputs[0].data());
      item->status = CheckIds(ids);
      if (!item->status.ok()) continue;
      texts.push_back(ids);
      rows.push_back(FloatRow(*item));
    }
    if (texts.empty()) return absl::OkStatus();
    return model_->EncodeTokens(texts, model_->info().text_length, rows);
  }
  absl::Status Health() const override { return model_->Health(); }
  int MaxBatchItems() const override { return std::numeric_limits<int>::max(); }
  absl::StatusOr<std::int64_t> EstimateCost(const Item&) const override { return 0; }

 private:
  // Checked here so that a bad text fails alone: the library refuses the whole batch.
  absl::Status CheckIds(const std::int64_t* ids) const {
    for (std::int64_t t = 0; t < model_->info().text_length; ++t) {
      if (ids[t] >= 0 && ids[t] < model_->info().vocab_size) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("INPUT_IDS: position ", t, ": expected an id in 0..",
                       model_->info().vocab_size - 1, ", got ", ids[t]));
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<Model> model_;
};

}  // namespace

std::shared_ptr<Step> MakeImageProcessStep(std::shared_ptr<const Model> model) {
  return std::make_shared<InProcessStep>(std::move(model));
}

std::shared_ptr<Step> MakeImageProcessStep(const ModelInfo& info) {
  return std::make_shared<RecipeStep>(info);
}

std::shared_ptr<Step> MakeImageProcessStep(const ModelInfo& info, DecodeWorkers& workers) {
  return std::make_shared<InWorkersStep>(info, workers);
}

std::shared_ptr<Step> MakeImageProcessStep(std::shared_ptr<const Model> model,
                                           DecodeWorkers& workers) {
  return std::make_shared<ResizedOnGpuStep>(std::move(model), workers);
}

std::shared_ptr<Step> MakeVisionStep(std::shared_ptr<Model> model) {
  return std::make_shared<VisionStep>(std::move(model));
}

std::shared_ptr<Step> MakeTextStep(std::shared_ptr<Model> model) {
  return std::make_shared<TextStep>(std::move(model));
}

}  // namespace siglip
