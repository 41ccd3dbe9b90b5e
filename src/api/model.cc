#include <algorithm>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/model_info.h"
#include "api/owner_process.h"
#include "api/pixel_recipe.h"
#include "base/log.h"
#include "base/no_memory.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint.h"
#include "engine/cuda/device_flag.h"
#include "engine/cuda/devices.h"
#include "engine/engine.h"
#include "image/preprocess.h"
#include "siglip/siglip.h"
#include "text/tokenizer.h"

namespace siglip {
namespace {

// Runs `work`, which returns a Status; running out of memory costs that work, not the process.
template <class Work>
auto WithoutBadAlloc(const char* what, const Work& work) -> decltype(work()) {
  try {
    try {
      return work();
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::system_error& error) {  // of threads
      return absl::ResourceExhaustedError(absl::StrCat(what, ": ", error.what()));
    } catch (const std::exception& error) {
      return absl::InternalError(absl::StrCat(what, ": ", error.what()));
    }
  } catch (const std::bad_alloc&) {
    return NoMemory(what);
  }
}

absl::Status CheckOptions(const ModelOptions& options) {
  if (options.pillow != 12 && options.pillow != 13) {
    return absl::InvalidArgumentError(
        absl::StrCat("pillow: expected 12 or 13, got ", options.pillow));
  }
  if (options.max_patches < 0 || options.max_patches > kMaxPatches) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_patches: expected 0 to ", kMaxPatches, ", got ", options.max_patches));
  }
  if (options.num_threads < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_threads: expected at least 0, got ", options.num_threads));
  }
  if (options.max_batch_size < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_batch_size: expected at least 1, got ", options.max_batch_size));
  }
  if (options.max_pixels < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_pixels: expected at least 0, got ", options.max_pixels));
  }
  return absl::OkStatus();
}

PixelRecipe RecipeOf(const PreprocessorConfig& config, const ModelOptions& options) {
  return {.resample = config.resample,
          .pillow = options.pillow,
          .rescale_factor = config.rescale_factor,
          .mean = config.image_mean,
          .std = config.image_std,
          .max_pixels = options.max_pixels > 0 ? std::min(options.max_pixels, kPillowMaxPixels)
                                               : kPillowMaxPixels};
}

// Of NaFlex; 0 of others.
std::int64_t MaxPatches(const PreprocessorConfig& config, const ModelOptions& options) {
  if (config.image_size > 0) return 0;
  return options.max_patches > 0 ? options.max_patches : config.max_num_patches;
}

class LoadedModel final : public Model {
 public:
  LoadedModel(ModelInfo info, std::unique_ptr<Tokenizer> tokenizer, std::unique_ptr<Engine> engine)
      : info_(std::move(info)),
        engine_(std::move(engine)),
        preprocessor_(PreprocessOptionsOf(info_), engine_->resizer()),
        tokenizer_(std::move(tokenizer)) {}
  ~LoadedModel() override {
    // There are no threads to be joined in a forked child: it is left to the end of the process.
    if (!owner_.IsThisOne()) static_cast<void>(engine_.release());
  }

  const ModelInfo& info() const override { return info_; }
  absl::Status Health() const override { return engine_->Health(); }

  absl::StatusOr<ImageInfo> InspectImage(std::string_view image_bytes) const override {
    return WithoutBadAlloc("image", [&]() -> absl::StatusOr<ImageInfo> {
      SIGLIP_ASSIGN_OR_RETURN(ImageHeader header, preprocessor_.ReadHeader(image_bytes));
      return ImageInfo{std::move(header.format), header.width, header.height,
                       header.working_set_bytes};
    });
  }

  using Model::Preprocess;
  absl::StatusOr<PatchGrid> Preprocess(std::string_view image_bytes, float* pixels,
                                       PreprocessTimes* times) const override {
    return WithoutBadAlloc("image", [&]() -> absl::StatusOr<PatchGrid> {
      SIGLIP_RETURN_IF_ERROR(CheckOwnerOfGpu());
      StageTimes stages;
      const auto size = preprocessor_.Preprocess(image_bytes, pixels, stages);
      if (times != nullptr) *times = TimesOf(stages);
      return Grid(size);
    });
  }

  using Model::PreprocessRgb;
  absl::StatusOr<PatchGrid> PreprocessRgb(const std::uint8_t* rgb, std::int64_t width,
                                          std::int64_t height, float* pixels,
                                          PreprocessTimes* times) const override {
    return WithoutBadAlloc("image", [&]() -> absl::StatusOr<PatchGrid> {
      SIGLIP_RETURN_IF_ERROR(CheckOwnerOfGpu());
      StageTimes stages;
      const auto size = preprocessor_.PreprocessRgb(rgb, width, height, pixels, stages);
      if (times != nullptr) *times = TimesOf(stages);
      return Grid(size);
    });
  }

  bool ResizesOnGpu(std::int64_t width, std::int64_t height) const override {
    RgbResizer* const resizer = engine_->resizer();
    return resizer != nullptr && resizer->Takes(width, height);
  }

