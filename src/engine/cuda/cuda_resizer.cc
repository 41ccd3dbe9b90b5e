#include "engine/cuda/cuda_resizer.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <utility>

#include "base/status_macros.h"
#include "kernels/cuda/launch.h"

namespace siglip::cuda {
namespace {

// One picture is copied while another is resized.
constexpr int kPlacesPerGpu = 2;
// While one part of a picture is on the bus the next one is copied to pinned memory.
constexpr std::int64_t kPartBytes = 2 << 20;

// Rows of a pass are the second side of a grid.
static_assert(kMaxResizeSide <= 65535);

std::size_t Size(std::int64_t bytes) { return static_cast<std::size_t>(bytes); }

}  // namespace

absl::StatusOr<std::unique_ptr<CudaResizer>> CudaResizer::Open(const std::vector<int>& gpus,
                                                               std::int64_t image_size,
                                                               Judge judge) {
  auto resizer = std::unique_ptr<CudaResizer>(new CudaResizer(image_size, std::move(judge)));
  for (int i = 0; i < kPlacesPerGpu; ++i) {
    for (const int gpu : gpus) SIGLIP_RETURN_IF_ERROR(resizer->AddPlace(gpu));
  }
  return resizer;
}

CudaResizer::~CudaResizer() {
  for (std::unique_ptr<Place>& place : places_) {
    const CurrentDevice current(place->gpu);
    place.reset();
  }
}

absl::Status CudaResizer::AddPlace(int gpu) {
  const CurrentDevice current(gpu);
  SIGLIP_RETURN_IF_ERROR(Checked(current.result(), "device"));
  auto place = std::make_unique<Place>();
  place->gpu = gpu;
  const std::size_t input_bytes = Size(capacity_.tables + capacity_.picture);
  const std::size_t out_bytes = Size(capacity_.out);
  SIGLIP_ASSIGN_OR_RETURN(place->input_host, AllocatePinned(input_bytes, "pictures"));
  SIGLIP_ASSIGN_OR_RETURN(place->out_host, AllocatePinned(out_bytes, "resized pictures"));
  SIGLIP_ASSIGN_OR_RETURN(place->input, AllocateDevice(input_bytes, "pictures"));
  SIGLIP_ASSIGN_OR_RETURN(place->middle, AllocateDevice(Size(capacity_.middle), "pictures"));
  SIGLIP_ASSIGN_OR_RETURN(place->out, AllocateDevice(out_bytes, "resized pictures"));
  SIGLIP_ASSIGN_OR_RETURN(place->stream, MakeUrgentStream());
  SIGLIP_ASSIGN_OR_RETURN(place->done, MakeEvent());
  MutexLock lock(mu_);
  free_.push_back(place.get());
  places_.push_back(std::move(place));
  return absl::OkStatus();
}

std::int64_t CudaResizer::memory_bytes() const {
  return num_places() * (capacity_.tables + capacity_.picture + capacity_.middle + capacity_.out);
}

bool CudaResizer::Takes(std::int64_t width, std::int64_t height) const {
  return IsResizable(width, height);
}

absl::StatusOr<bool> CudaResizer::Resize(const RgbResize& resize) {
  const std::optional<ResizePlan> plan = PlanResize(resize, capacity_);
  if (!plan) return false;
  Place* place = TryAcquire();
  if (place == nullptr) return false;
  const absl::Status status = Run(resize, *plan, *place);
  Release(place);
  if (!status.ok()) return judge_(status);
  return true;
}

absl::Status CudaResizer::Run(const RgbResize& resize, const ResizePlan& plan, Place& place) const {
  const CurrentDevice current(place.gpu);
  SIGLIP_RETURN_IF_ERROR(Checked(current.result(), "device"));
  SIGLIP_RETURN_IF_ERROR(Upload(resize, plan, place));
  const ResizeMemory memory{.tables = place.input.get(),
                            .picture = place.input.get() + plan.bytes.tables,
                            .middle = place.middle.get(),
                            .out = place.out.get()};
  for (const PlannedPass& pass : plan.passes) {
    SIGLIP_RETURN_IF_ERROR(Checked(Launch(ArgsOf(pass, memory), place.stream.get()), "resize"));
  }
  SIGLIP_RETURN_IF_ERROR(
      Checked(cudaMemcpyAsync(place.out_host.get(), place.out.get(), Size(plan.bytes.out),
                              cudaMemcpyDeviceToHost, place.stream.get()),
              "resized picture"));
  SIGLIP_RETURN_IF_ERROR(
      Checked(cudaEventRecord(place.done.get(), place.stream.get()), "resized picture"));
  SIGLIP_RETURN_IF_ERROR(Checked(cudaEventSynchronize(place.done.get()), "resizing"));
  std::memcpy(resize.out, place.out_host.get(), Size(plan.bytes.out));
  return absl::OkStatus();
}

// The picture follows the tables, whose bytes are a multiple of 4.
absl::Status CudaResizer::Upload(const RgbResize& resize, const ResizePlan& plan,
                                 Place& place) const {
  WriteTables(plan, place.input_host.get());
  std::int64_t sent = 0;  // of tables and picture
  for (std::int64_t read = 0; read < plan.bytes.picture;) {
    const std::int64_t bytes = std::min(kPartBytes, plan.bytes.picture - read);
    std::memcpy(place.input_host.get() + plan.bytes.tables + read, resize.rgb + read, Size(bytes));
    read += bytes;
    const std::int64_t end = plan.bytes.tables + read;
    SIGLIP_RETURN_IF_ERROR(
        Checked(cudaMemcpyAsync(place.input.get() + sent, place.input_host.get() + sent,
                                Size(end - sent), cudaMemcpyHostToDevice, place.stream.get()),
                "picture"));
    sent = end;
  }
  return absl::OkStatus();
}

CudaResizer::Place* CudaResizer::TryAcquire() {
  MutexLock lock(mu_);
  if (free_.empty()) return nullptr;
  Place* place = free_.front();
  free_.pop_front();
  return place;
}

void CudaResizer::Release(Place* place) {
  MutexLock lock(mu_);
  free_.push_back(place);
}

}  // namespace siglip::cuda
