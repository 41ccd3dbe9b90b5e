#pragma once

// The text of --device: "auto", "cpu", "cuda" (the first GPU) or "cuda:0,2".

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace siglip {

struct DeviceChoice {
  enum class Kind { kAuto, kCpu, kCuda };
  Kind kind = Kind::kAuto;
  std::vector<int> gpus;  // kCuda only: at least one, each once
};

// InvalidArgument: "device: expected ..., got ...".
absl::StatusOr<DeviceChoice> ParseDevice(std::string_view text);

}  // namespace siglip
