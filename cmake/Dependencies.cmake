# Every third-party part, found on the system (Debian 12 package named beside each). Nothing is
# downloaded at configure or build time.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

# Errors, strings, base64, spans. Package libabsl-dev (grpc++ brings it).
find_package(absl REQUIRED)
# Configs' JSON. Package nlohmann-json3-dev.
find_package(nlohmann_json REQUIRED)
# Logs. Package libspdlog-dev.
find_package(spdlog REQUIRED)
# Image codecs, the ones Pillow uses. Packages libjpeg62-turbo-dev, libpng-dev, libwebp-dev,
# libgif-dev, libtiff-dev, libavif-dev, libopenjp2-7-dev, liblcms2-dev.
find_package(JPEG REQUIRED)
find_package(ZLIB REQUIRED)
pkg_check_modules(png REQUIRED IMPORTED_TARGET libpng)
pkg_check_modules(webp REQUIRED IMPORTED_TARGET libwebp libwebpdemux)
find_package(GIF REQUIRED)
find_package(TIFF REQUIRED)
pkg_check_modules(avif REQUIRED IMPORTED_TARGET libavif)
pkg_check_modules(openjp2 REQUIRED IMPORTED_TARGET libopenjp2)
pkg_check_modules(lcms2 REQUIRED IMPORTED_TARGET lcms2)
# The tokenizer's own library. Package libsentencepiece-dev.
pkg_check_modules(sentencepiece REQUIRED IMPORTED_TARGET sentencepiece)
# Portable SIMD with run-time dispatch. Package libhwy-dev.
pkg_check_modules(hwy REQUIRED IMPORTED_TARGET libhwy)
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
  # NEON and SVE of 256 bits; why no others: docs/instruction-sets.md. The option gives SVE's registers a size that
  # arrays of them need, and changes nothing else: Highway picks SVE_256 only where the machine's have it.
  target_compile_definitions(PkgConfig::hwy INTERFACE "HWY_DISABLED_TARGETS=(HWY_SVE|HWY_SVE2|HWY_SVE2_128)")
  target_compile_options(PkgConfig::hwy INTERFACE -msve-vector-bits=256)
endif()
# SHA-256 of checkpoints, job lists and goldens. Package libssl-dev.
find_package(OpenSSL REQUIRED)
# Requests' JSON, and SigLIP 2's tokenizer.json of 34 MB. Package libsimdjson-dev.
find_package(simdjson REQUIRED)

# The server and the command line.
if(SIGLIP_BUILD_PROGRAM)
  # Messages of the protocol, config.pbtxt. Packages libprotobuf-dev, protobuf-compiler.
  find_package(Protobuf REQUIRED)
  # Linked from the archive: see src/protocol/CMakeLists.txt.
  find_library(SIGLIP_PROTOBUF_ARCHIVE NAMES libprotobuf.a REQUIRED)
  # Packages libgrpc++-dev, protobuf-compiler-grpc.
  find_package(gRPC CONFIG REQUIRED)
  # HTTP: Boost.Beast and Asio, header-only. Package libboost1.81-dev.
  find_package(Boost 1.81 REQUIRED)
  # Images behind URLs, for OpenAI's door. Package libcurl4-openssl-dev.
  find_package(CURL 7.85 REQUIRED)
  # Metrics in Prometheus' text form. Package prometheus-cpp-dev.
  find_package(prometheus-cpp CONFIG REQUIRED)
  # Flags. Package libcli11-dev.
  find_package(CLI11 REQUIRED)
  # Tar archives of `siglip embed`. Package libarchive-dev.
  find_package(LibArchive REQUIRED)
  # Approximate search: a graph of neighbours, header-only. Package libhnswlib-dev. Its own SIMD is chosen by compiler
  # flags, and unused: distances are the kernels'.
  find_path(SIGLIP_HNSWLIB_INCLUDE hnswlib/hnswlib.h REQUIRED)
  add_library(siglip_hnswlib INTERFACE)
  target_include_directories(siglip_hnswlib SYSTEM INTERFACE ${SIGLIP_HNSWLIB_INCLUDE})
  target_compile_definitions(siglip_hnswlib INTERFACE NO_MANUAL_VECTORIZATION)
  # For tests that build a graph: it takes its locks in two orders, which ThreadSanitizer reports in one thread too. A thread
  # that holds its new row's lock and waits has not linked that row yet, so nobody waits for it.
  set(SIGLIP_HNSWLIB_TEST_ENV
      "TSAN_OPTIONS=detect_deadlocks=0:history_size=4:suppressions=${CMAKE_SOURCE_DIR}/tests/sanitizers/tsan.supp")
  # Parquet, optional: Apache Arrow out of the PyPI wheel pyarrow, which Debian 12 does not package.
  include(Arrow)
endif()

# Packages libgtest-dev, libgmock-dev, libbenchmark-dev.
if(SIGLIP_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
if(SIGLIP_BUILD_BENCH)
  find_package(benchmark REQUIRED)
endif()

# GPUs, optional: the CUDA toolkit (12.9 or newer) and cuDNN, which Debian 12 does not package.
if(SIGLIP_CUDA)
  include(Cuda)
endif()
