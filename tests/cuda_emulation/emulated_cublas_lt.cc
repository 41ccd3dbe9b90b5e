// cuBLASLt as its documentation has it (release 13.0), for the products that
// src/engine/cuda/gemm.cc describes: what the table of supported types, scales and epilogues does
// not have is refused.

#include <cublasLt.h>

#include <algorithm>
#include <string>
#include <utility>

#include "emulated_device.h"
#include "emulated_runtime.h"

#undef blockIdx
#undef threadIdx

namespace {

using siglip::cuda::emulation::CurrentDevice;
using siglip::cuda::emulation::DemandAligned;
using siglip::cuda::emulation::DemandDeviceMemory;
using siglip::cuda::emulation::Enqueue;
using siglip::cuda::emulation::Fail;

constexpr int kNumAlgorithms = 2;
constexpr std::uint32_t kBias = CUBLASLT_EPILOGUE_BIAS;
constexpr std::uint32_t kGelu = CUBLASLT_EPILOGUE_GELU;

struct Layout {
  cudaDataType type = CUDA_R_32F;
  std::int64_t rows = 0, columns = 0, stride = 0;
  std::int32_t count = 1;
  std::int64_t step = 0;
};

struct Description {
  std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  std::int32_t a_mode = 0, b_mode = 0;
  const float *a_scales = nullptr, *b_scales = nullptr;
  std::int8_t fast = 0;
};

template <class Own, class Handle>
Own& Of(Handle handle) {
  return *reinterpret_cast<Own*>(handle);
}

template <class Value>
cublasStatus_t Take(Value& to, const void* from, std::size_t bytes) {
  if (bytes != sizeof to) Fail("the size of an attribute");
  std::memcpy(&to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

std::int64_t Bytes(cudaDataType type) {
  return type == CUDA_R_32F ? 4 : type == CUDA_R_8F_E4M3 ? 1 : 2;
}

float Read(cudaDataType type, const void* from, std::int64_t at) {
  switch (type) {
    case CUDA_R_32F:
      return static_cast<const float*>(from)[at];
    case CUDA_R_16BF:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(from)[at]);
    case CUDA_R_16F:
      return __half2float(static_cast<const __half*>(from)[at]);
    default:
      return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(from)[at]);
  }
}

void Write(cudaDataType type, void* to, std::int64_t at, float value) {
  switch (type) {
    case CUDA_R_32F:
      static_cast<float*>(to)[at] = value;
      return;
    case CUDA_R_16BF:
      static_cast<__nv_bfloat16*>(to)[at] = __float2bfloat16(value);
      return;
    default:
      static_cast<__half*>(to)[at] = __float2half(value);
  }
}

bool IsSupported(const Description& description, const Layout& a, const Layout& b,
                 const Layout& c) {
  if (description.transpose_a != CUBLAS_OP_T || description.transpose_b != CUBLAS_OP_N)
    return false;
  if (a.rows != b.rows || a.columns != c.rows || b.columns != c.columns || a.type != b.type) {
    return false;
  }
  if (a.stride < a.rows || b.stride < b.rows || c.stride < c.rows) return false;
  if (a.count != b.count || a.count != c.count) return false;
  const bool scaled = description.a_scales != nullptr || description.b_scales != nullptr;
  if (a.type != CUDA_R_8F_E4M3) return !scaled && (c.type == a.type || c.type == CUDA_R_32F);
  constexpr std::int32_t kVector = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  if (description.a_mode != kVector || description.b_mode != kVector) return false;
  if (description.a_scales == nullptr || description.b_scales == nullptr) return false;
  const std::int64_t sizes = a.rows | c.rows | a.stride | b.stride | c.stride * Bytes(c.type);
  return sizes % 16 == 0 && (c.type == CUDA_R_16BF || c.type == CUDA_R_16F);
}

std::size_t SpanOf(const Layout& layout) {
  const std::int64_t values =
      (layout.count - 1) * layout.step + (layout.columns - 1) * layout.stride + layout.rows;
  return static_cast<std::size_t>(values * Bytes(layout.type));
}

// Matrix `index` of a batch, its columns one after the other.
std::vector<float> Matrix(const Layout& layout, const void* from, std::int64_t index) {
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(layout.rows * layout.columns));
  for (std::int64_t column = 0; column < layout.columns; ++column) {
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      values.push_back(Read(layout.type, from, index * layout.step + column * layout.stride + row));
    }
  }
  return values;
}

