// The numbers of the ABI: true of our own declarations, and, with -DSIGLIP_TRITON_INCLUDE_DIR, of
// the headers given.

#include <cstdint>
#include <type_traits>

#include "triton/core/tritonbackend.h"

static_assert(TRITONSERVER_TYPE_INVALID == 0 && TRITONSERVER_TYPE_BOOL == 1);
static_assert(TRITONSERVER_TYPE_UINT8 == 2 && TRITONSERVER_TYPE_INT64 == 9);
static_assert(TRITONSERVER_TYPE_FP16 == 10 && TRITONSERVER_TYPE_FP32 == 11);
static_assert(TRITONSERVER_TYPE_FP64 == 12 && TRITONSERVER_TYPE_BYTES == 13);
static_assert(TRITONSERVER_TYPE_BF16 == 14);
static_assert(TRITONSERVER_MEMORY_CPU == 0 && TRITONSERVER_MEMORY_CPU_PINNED == 1);
static_assert(TRITONSERVER_MEMORY_GPU == 2);
static_assert(TRITONSERVER_PARAMETER_STRING == 0 && TRITONSERVER_PARAMETER_INT == 1);
static_assert(TRITONSERVER_PARAMETER_BOOL == 2 && TRITONSERVER_PARAMETER_DOUBLE == 3);
static_assert(TRITONSERVER_PARAMETER_BYTES == 4);
static_assert(TRITONSERVER_INSTANCEGROUPKIND_AUTO == 0 && TRITONSERVER_INSTANCEGROUPKIND_CPU == 1);
static_assert(TRITONSERVER_INSTANCEGROUPKIND_GPU == 2 && TRITONSERVER_INSTANCEGROUPKIND_MODEL == 3);
static_assert(TRITONSERVER_LOG_INFO == 0 && TRITONSERVER_LOG_WARN == 1);
static_assert(TRITONSERVER_LOG_ERROR == 2 && TRITONSERVER_LOG_VERBOSE == 3);
static_assert(TRITONSERVER_ERROR_UNKNOWN == 0 && TRITONSERVER_ERROR_INTERNAL == 1);
static_assert(TRITONSERVER_ERROR_NOT_FOUND == 2 && TRITONSERVER_ERROR_INVALID_ARG == 3);
static_assert(TRITONSERVER_ERROR_UNAVAILABLE == 4 && TRITONSERVER_ERROR_UNSUPPORTED == 5);
static_assert(TRITONSERVER_ERROR_ALREADY_EXISTS == 6 && TRITONSERVER_ERROR_CANCELLED == 7);
static_assert(TRITONSERVER_REQUEST_RELEASE_ALL == 1);
static_assert(TRITONSERVER_RESPONSE_COMPLETE_FINAL == 1);
static_assert(TRITONBACKEND_ARTIFACT_FILESYSTEM == 0);

static_assert(
    std::is_same_v<decltype(&TRITONBACKEND_RequestOutputName),
                   TRITONSERVER_Error* (*)(TRITONBACKEND_Request*, std::uint32_t, const char**)>);
// Calling conventions: an enum is passed as an int.
static_assert(sizeof(TRITONSERVER_DataType) == sizeof(int));
static_assert(sizeof(TRITONSERVER_MemoryType) == sizeof(int));
static_assert(std::is_same_v<decltype(&TRITONBACKEND_ModelInstanceExecute),
                             TRITONSERVER_Error* (*)(TRITONBACKEND_ModelInstance*,
                                                     TRITONBACKEND_Request**, std::uint32_t)>);
