#include "serving/cuda_ipc.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/dynamic_library.h"
#include "base/mutex.h"
#include "base/status_macros.h"

namespace siglip {
namespace {

// What is used of NVIDIA's cuda.h. Its ABI stays: a call that changes gets another suffix.
using CuResult = int;
using CuDevice = int;
using CuContext = void*;
using CuStream = void*;
using CuAddress = unsigned long long;
constexpr CuResult kCuSuccess = 0;
constexpr unsigned kCuLazyEnablePeerAccess = 1;
constexpr unsigned kCuStreamNonBlocking = 1;

}  // namespace

struct CudaIpc::Driver {
  static absl::StatusOr<std::unique_ptr<Driver>> Load(const std::string& name);
  absl::Status Check(const char* call, CuResult result) const {
    if (result == kCuSuccess) return absl::OkStatus();
    const char* text = nullptr;
    if (error_string(result, &text) != kCuSuccess || text == nullptr) text = "unknown error";
    return absl::InternalError(absl::StrCat(call, ": ", text, " (", result, ")"));
  }

  struct IpcHandle {
    char bytes[kCudaIpcHandleBytes];
  };

  DynamicLibrary library;
  int devices = 0;
  CuResult (*init)(unsigned flags) = nullptr;
  CuResult (*error_string)(CuResult, const char**) = nullptr;
  CuResult (*device_count)(int*) = nullptr;
  CuResult (*device_get)(CuDevice*, int ordinal) = nullptr;
  CuResult (*context_retain)(CuContext*, CuDevice) = nullptr;
  CuResult (*context_release)(CuDevice) = nullptr;
  CuResult (*context_push)(CuContext) = nullptr;
  CuResult (*context_pop)(CuContext*) = nullptr;
  CuResult (*stream_create)(CuStream*, unsigned flags) = nullptr;
  CuResult (*stream_destroy)(CuStream) = nullptr;
  CuResult (*stream_synchronize)(CuStream) = nullptr;
  CuResult (*ipc_open)(CuAddress*, IpcHandle, unsigned flags) = nullptr;
  CuResult (*ipc_close)(CuAddress) = nullptr;
  CuResult (*address_range)(CuAddress* base, std::size_t* size, CuAddress) = nullptr;
  CuResult (*copy_to_host)(void*, CuAddress, std::size_t, CuStream) = nullptr;
  CuResult (*copy_to_device)(CuAddress, const void*, std::size_t, CuStream) = nullptr;
};

absl::StatusOr<std::unique_ptr<CudaIpc::Driver>> CudaIpc::Driver::Load(const std::string& name) {
  auto driver = std::make_unique<Driver>();
  SIGLIP_ASSIGN_OR_RETURN(driver->library, DynamicLibrary::Open(name));
  driver->library.Find("cuInit", driver->init);
  driver->library.Find("cuGetErrorString", driver->error_string);
  driver->library.Find("cuDeviceGetCount", driver->device_count);
  driver->library.Find("cuDeviceGet", driver->device_get);
  driver->library.Find("cuDevicePrimaryCtxRetain", driver->context_retain);
  driver->library.Find("cuDevicePrimaryCtxRelease_v2", driver->context_release);
  driver->library.Find("cuCtxPushCurrent_v2", driver->context_push);
  driver->library.Find("cuCtxPopCurrent_v2", driver->context_pop);
  driver->library.Find("cuStreamCreate", driver->stream_create);
  driver->library.Find("cuStreamDestroy_v2", driver->stream_destroy);
  driver->library.Find("cuStreamSynchronize", driver->stream_synchronize);
  driver->library.Find("cuIpcOpenMemHandle_v2", driver->ipc_open);
  driver->library.Find("cuIpcCloseMemHandle", driver->ipc_close);
  driver->library.Find("cuMemGetAddressRange_v2", driver->address_range);
  driver->library.Find("cuMemcpyDtoHAsync_v2", driver->copy_to_host);
  driver->library.Find("cuMemcpyHtoDAsync_v2", driver->copy_to_device);
  SIGLIP_RETURN_IF_ERROR(driver->library.Complete());
  absl::Status started = driver->Check("cuInit", driver->init(0));
  if (started.ok()) {
    started = driver->Check("cuDeviceGetCount", driver->device_count(&driver->devices));
  }
  if (!started.ok()) return absl::FailedPreconditionError(started.message());
  if (driver->devices == 0) return absl::FailedPreconditionError("cuDeviceGetCount: no GPU");
  return driver;
}

// One GPU. Its primary context is retained when it is first used, which takes a while and some
// hundred MB of it.
struct CudaIpc::Device {
  absl::Status Start(const Driver& driver, int ordinal) {
    MutexLock lock(mu);
    if (context != nullptr) return absl::OkStatus();
    SIGLIP_RETURN_IF_ERROR(driver.Check("cuDeviceGet", driver.device_get(&device, ordinal)));
    CuContext retained = nullptr;
    SIGLIP_RETURN_IF_ERROR(
        driver.Check("cuDevicePrimaryCtxRetain", driver.context_retain(&retained, device)));
    absl::Status created = driver.Check("cuCtxPushCurrent", driver.context_push(retained));
    if (created.ok()) {
      created = driver.Check("cuStreamCreate", driver.stream_create(&stream, kCuStreamNonBlocking));
      CuContext popped = nullptr;
      driver.context_pop(&popped);
    }
    if (!created.ok()) {
      driver.context_release(device);
      return created;
    }
    context = retained;
    return absl::OkStatus();
  }

