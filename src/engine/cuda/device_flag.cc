#include "engine/cuda/device_flag.h"

#include <algorithm>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace siglip {
namespace {

// More than any machine has; only bounds a wrong flag.
constexpr int kMaxOrdinal = 1023;

}  // namespace

absl::StatusOr<DeviceChoice> ParseDevice(std::string_view text) {
  const absl::Status error = absl::InvalidArgumentError(
      absl::StrCat("device: expected auto, cpu, cuda, or cuda:N[,N...] with different N, got ",
                   std::string(text)));
  if (text == "auto") return DeviceChoice{DeviceChoice::Kind::kAuto, {}};
  if (text == "cpu") return DeviceChoice{DeviceChoice::Kind::kCpu, {}};
  if (text == "cuda") return DeviceChoice{DeviceChoice::Kind::kCuda, {0}};
  constexpr std::string_view kPrefix = "cuda:";
  if (!text.starts_with(kPrefix)) return error;
  DeviceChoice choice{DeviceChoice::Kind::kCuda, {}};
  const std::string list(text.substr(kPrefix.size()));
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(list, ','))) {
    const bool digits = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    int ordinal = 0;
    if (!digits || !absl::SimpleAtoi(part, &ordinal) || ordinal > kMaxOrdinal) return error;
    if (std::find(choice.gpus.begin(), choice.gpus.end(), ordinal) != choice.gpus.end()) {
      return error;
    }
    choice.gpus.push_back(ordinal);
  }
  return choice;
}

}  // namespace siglip
