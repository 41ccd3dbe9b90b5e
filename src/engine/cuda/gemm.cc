#include "engine/cuda/gemm.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace siglip::cuda {
namespace {

cudaDataType_t DataTypeOf(Type type) {
  switch (type) {
    case Type::kBf16:
      return CUDA_R_16BF;
    case Type::kFp16:
      return CUDA_R_16F;
    case Type::kE4m3:
      return CUDA_R_8F_E4M3;
    case Type::kFp32:
      break;
  }
  return CUDA_R_32F;
}

const char* Name(Type type) {
  constexpr std::array<const char*, 4> kNames = {"bf16", "fp16", "fp32", "e4m3"};
  return kNames[static_cast<std::size_t>(type)];
}

struct Matrix {
  Type type;
  std::int64_t rows, columns, stride;  // column-major, as cuBLAS has them
  std::int64_t count, step;
};

absl::StatusOr<LtLayout> MakeLayout(const Matrix& matrix) {
  cublasLtMatrixLayout_t layout = nullptr;
  SIGLIP_RETURN_IF_ERROR(
      Checked(cublasLtMatrixLayoutCreate(&layout, DataTypeOf(matrix.type),
                                         static_cast<std::uint64_t>(matrix.rows),
                                         static_cast<std::uint64_t>(matrix.columns), matrix.stride),
              "matrix layout"));
  LtLayout owned(layout);
  if (matrix.count == 1) return owned;
  const auto count = static_cast<std::int32_t>(matrix.count);
  SIGLIP_RETURN_IF_ERROR(
      Checked(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                               sizeof(count)),
              "batch count"));
  SIGLIP_RETURN_IF_ERROR(
      Checked(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                               &matrix.step, sizeof(matrix.step)),
              "batch step"));
  return owned;
}

cublasLtEpilogue_t EpilogueOf(const GemmShape& shape) {
  if (shape.gelu) return shape.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  return shape.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

}  // namespace

std::string GemmShape::Key() const {
  return absl::StrCat("m", rows, " n", n, " k", k, " x", count, " ", Name(factors), " ", Name(y),
                      " strides ", x_stride, " ", y_stride, " steps ", x_step, " ", weight_step,
                      " ", y_step, " alignments ", x_alignment, " ", y_alignment,
                      bias ? " bias" : "", gelu ? " gelu" : "", accumulate ? " add" : "");
}

template <class Value>
absl::Status Gemm::Set(cublasLtMatmulDescAttributes_t attribute, const Value& value) const {
  return Checked(cublasLtMatmulDescSetAttribute(matmul_.get(), attribute, &value, sizeof(value)),
                 "product description");
}

// Row-major y = x * weight^T is, read as column-major, y^T = weight * x^T: cuBLAS's first matrix is
// the weight, [k, n] and transposed, its second is x, [k, rows].
absl::StatusOr<Gemm> Gemm::Make(const GemmShape& shape) {
  Gemm gemm(shape);
  cublasLtMatmulDesc_t matmul = nullptr;
  SIGLIP_RETURN_IF_ERROR(Checked(cublasLtMatmulDescCreate(&matmul, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                                 "product description"));
  gemm.matmul_.reset(matmul);
  SIGLIP_RETURN_IF_ERROR(gemm.Set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T));
  SIGLIP_RETURN_IF_ERROR(gemm.Set(CUBLASLT_MATMUL_DESC_EPILOGUE, EpilogueOf(shape)));
  if (shape.factors == Type::kE4m3) {
    // Hopper's tensor cores sum e4m3 in some 14 bits, and faster if what they have is not added to
    // float32 every few steps: little beside e4m3's 4 bits.
    SIGLIP_RETURN_IF_ERROR(gemm.Set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, std::int8_t{1}));
    const std::int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    SIGLIP_RETURN_IF_ERROR(gemm.Set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode));
    SIGLIP_RETURN_IF_ERROR(gemm.Set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode));
    // cuBLASLt offers no algorithm in this mode without addresses of scales. Nothing reads these:
    // Run sets the real ones.
    const void* const some = reinterpret_cast<const void*>(std::uintptr_t{256});
    SIGLIP_RETURN_IF_ERROR(gemm.Set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, some));
    SIGLIP_RETURN_IF_ERROR(gemm.Set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, some));
  }
  SIGLIP_ASSIGN_OR_RETURN(gemm.weight_, MakeLayout({shape.factors, shape.k, shape.n, shape.k,
                                                    shape.count, shape.weight_step}));
  SIGLIP_ASSIGN_OR_RETURN(gemm.x_, MakeLayout({shape.factors, shape.k, shape.rows, shape.x_stride,
                                               shape.count, shape.x_step}));
  SIGLIP_ASSIGN_OR_RETURN(gemm.y_, MakeLayout({shape.y, shape.n, shape.rows, shape.y_stride,
                                               shape.count, shape.y_step}));
  return gemm;
}

absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> Gemm::Candidates(
    cublasLtHandle_t handle, int count, std::size_t workspace_bytes) const {
  cublasLtMatmulPreference_t created = nullptr;
  SIGLIP_RETURN_IF_ERROR(Checked(cublasLtMatmulPreferenceCreate(&created), "preference"));
  const LtPreference preference(created);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    return Checked(
        cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
        "preference");
  };
  const std::uint64_t workspace = workspace_bytes;
  const auto x_alignment = static_cast<std::uint32_t>(shape_.x_alignment);
  const auto y_alignment = static_cast<std::uint32_t>(shape_.y_alignment);
  absl::Status status = set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
  status.Update(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x_alignment));
  status.Update(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y_alignment));
  status.Update(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y_alignment));
  if (!status.ok()) return status;
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(count));
  int found = 0;
  const cublasStatus_t error =
      cublasLtMatmulAlgoGetHeuristic(handle, matmul_.get(), weight_.get(), x_.get(), y_.get(),
                                     y_.get(), preference.get(), count, results.data(), &found);
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < found; ++i) {
    if (results[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(results[i].algo);
  }
  if (algorithms.empty()) {
    return absl::InternalError(absl::StrCat("cuBLASLt has no algorithm here for ", shape_.Key(),
                                            ": ", cublasLtGetStatusString(error)));
  }
  return algorithms;
}

bool Gemm::Accepts(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
                   std::size_t workspace_bytes) const {
  cublasLtMatmulHeuristicResult_t result = {};
  return cublasLtMatmulAlgoCheck(handle, matmul_.get(), weight_.get(), x_.get(), y_.get(), y_.get(),
                                 &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= workspace_bytes;
}

absl::Status Gemm::Run(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
                       const GemmOperands& operands, void* workspace, std::size_t workspace_bytes,
                       cudaStream_t stream) const {
  if (shape_.bias) {
    SIGLIP_RETURN_IF_ERROR(Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias));
  }
  if (shape_.factors == Type::kE4m3) {
    SIGLIP_RETURN_IF_ERROR(Set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, operands.weight_scales));
    SIGLIP_RETURN_IF_ERROR(Set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, operands.x_scales));
  }
  const float one = 1;
  const float beta = shape_.accumulate ? 1 : 0;
  const cublasStatus_t error = cublasLtMatmul(
      handle, matmul_.get(), &one, operands.weight, weight_.get(), operands.x, x_.get(), &beta,
      operands.y, y_.get(), operands.y, y_.get(), &algorithm, workspace, workspace_bytes, stream);
  if (error == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return Checked(error, shape_.Key());
}

}  // namespace siglip::cuda
