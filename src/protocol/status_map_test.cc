#include "protocol/status_map.h"

#include <gtest/gtest.h>

namespace siglip {
namespace {

TEST(StatusMap, HttpStatusIsTritons) {
  EXPECT_EQ(HttpStatusOf(absl::OkStatus()), 200);
  EXPECT_EQ(HttpStatusOf(absl::InvalidArgumentError("")), 400);
  EXPECT_EQ(HttpStatusOf(absl::UnknownError("")), 400);
  EXPECT_EQ(HttpStatusOf(absl::AlreadyExistsError("")), 400);
  EXPECT_EQ(HttpStatusOf(absl::CancelledError("")), 400);
  EXPECT_EQ(HttpStatusOf(absl::UnauthenticatedError("")), 401);
  EXPECT_EQ(HttpStatusOf(absl::NotFoundError("")), 404);
  EXPECT_EQ(HttpStatusOf(absl::InternalError("")), 500);
  EXPECT_EQ(HttpStatusOf(absl::UnimplementedError("")), 501);
  EXPECT_EQ(HttpStatusOf(absl::UnavailableError("")), 503);
}

TEST(StatusMap, OverloadAndDeadlineAreUnavailable) {
  EXPECT_EQ(WireCode(absl::StatusCode::kResourceExhausted), absl::StatusCode::kUnavailable);
  EXPECT_EQ(WireCode(absl::StatusCode::kDeadlineExceeded), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace siglip
