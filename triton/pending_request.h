#pragma once

// A request that Triton handed to a backend: what it asks, and the one answer to it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/aligned_buffer.h"
#include "serving/model_config.h"
#include "serving/request.h"
#include "triton/core/tritonbackend.h"

namespace siglip::triton {

// Of one execution, steady-clock nanoseconds, as Triton's statistics divide it: inputs are read
// from start_ns, the work runs from compute_start_ns to compute_end_ns, outputs are handed over
// until end_ns.
struct ExecutionTimes {
  std::int64_t start_ns = 0;
  std::int64_t compute_start_ns = 0;
  std::int64_t compute_end_ns = 0;
  std::int64_t end_ns = 0;
};

// Owns the request until Finish, which answers it, reports its statistics and releases it.
// Destroyed unfinished, it answers Internal. Confined to one thread at a time.
class PendingRequest {
 public:
  PendingRequest(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request) noexcept;
  ~PendingRequest();
  PendingRequest(PendingRequest&& other) noexcept;
  PendingRequest& operator=(PendingRequest&&) = delete;

  // The request as serving knows it, checked against `config`. Its inputs borrow Triton's buffers
  // where they are in one piece, and so does `is_cancelled` the request: both until Finish.
  // Cancelled if the client has gone. Unimplemented for buffers on a GPU.
  absl::StatusOr<std::unique_ptr<InferRequest>> Read(const ModelConfig& config) const;

  // An output of the answer. Where to write it: Triton's own buffer, or one that Finish copies
  // there if that one is not aligned for the type. Valid until Finish.
  absl::StatusOr<std::span<std::byte>> AddOutput(const std::string& name, DataType type,
                                                 const std::vector<std::int64_t>& shape,
                                                 std::size_t bytes);

  // Copies what AddOutput could not give in place. Before the time is taken that Finish reports.
  void CompleteOutputs();
  // Sends the outputs, or the error without them. Nothing of Triton's may be touched afterwards:
  // this can have been the model's last request.
  void Finish(const absl::Status& status, const ExecutionTimes& times);

  bool finished() const { return request_ == nullptr; }

 private:
  struct Copy {
    AlignedBuffer<std::byte> from;
    void* to;
  };

  TRITONBACKEND_ModelInstance* const instance_;
  TRITONBACKEND_Request* request_;
  TRITONBACKEND_Response* response_ = nullptr;
  std::vector<Copy> copies_;
};

// Our type of Triton's, if it is one.
std::optional<DataType> FromTriton(TRITONSERVER_DataType type);
TRITONSERVER_DataType ToTriton(DataType type);

}  // namespace siglip::triton
