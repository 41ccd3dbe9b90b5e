#pragma once

// The Engine over one or several GPUs: cuts calls into batches, which go to whichever GPU has a
// slot free, and keeps every slot busy while a call has batches left.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/turn_lock.h"
#include "checkpoint/checkpoint.h"
#include "engine/cuda/cuda_resizer.h"
#include "engine/cuda/device_engine.h"
#include "engine/engine.h"

namespace siglip::cuda {

// Thread-safe.
class CudaEngine final : public Engine {
 public:
  // REQUIRES: gpus is not empty, the precision is a GPU's.
  static absl::StatusOr<std::unique_ptr<Engine>> Open(const Checkpoint& checkpoint,
                                                      const EngineOptions& options,
                                                      const std::vector<int>& gpus);

  absl::Status EncodeImages(std::span<const float* const> images,
                            std::span<float* const> embeddings) override;
  absl::Status EncodeTexts(std::span<const std::int64_t* const> ids, std::int64_t num_tokens,
                           std::span<float* const> embeddings) override;
  absl::Status Health() const override;
  std::string Describe() const override;
  std::int64_t memory_bytes() const override;
  RgbResizer* resizer() override { return resizer_.get(); }

 private:
  struct Place {
    int device = 0;
    int slot = 0;
  };
  struct Batch {
    Place place;
    std::size_t first = 0;
    std::size_t count = 0;
  };
  // One call's work.
  struct Call {
    Tower tower;
    std::int64_t tokens;
    std::size_t items;
    std::size_t item_bytes;
    std::function<const void*(std::size_t)> input;
    std::span<float* const> embeddings;
  };

  CudaEngine(const SiglipConfig& config, const EngineOptions& options)
      : config_(config), options_(options) {}

  absl::Status RunCall(const Call& call);
  absl::Status Start(const Call& call, const Batch& batch);
  absl::Status Finish(const Call& call, const Batch& batch);
  absl::Status CheckOutput(const Call& call, const Batch& batch) const;
  Place Acquire();
  bool TryAcquire(Place& place);
  void Release(const Place& place);
  // Remembers that the engine is of no more use, if `status` is of the kind that says so.
  absl::Status Judge(const absl::Status& status);

  const SiglipConfig config_;
  const EngineOptions options_;
  std::size_t batch_items_ = 0;
  std::vector<std::unique_ptr<DeviceEngine>> devices_;
  std::unique_ptr<CudaResizer> resizer_;  // null: not asked for
  TurnLock turns_;                        // held by the call that has the next slot
  mutable Mutex mu_;
  CondVar released_;
  std::deque<Place> free_ SIGLIP_GUARDED_BY(mu_);
  int waiting_ SIGLIP_GUARDED_BY(mu_) = 0;  // calls in Acquire
  absl::Status health_ SIGLIP_GUARDED_BY(mu_);
};

}  // namespace siglip::cuda
