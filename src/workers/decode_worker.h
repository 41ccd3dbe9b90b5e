#pragma once

// The program of a decode worker: a process that does nothing but turn pictures into pixels, inside
// the sandbox (sandbox.h). It is the server's own executable, started with one argument.

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "image/preprocess.h"

namespace siglip {

// The only argument. main() looks for it before anything else and then calls RunDecodeWorker.
inline constexpr std::string_view kDecodeWorkerArgument = "decode-worker";

// CPU time after which a worker asks to be replaced, between two pictures: what a library has
// leaked or damaged goes with it.
inline constexpr int kWorkerLifeCpuSeconds = 600;
// Address space that decoding may take. Pillow's limit of pixels as a progressive CMYK JPEG needs
// 2.7 GB: 8 bytes of coefficients, 4 of CMYK and 3 of RGB a pixel.
inline constexpr long long kWorkerMemoryBytes = 4LL << 30;

// What a worker runs.
struct DecodeWorkerTasks {
  absl::StatusOr<ImageHeader> (*read_header)(const Preprocessor& preprocessor,
                                             std::string_view bytes);
  absl::StatusOr<PixelSize> (*preprocess)(const Preprocessor& preprocessor, std::string_view bytes,
                                          float* pixels, StageTimes& times);
  absl::StatusOr<RgbImage> (*decode)(const Preprocessor& preprocessor, std::string_view bytes);
};

// Enters the sandbox, says so, and serves until the server is gone. Returns the exit code of the
// process; prints nothing. The second form runs other tasks, for tests of the sandbox.
int RunDecodeWorker();
int RunDecodeWorker(const DecodeWorkerTasks& tasks);

}  // namespace siglip
