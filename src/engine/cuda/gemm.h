#pragma once

// Linear layers through cuBLASLt: bias, tanh-GELU and the residual are its epilogues.

#include <cublasLt.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/cuda/handles.h"
#include "kernels/cuda/launch.h"

namespace siglip::cuda {

// y = gelu?(x * weight^T + bias), or y += x * weight^T + bias; see LinearOp. Everything an
// algorithm depends on.
struct GemmShape {
  Type factors = Type::kBf16;  // kE4m3: rows of x and weight by scales of their own
  Type y = Type::kBf16;
  std::int64_t rows = 0, n = 0, k = 0, count = 1;
  std::int64_t x_stride = 0, y_stride = 0;
  std::int64_t x_step = 0, weight_step = 0, y_step = 0;
  // Of the first element, a power of two up to 256.
  std::int64_t x_alignment = 256, y_alignment = 256;
  bool bias = false, gelu = false, accumulate = false;

  // One line of text, different for different shapes.
  std::string Key() const;
};

struct GemmOperands {
  const void* x = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  void* y = nullptr;
  const float* x_scales = nullptr;       // kE4m3 only
  const float* weight_scales = nullptr;  // kE4m3 only
};

// Thread-compatible: Run sets pointers in the description.
class Gemm {
 public:
  static absl::StatusOr<Gemm> Make(const GemmShape& shape);

  // Up to `count` algorithms that need at most `workspace_bytes`, the likely best first. Internal,
  // with the shape, if there is none.
  absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> Candidates(cublasLtHandle_t handle, int count,
                                                               std::size_t workspace_bytes) const;
  // Whether an algorithm from a file does for this shape here.
  bool Accepts(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
               std::size_t workspace_bytes) const;
  absl::Status Run(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
                   const GemmOperands& operands, void* workspace, std::size_t workspace_bytes,
                   cudaStream_t stream) const;

 private:
  explicit Gemm(const GemmShape& shape) : shape_(shape) {}
  template <class Value>
  absl::Status Set(cublasLtMatmulDescAttributes_t attribute, const Value& value) const;

  GemmShape shape_;
  LtMatmul matmul_;
  LtLayout weight_, x_, y_;
};

}  // namespace siglip::cuda
