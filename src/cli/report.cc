#include "cli/report.h"

#include <iostream>

#include "absl/strings/cord.h"
#include "base/log.h"

namespace siglip::cli {

namespace {

constexpr const char* kUsagePayload = "siglip/usage";

}  // namespace

void SayFailed(std::string_view name, std::string_view why) {
  std::cerr << "failed: " << Printable(name) << ": " << Printable(why) << '\n';
}

int Fail(const absl::Status& status) {
  std::cerr << "error: " << Printable(std::string(status.message())) << '\n';
  return status.GetPayload(kUsagePayload).has_value() ? kUsage : kFailure;
}

absl::Status Usage(absl::Status status) {
  if (absl::IsInvalidArgument(status)) status.SetPayload(kUsagePayload, absl::Cord());
  return status;
}

}  // namespace siglip::cli
