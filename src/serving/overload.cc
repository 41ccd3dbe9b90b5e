#include "serving/overload.h"

#include "absl/strings/cord.h"

namespace siglip {
namespace {

constexpr char kOverloadedUrl[] = "siglip/overloaded";

}  // namespace

absl::Status OverloadedError(std::string_view text) {
  absl::Status status = absl::UnavailableError({text.data(), text.size()});
  status.SetPayload(kOverloadedUrl, absl::Cord());
  return status;
}

bool IsOverloaded(const absl::Status& status) {
  return status.GetPayload(kOverloadedUrl).has_value();
}

}  // namespace siglip