  Mutex mu;
  // Written once, under mu, and read after that.
  CuDevice device = 0;
  CuContext context = nullptr;
  CuStream stream = nullptr;
};

namespace {

// Calls `work` with the context current, as the driver wants it, and the thread's own one restored.
template <class Driver, class Work>
absl::Status WithContext(const Driver& driver, CuContext context, Work&& work) {
  SIGLIP_RETURN_IF_ERROR(driver.Check("cuCtxPushCurrent", driver.context_push(context)));
  const absl::Status status = work();
  CuContext popped = nullptr;
  driver.context_pop(&popped);
  return status;
}

}  // namespace

class CudaIpc::Memory : public SharedBytes {
 public:
  Memory(std::shared_ptr<const CudaIpc> cuda, const Device& device, CuAddress address,
         std::uint64_t size)
      : cuda_(std::move(cuda)), device_(device), address_(address), size_(size) {}
  ~Memory() override {
    // An error has nobody to tell it to: the GPU is lost, or the process ends.
    static_cast<void>(WithContext(driver(), device_.context, [this] {
      return driver().Check("cuIpcCloseMemHandle", driver().ipc_close(address_));
    }));
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::uint64_t size() const override { return size_; }
  absl::Status Read(std::span<std::byte> bytes, std::uint64_t offset) const override {
    return Copy("cuMemcpyDtoH", offset, bytes.size(), [&] {
      return driver().copy_to_host(bytes.data(), address_ + offset, bytes.size(), device_.stream);
    });
  }
  absl::Status Write(std::span<const std::byte> bytes, std::uint64_t offset) const override {
    return Copy("cuMemcpyHtoD", offset, bytes.size(), [&] {
      return driver().copy_to_device(address_ + offset, bytes.data(), bytes.size(), device_.stream);
    });
  }

 private:
  const Driver& driver() const { return *cuda_->driver_; }
  template <class Start>
  absl::Status Copy(const char* call, std::uint64_t offset, std::uint64_t bytes,
                    Start&& start) const {
    if (offset > size_ || bytes > size_ - offset) {
      return absl::InternalError(absl::StrCat("it has ", size_, " bytes"));
    }
    if (bytes == 0) return absl::OkStatus();
    return WithContext(driver(), device_.context, [&]() -> absl::Status {
      SIGLIP_RETURN_IF_ERROR(driver().Check(call, start()));
      return driver().Check(call, driver().stream_synchronize(device_.stream));
    });
  }

  const std::shared_ptr<const CudaIpc> cuda_;
  const Device& device_;
  const CuAddress address_;
  const std::uint64_t size_;
};

absl::StatusOr<std::shared_ptr<CudaIpc>> CudaIpc::Load(const std::string& library) {
  SIGLIP_ASSIGN_OR_RETURN(std::unique_ptr<const Driver> driver, Driver::Load(library));
  return std::shared_ptr<CudaIpc>(new CudaIpc(std::move(driver)));
}

CudaIpc::CudaIpc(std::unique_ptr<const Driver> driver)
    : driver_(std::move(driver)),
      devices_(std::make_unique<Device[]>(static_cast<std::size_t>(driver_->devices))) {}

CudaIpc::~CudaIpc() {
  for (int i = 0; i < driver_->devices; ++i) {
    const Device& device = devices_[static_cast<std::size_t>(i)];
    if (device.context == nullptr) continue;
    static_cast<void>(WithContext(*driver_, device.context, [&] {
      return driver_->Check("cuStreamDestroy", driver_->stream_destroy(device.stream));
    }));
    driver_->context_release(device.device);
  }
}

absl::StatusOr<std::shared_ptr<const SharedBytes>> CudaIpc::Open(std::string_view handle,
                                                                 std::int64_t device_id) {
  if (handle.size() != kCudaIpcHandleBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a handle of ", kCudaIpcHandleBytes, " bytes, got ", handle.size()));
  }
  if (device_id < 0 || device_id >= driver_->devices) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a device_id from 0 to ", driver_->devices - 1, ", got ", device_id));
  }
  Device& device = devices_[static_cast<std::size_t>(device_id)];
  SIGLIP_RETURN_IF_ERROR(device.Start(*driver_, static_cast<int>(device_id)));
  Driver::IpcHandle ipc{};
  std::memcpy(ipc.bytes, handle.data(), handle.size());
  std::shared_ptr<const SharedBytes> memory;
  SIGLIP_RETURN_IF_ERROR(WithContext(*driver_, device.context, [&]() -> absl::Status {
    CuAddress address = 0;
    const absl::Status opened = driver_->Check(
        "cuIpcOpenMemHandle", driver_->ipc_open(&address, ipc, kCuLazyEnablePeerAccess));
    if (!opened.ok()) return absl::InvalidArgumentError(opened.message());
    CuAddress base = 0;
    std::size_t size = 0;
    const absl::Status ranged =
        driver_->Check("cuMemGetAddressRange", driver_->address_range(&base, &size, address));
    if (!ranged.ok()) {
      driver_->ipc_close(address);
      return ranged;
    }
    memory = std::make_shared<Memory>(shared_from_this(), device, address, size - (address - base));
    return absl::OkStatus();
  }));
  return memory;
}

}  // namespace siglip
