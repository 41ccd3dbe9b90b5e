#pragma once

// Pillow's resize on GPUs: a picture goes up, its resized pixels come back. Memory is taken at the
// start; each place has its own and its own stream, beside those that encode.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/rgb_resizer.h"
#include "engine/cuda/handles.h"
#include "engine/cuda/resize_plan.h"

namespace siglip::cuda {

class CudaResizer final : public RgbResizer {
 public:
  // What a failed resize's caller is told, and what it means for the engine.
  using Judge = std::function<absl::Status(const absl::Status&)>;

  // To image_size x image_size.
  static absl::StatusOr<std::unique_ptr<CudaResizer>> Open(const std::vector<int>& gpus,
                                                           std::int64_t image_size, Judge judge);
  ~CudaResizer() override;

  bool Takes(std::int64_t width, std::int64_t height) const override;
  absl::StatusOr<bool> Resize(const RgbResize& resize) override;
  int num_places() const override { return static_cast<int>(places_.size()); }

  std::int64_t memory_bytes() const;

 private:
  struct Place {
    int gpu = 0;
    PinnedMemory input_host, out_host;  // input: tables, then the picture
    DeviceMemory input, middle, out;
    Stream stream;
    Event done;
  };

  CudaResizer(std::int64_t image_size, Judge judge)
      : capacity_(CapacityFor(image_size)), judge_(std::move(judge)) {}

  absl::Status AddPlace(int gpu);
  absl::Status Run(const RgbResize& resize, const ResizePlan& plan, Place& place) const;
  absl::Status Upload(const RgbResize& resize, const ResizePlan& plan, Place& place) const;
  Place* TryAcquire();
  void Release(Place* place);

  const ResizeCapacity capacity_;
  const Judge judge_;
  std::vector<std::unique_ptr<Place>> places_;
  Mutex mu_;
  std::deque<Place*> free_ SIGLIP_GUARDED_BY(mu_);  // in turns
};

}  // namespace siglip::cuda
