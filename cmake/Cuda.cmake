# The CUDA toolkit, and cuDNN's attention: its library comes with the toolkit (or Debian's and NVIDIA's packages), the
# headers of its frontend out of the PyPI wheel nvidia-cudnn-frontend, in .venv/cuda. Without either the engine uses its
# own attention kernel alone.
if(NOT TARGET CUDA::nvToolsExt)
  # CUDA 13 has no such library, and Debian 12's CMake 3.25.1 fails to mark it as deprecated if it is not there.
  add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
endif()
find_package(CUDAToolkit 12.9 REQUIRED)
if(NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF)  # said per target
enable_language(CUDA)

set(SIGLIP_CUDNN_FRONTEND_FOUND FALSE)
file(GLOB cudnn_frontend ${CMAKE_SOURCE_DIR}/.venv/cuda/lib/python3*/site-packages/include)
find_library(SIGLIP_CUDNN_LIBRARY NAMES libcudnn.so.9 cudnn HINTS ${CUDAToolkit_LIBRARY_DIR})
find_path(SIGLIP_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(cudnn_frontend AND SIGLIP_CUDNN_LIBRARY AND SIGLIP_CUDNN_INCLUDE)
  set(SIGLIP_CUDNN_FRONTEND_FOUND TRUE)
  add_library(siglip_cudnn_frontend INTERFACE)
  target_include_directories(siglip_cudnn_frontend SYSTEM INTERFACE ${cudnn_frontend} ${SIGLIP_CUDNN_INCLUDE})
  target_compile_definitions(siglip_cudnn_frontend INTERFACE CUDNN_FRONTEND_SKIP_JSON_LIB)
  target_link_libraries(siglip_cudnn_frontend INTERFACE ${SIGLIP_CUDNN_LIBRARY} CUDA::nvrtc CUDA::cuda_driver
                        CUDA::cudart_static)
else()
  message(STATUS "cuDNN's attention: not built in (tools/setup/install.sh venv cuda, and cuDNN 9)")
endif()