// In eight sums, which the compiler can compute side by side.
float Dot(const float* a, const float* b, std::int64_t count) {
  float sums[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (std::int64_t j = 0; j < 8; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (; i < count; ++i) sums[0] += a[i] * b[i];
  return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

float Gelu(float x) {
  return 0.5f * x * (1 + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}

struct Product {
  Description description;
  Layout a, b, c;
  float alpha = 0, beta = 0;
  const void *a_values = nullptr, *b_values = nullptr;
  void* c_values = nullptr;

  void DemandOperands() const {
    DemandDeviceMemory(a_values, SpanOf(a));
    DemandDeviceMemory(b_values, SpanOf(b));
    DemandDeviceMemory(c_values, SpanOf(c));
    DemandAligned(a_values, 16);
    DemandAligned(b_values, 16);
    if ((description.epilogue & kBias) != 0) {
      DemandDeviceMemory(description.bias, static_cast<std::size_t>(c.rows * Bytes(c.type)));
      DemandAligned(description.bias, 16);
    }
    if (a.type == CUDA_R_8F_E4M3) {
      DemandDeviceMemory(description.a_scales, static_cast<std::size_t>(4 * c.rows));
      DemandDeviceMemory(description.b_scales, static_cast<std::size_t>(4 * c.columns));
    }
  }

  void Run() const {
    for (std::int64_t index = 0; index < a.count; ++index) {
      const std::vector<float> left = Matrix(a, a_values, index);
      const std::vector<float> right = Matrix(b, b_values, index);
      for (std::int64_t column = 0; column < c.columns; ++column) {
        for (std::int64_t row = 0; row < c.rows; ++row) {
          const std::int64_t at = index * c.step + column * c.stride + row;
          float value =
              alpha * Dot(left.data() + row * a.rows, right.data() + column * b.rows, a.rows);
          if (a.type == CUDA_R_8F_E4M3) {
            value *= description.a_scales[row] * description.b_scales[column];
          }
          if (beta != 0) value += beta * Read(c.type, c_values, at);
          if ((description.epilogue & kBias) != 0) value += Read(c.type, description.bias, row);
          if ((description.epilogue & kGelu) != 0) value = Gelu(value);
          Write(c.type, c_values, at, value);
        }
      }
    }
  }
};

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* out) {
  *out = reinterpret_cast<cublasLtHandle_t>(new int(CurrentDevice()));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete &Of<int>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
std::size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
const char* cublasLtGetStatusString(cublasStatus_t status) {
  static thread_local std::string text;
  text = "status " + std::to_string(status);
  return text.c_str();
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* out, cudaDataType type,
                                          std::uint64_t rows, std::uint64_t columns,
                                          std::int64_t stride) {
  *out = reinterpret_cast<cublasLtMatrixLayout_t>(
      new Layout{.type = type,
                 .rows = static_cast<std::int64_t>(rows),
                 .columns = static_cast<std::int64_t>(columns),
                 .stride = stride});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete &Of<Layout>(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t handle,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, std::size_t bytes) {
  auto& layout = Of<Layout>(handle);
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return Take(layout.count, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return Take(layout.step, value, bytes);
    default:
      Fail("an attribute of a layout");
  }
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* out, cublasComputeType_t compute,
                                        cudaDataType scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) Fail("a type to compute in");
  *out = reinterpret_cast<cublasLtMatmulDesc_t>(new Description);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete &Of<Description>(description);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  auto& description = Of<Description>(handle);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return Take(description.transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return Take(description.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return Take(description.bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
      return Take(description.a_mode, value, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
      return Take(description.b_mode, value, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
      return Take(description.a_scales, value, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
      return Take(description.b_scales, value, bytes);
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM:
      return Take(description.fast, value, bytes);
    default:
      Fail("an attribute of a product");
  }
}

// Nothing of it changes what is chosen here.
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* out) {
  *out = reinterpret_cast<cublasLtMatmulPreference_t>(new std::uint64_t(0));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete &Of<std::uint64_t>(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
  std::uint64_t workspace = 0;
  std::uint32_t alignment = 0;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return Take(workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return Take(alignment, value, bytes);
    default:
      Fail("an attribute of a preference");
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* found) {
  *found = 0;
  if (c != d ||
      !IsSupported(Of<Description>(description), Of<Layout>(a), Of<Layout>(b), Of<Layout>(c))) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  *found = std::min(wanted, kNumAlgorithms);
  for (int i = 0; i < *found; ++i) {
    results[i] = {};
    results[i].algo.data[0] = static_cast<std::uint64_t>(i + 1);
    results[i].state = CUBLAS_STATUS_SUCCESS;
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                       const cublasLtMatmulAlgo_t*,
                                       cublasLtMatmulHeuristicResult_t* result) {
  result->workspaceSize = 0;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                              const void* alpha, const void* a_values, cublasLtMatrixLayout_t a,
                              const void* b_values, cublasLtMatrixLayout_t b, const void* beta,
                              const void* c_values, cublasLtMatrixLayout_t, void* d_values,
                              cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algorithm,
                              void* workspace, std::size_t, cudaStream_t stream) {
  const Product product = {.description = Of<Description>(description),
                           .a = Of<Layout>(a),
                           .b = Of<Layout>(b),
                           .c = Of<Layout>(d),
                           .alpha = *static_cast<const float*>(alpha),
                           .beta = *static_cast<const float*>(beta),
                           .a_values = a_values,
                           .b_values = b_values,
                           .c_values = d_values};
  if (Of<int>(handle) != CurrentDevice()) Fail("a handle of another device");
  if (c_values != d_values || !IsSupported(product.description, product.a, product.b, product.c)) {
    Fail("a product that is not supported");
  }
  if (algorithm->data[0] < 1 || algorithm->data[0] > kNumAlgorithms) Fail("an algorithm");
  DemandAligned(workspace, 256);
  product.DemandOperands();
  Enqueue(stream, [product] { product.Run(); });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