  using Model::EncodePixels;
  absl::Status EncodePixels(std::span<const ImagePixels> images,
                            std::span<float* const> embeddings) override {
    return WithoutBadAlloc("vision", [&]() -> absl::Status {
      SIGLIP_RETURN_IF_ERROR(owner_.Check());
      return info_.naflex() ? EncodePatches(images, embeddings) : EncodeImages(images, embeddings);
    });
  }

  absl::StatusOr<std::vector<std::int64_t>> Tokenize(std::string_view text) const override {
    return WithoutBadAlloc("text", [&] { return tokenizer_->Encode(text); });
  }

  absl::StatusOr<std::vector<std::int64_t>> TokenizeUnpadded(std::string_view text) const override {
    return WithoutBadAlloc("text", [&] { return tokenizer_->EncodeUnpadded(text); });
  }

  absl::StatusOr<TextIds> TokenizeUntil(std::string_view text,
                                        const std::function<bool()>& give_up) const override {
    return WithoutBadAlloc("text", [&]() -> absl::StatusOr<TextIds> {
      SIGLIP_ASSIGN_OR_RETURN(PaddedIds padded, tokenizer_->Encode(text, give_up));
      return TextIds{.ids = std::move(padded.ids), .unpadded = padded.unpadded};
    });
  }

  absl::Status EncodeTokens(std::span<const std::int64_t* const> ids, std::int64_t num_tokens,
                            std::span<float* const> embeddings) override {
    return WithoutBadAlloc("text", [&]() -> absl::Status {
      SIGLIP_RETURN_IF_ERROR(owner_.Check());
      if (num_tokens < 1 || num_tokens > info_.text_length) {
        return absl::InvalidArgumentError(
            absl::StrCat("tokens: expected 1 to ", info_.text_length, " ids, got ", num_tokens));
      }
      return engine_->EncodeTexts(ids, num_tokens, embeddings);
    });
  }

 private:
  // Of work that a GPU may do.
  absl::Status CheckOwnerOfGpu() const {
    return info_.gpu_resize ? owner_.Check() : absl::OkStatus();
  }

  absl::StatusOr<PatchGrid> Grid(const absl::StatusOr<PixelSize>& size) const {
    if (!size.ok()) return size.status();
    return GridOf(*size, info_.patch_size);
  }

  absl::Status EncodeImages(std::span<const ImagePixels> images,
                            std::span<float* const> embeddings) {
    std::vector<const float*> values;
    for (const ImagePixels& image : images) values.push_back(image.values);
    return engine_->EncodeImages(values, embeddings);
  }

  absl::Status EncodePatches(std::span<const ImagePixels> images,
                             std::span<float* const> embeddings) {
    std::vector<PatchImage> patches;
    for (const ImagePixels& image : images) {
      patches.push_back({image.values, image.grid.rows, image.grid.columns});
    }
    return engine_->EncodePatches(patches, embeddings);
  }

