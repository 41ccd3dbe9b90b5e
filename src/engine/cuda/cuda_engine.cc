#include "engine/cuda/cuda_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/encode_checks.h"

namespace siglip::cuda {
namespace {

// Pixels are some units in size, whatever mean and std; a finite output is due for no more.
constexpr float kMaxPixel = 1e3f;

bool AllFinite(const float* values, std::int64_t count) {
  return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CudaEngine::Open(const Checkpoint& checkpoint,
                                                         const EngineOptions& options,
                                                         const std::vector<int>& gpus) {
  auto engine = std::unique_ptr<CudaEngine>(new CudaEngine(checkpoint.config(), options));
  const int items = std::min(options.max_batch_size, kMaxBatchItems);
  engine->batch_items_ = static_cast<std::size_t>(items);
  const std::int64_t text_tokens = UsualTokens(checkpoint.config().text, options.example_text);
  for (const int gpu : gpus) {
    SIGLIP_ASSIGN_OR_RETURN(std::unique_ptr<DeviceEngine> device,
                            DeviceEngine::Open(checkpoint, {.ordinal = gpu,
                                                            .types = TypesOf(options.precision),
                                                            .max_items = items,
                                                            .text_tokens = text_tokens,
                                                            .cache_dir = options.cache_dir}));
    engine->devices_.push_back(std::move(device));
  }
  if (options.gpu_resize) {
    SIGLIP_ASSIGN_OR_RETURN(engine->resizer_,
                            CudaResizer::Open(gpus, checkpoint.config().vision.image_size,
                                              [engine = engine.get()](const absl::Status& status) {
                                                return engine->Judge(status);
                                              }));
  }
  MutexLock lock(engine->mu_);
  for (int slot = 0; slot < DeviceEngine::kSlots; ++slot) {
    for (int device = 0; device < static_cast<int>(gpus.size()); ++device) {
      engine->free_.push_back({device, slot});
    }
  }
  return engine;
}

absl::Status CudaEngine::EncodeImages(std::span<const float* const> images,
                                      std::span<float* const> embeddings) {
  SIGLIP_RETURN_IF_ERROR(CheckSizes("images", images.size(), embeddings.size()));
  const VisionConfig& vision = config_.vision;
  const std::int64_t pixels = vision.num_channels * vision.image_size * vision.image_size;
  return RunCall({.tower = Tower::kVision,
                  .tokens = vision.num_patches(),
                  .items = images.size(),
                  .item_bytes = static_cast<std::size_t>(pixels) * sizeof(float),
                  .input = [&](std::size_t i) { return images[i]; },
                  .embeddings = embeddings});
}

absl::Status CudaEngine::EncodeTexts(std::span<const std::int64_t* const> ids,
                                     std::int64_t num_tokens, std::span<float* const> embeddings) {
  SIGLIP_RETURN_IF_ERROR(CheckSizes("texts", ids.size(), embeddings.size()));
  SIGLIP_RETURN_IF_ERROR(CheckTexts(config_.text, ids, num_tokens));
  return RunCall({.tower = Tower::kText,
                  .tokens = num_tokens,
                  .items = ids.size(),
                  .item_bytes = static_cast<std::size_t>(num_tokens) * sizeof(std::int64_t),
                  .input = [&](std::size_t i) { return ids[i]; },
                  .embeddings = embeddings});
}

// A call that holds slots never waits for one: it finishes its oldest batch instead, so that calls
// cannot wait for each other.
absl::Status CudaEngine::RunCall(const Call& call) {
  SIGLIP_RETURN_IF_ERROR(Health());
  std::deque<Batch> running;
  absl::Status status;
  std::size_t next = 0;
  while (next < call.items || !running.empty()) {
    Batch batch{{}, next, std::min(batch_items_, call.items - next)};
    bool start = next < call.items && status.ok();
    if (start && running.empty()) {
      batch.place = Acquire();
    } else if (start) {
      start = TryAcquire(batch.place);
    }
    if (start) {
      status.Update(Start(call, batch));
      running.push_back(batch);
      next += batch.count;
      continue;
    }
    if (running.empty()) break;  // an error, and nothing left to wait for
    status.Update(Finish(call, running.front()));
    Release(running.front().place);
    running.pop_front();
  }
  return Judge(status);
}

absl::Status CudaEngine::Start(const Call& call, const Batch& batch) {
  DeviceEngine& device = *devices_[static_cast<std::size_t>(batch.place.device)];
  std::byte* to = device.staging(batch.place.slot);
  for (std::size_t i = 0; i < batch.count; ++i) {
    std::memcpy(to + i * call.item_bytes, call.input(batch.first + i), call.item_bytes);
  }
  return device.Submit(call.tower, batch.place.slot, static_cast<std::int64_t>(batch.count),
                       call.tokens);
}

absl::Status CudaEngine::Finish(const Call& call, const Batch& batch) {
  DeviceEngine& device = *devices_[static_cast<std::size_t>(batch.place.device)];
  SIGLIP_ASSIGN_OR_RETURN(const float* rows, device.Wait(batch.place.slot));
  const std::int64_t width = config_.embedding_size();
  for (std::size_t i = 0; i < batch.count; ++i) {
    std::copy_n(rows + static_cast<std::int64_t>(i) * width, width,
                call.embeddings[batch.first + i]);
  }
  return CheckOutput(call, batch);
}

// What is not a number, though its input is, is a fault: of the device, or of a precision that does
// not do for these weights.
absl::Status CudaEngine::CheckOutput(const Call& call, const Batch& batch) const {
  for (std::size_t i = batch.first; i < batch.first + batch.count; ++i) {
    if (AllFinite(call.embeddings[i], config_.embedding_size())) continue;
    if (call.tower == Tower::kVision) {
      const float* pixels = static_cast<const float*>(call.input(i));
      const bool usual = std::all_of(pixels, pixels + call.item_bytes / sizeof(float),
                                     [](float pixel) { return std::abs(pixel) <= kMaxPixel; });
      if (!usual) continue;
    }
    return absl::InternalError(
        absl::StrCat(devices_[static_cast<std::size_t>(batch.place.device)]->name(), ", ",
                     PrecisionName(options_.precision),
                     ": expected finite embeddings of a finite input, got ", "one that is not"));
  }
  return absl::OkStatus();
}

// In the order of asking.
CudaEngine::Place CudaEngine::Acquire() {
  {
    MutexLock lock(mu_);
    ++waiting_;
  }
  const TurnHold turn(turns_);
  MutexLock lock(mu_);
  while (free_.empty()) released_.Wait(mu_);
  --waiting_;
  const Place place = free_.front();
  free_.pop_front();
  return place;
}

// Not while another call waits: one that has many batches would take every slot that it gives back.
bool CudaEngine::TryAcquire(Place& place) {
  MutexLock lock(mu_);
  if (free_.empty() || waiting_ > 0) return false;
  place = free_.front();
  free_.pop_front();
  return true;
}

void CudaEngine::Release(const Place& place) {
  {
    MutexLock lock(mu_);
    free_.push_back(place);
  }
  released_.NotifyOne();
}

// Nothing is allocated after loading: an error of CUDA is a device that is lost (its errors stay),
// or an engine that is wrong.
absl::Status CudaEngine::Judge(const absl::Status& status) {
  if (status.ok()) return status;
  MutexLock lock(mu_);
  if (health_.ok()) health_ = absl::InternalError(std::string(status.message()));
  return health_;
}

absl::Status CudaEngine::Health() const {
  MutexLock lock(mu_);
  return health_;
}

std::string CudaEngine::Describe() const {
  const std::string devices = absl::StrJoin(
      devices_, " + ",
      [](std::string* to, const auto& device) { absl::StrAppend(to, device->name()); });
  return absl::StrCat(devices, ", ", PrecisionName(options_.precision), ", ",
                      devices_[0]->attention_name(), resizer_ == nullptr ? "" : ", GPU resize");
}

std::int64_t CudaEngine::memory_bytes() const {
  std::int64_t total = resizer_ == nullptr ? 0 : resizer_->memory_bytes();
  for (const auto& device : devices_) total += device->memory_bytes();
  return total;
}

}  // namespace siglip::cuda
