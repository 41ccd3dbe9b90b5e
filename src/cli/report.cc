#include "cli/report.h"

#include <iostream>

#include "absl/strings/cord.h"

namespace siglip::cli {

namespace {

constexpr const char* kUsagePayload = "siglip/usage";

}  // namespace

int Fail(const absl::Status& status) {
  std::cerr << "error: " << status.message() << '\n';
  return status.GetPayload(kUsagePayload).has_value() ? kUsage : kFailure;
}

absl::Status Usage(absl::Status status) {
  if (absl::IsInvalidArgument(status)) status.SetPayload(kUsagePayload, absl::Cord());
  return status;
}

}  // namespace siglip::cli