  const ModelInfo info_;
  const OwnerProcess owner_;
  std::unique_ptr<Engine> engine_;
  const Preprocessor preprocessor_;  // may resize by the engine
  const std::unique_ptr<Tokenizer> tokenizer_;
};

// Device and precision, of which either may be "auto": a GPU if there is one that the precision
// asks for or allows, with bf16; else the CPU, whose engine knows what its own "auto" is.
absl::Status ChooseDevice(const ModelOptions& options, EngineOptions& engine) {
  SIGLIP_ASSIGN_OR_RETURN(const DeviceChoice device, ParseDevice(options.device));
  const std::optional<Precision> precision = ParsePrecision(options.precision);
  if (!precision) {
    return absl::InvalidArgumentError(absl::StrCat(
        "precision: expected auto, fp32, int16, int8, bf16, fp16 or fp8, got ", options.precision));
  }
  const bool of_cpu = precision == Precision::kFp32 || precision == Precision::kInt16 ||
                      precision == Precision::kInt8;
  engine.device = options.device;
  if (device.kind == DeviceChoice::Kind::kAuto) {
    const auto gpus = ListGpuDevices();
    if (!of_cpu && absl::IsUnavailable(gpus.status())) {
      SIGLIP_LOG_WARN("device auto: the CPU is used, error=\"{}\"",
                      LogSafe(std::string(gpus.status().message())));
    }
    engine.device = !of_cpu && gpus.ok() && !gpus->empty() ? "cuda" : "cpu";
  }
  const bool bf16 = precision == Precision::kAuto && engine.device != "cpu";
  engine.precision = bf16 ? Precision::kBf16 : *precision;
  return absl::OkStatus();
}

// Where both are "auto", a GPU that fails its check, or cannot take the model, leaves it to the
// CPU.
absl::StatusOr<std::unique_ptr<Engine>> OpenEngine(const Checkpoint& checkpoint,
                                                   const ModelOptions& options,
                                                   EngineOptions& engine_options) {
  auto engine = Engine::Open(checkpoint, engine_options);
  const bool may_choose = options.device == "auto" && options.precision == "auto";
  if (engine.ok() || engine_options.device == "cpu" || !may_choose) return engine;
  SIGLIP_LOG_WARN("device auto: the CPU is used, error=\"{}\"",
                  LogSafe(std::string(engine.status().message())));
  engine_options.device = "cpu";
  engine_options.precision = Precision::kAuto;
  return Engine::Open(checkpoint, engine_options);
}

absl::StatusOr<std::unique_ptr<Model>> OpenModel(const std::string& directory,
                                                 const ModelOptions& options) {
  SIGLIP_RETURN_IF_ERROR(CheckOptions(options));
  EngineOptions engine_options;
  SIGLIP_RETURN_IF_ERROR(ChooseDevice(options, engine_options));
  SIGLIP_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(directory));
  const SiglipConfig& config = checkpoint.config();
  if (options.max_patches > 0 && !config.vision.naflex()) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_patches: expected 0 for ", directory, ", which is of fixed resolution (",
                     config.vision.image_size, " px), got ", options.max_patches));
  }
  const std::int64_t max_patches = MaxPatches(checkpoint.preprocessor(), options);
  SIGLIP_ASSIGN_OR_RETURN(
      std::unique_ptr<Tokenizer> tokenizer,
      Tokenizer::Open(directory, config.text.max_position_embeddings, config.text.vocab_size));
  engine_options.num_threads = options.num_threads;
  engine_options.max_batch_size = options.max_batch_size;
  engine_options.isa = options.isa;
  engine_options.cache_dir = options.cache_dir;
  engine_options.gpu_resize = options.gpu_resize;
  SIGLIP_ASSIGN_OR_RETURN(engine_options.example_text, tokenizer->Encode("a photo of two cats"));
  if (max_patches > 0) engine_options.max_patches = static_cast<int>(max_patches);
  SIGLIP_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                          OpenEngine(checkpoint, options, engine_options));
  ModelInfo info = InfoOf(directory, config, max_patches, *tokenizer);
  info.logit_scale = checkpoint.logit_scale();
  info.logit_bias = checkpoint.logit_bias();
  info.engine = engine->Describe();
  info.precision_choice = engine->PrecisionChoice();
  if (const auto device = ParseDevice(engine_options.device); device.ok()) info.gpus = device->gpus;
  info.gpu_resize = engine->resizer() != nullptr;
  info.pixels = RecipeOf(checkpoint.preprocessor(), options);
  if (engine->resizer() != nullptr) {
    SIGLIP_RETURN_IF_ERROR(CheckResizer(PreprocessOptionsOf(info), *engine->resizer()));
  }
  return std::make_unique<LoadedModel>(std::move(info), std::move(tokenizer), std::move(engine));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> Model::Open(const std::string& directory,
                                                   const ModelOptions& options) {
  return WithoutBadAlloc("model", [&] { return OpenModel(directory, options); });
}

absl::Status Model::EncodePixels(std::span<const float* const> images,
                                 std::span<float* const> embeddings) {
  return WithoutBadAlloc("vision", [&] {
    std::vector<ImagePixels> pixels;
    for (const float* image : images) pixels.push_back({.values = image});
    return EncodePixels(pixels, embeddings);
  });
}

absl::StatusOr<std::vector<float>> Model::EmbedImage(std::string_view image_bytes) {
  return WithoutBadAlloc("image", [&]() -> absl::StatusOr<std::vector<float>> {
    std::vector<float> pixels(info().pixel_values());
    SIGLIP_ASSIGN_OR_RETURN(const PatchGrid grid, Preprocess(image_bytes, pixels.data()));
    std::vector<float> embedding(static_cast<std::size_t>(info().embedding_size));
    const ImagePixels images[] = {{pixels.data(), grid}};
    float* const rows[] = {embedding.data()};
    SIGLIP_RETURN_IF_ERROR(EncodePixels(images, rows));
    return embedding;
  });
}

absl::StatusOr<TextIds> Model::TokenizeUntil(std::string_view text,
                                             const std::function<bool()>&) const {
  TextIds text_ids;
  SIGLIP_ASSIGN_OR_RETURN(text_ids.ids, Tokenize(text));
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::int64_t> unpadded, TokenizeUnpadded(text));
  text_ids.unpadded = static_cast<std::int64_t>(unpadded.size());
  return text_ids;
}

absl::StatusOr<std::vector<float>> Model::EmbedText(std::string_view text) {
  return WithoutBadAlloc("text", [&]() -> absl::StatusOr<std::vector<float>> {
    SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::int64_t> ids, Tokenize(text));
    std::vector<float> embedding(static_cast<std::size_t>(info().embedding_size));
    const std::int64_t* const texts[] = {ids.data()};
    float* const rows[] = {embedding.data()};
    SIGLIP_RETURN_IF_ERROR(EncodeTokens(texts, info().text_length, rows));
    return embedding;
  });
}

}  // namespace siglip
