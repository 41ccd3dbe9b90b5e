#include "serving/item_errors.h"

#include <gtest/gtest.h>

#include "serving/validate.h"

namespace siglip {
namespace {

TEST(ItemErrors, AllAreNamedAndTheFirstAreQuoted) {
  std::vector<ItemError> errors;
  for (const std::size_t item : {0, 2, 3, 7, 9, 10, 11, 14, 20, 21, 22, 28}) {
    errors.push_back({item, absl::InvalidArgumentError("bad")});
  }
  EXPECT_EQ(JoinItemErrors(30, errors).message(),
            "12 of 30 items failed: item 0: bad; item 2: bad; item 3: bad; item 7: bad; item 9: "
            "bad; item 10: bad; item 11: bad; item 14: bad; and 4 more: item 20..22, item 28");
  errors.resize(2);
  EXPECT_EQ(JoinItemErrors(5, errors, {.before = "input[", .after = "]"}).message(),
            "2 of 5 items failed: input[0]: bad; input[2]: bad");
  EXPECT_TRUE(JoinItemErrors(5, {}).ok());
  const absl::Status alone = JoinItemErrors(1, {{0, absl::NotFoundError("bad")}});
  EXPECT_EQ(alone.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(alone.message(), "bad");
}

TEST(ItemErrors, OneOfOursIsNoFaultOfTheClients) {
  const absl::Status mixed = JoinItemErrors(
      3, {{0, absl::InvalidArgumentError("bad")}, {2, absl::InternalError("broken")}});
  EXPECT_EQ(mixed.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(JoinItemErrors(3, {{0, absl::InvalidArgumentError("bad")}}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ItemErrors, TheyAreThereBehindAPrefix) {
  const std::vector<ItemError> errors = {{1, absl::InvalidArgumentError("0 3 1 x; \n")},
                                         {4, absl::InternalError("")}};
  const absl::Status status = PrefixStatus(JoinItemErrors(5, errors), "[request id: x] ");
  const std::vector<ItemError> found = ItemErrorsOf(status);
  ASSERT_EQ(found.size(), 2u);
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].item, errors[i].item);
    EXPECT_EQ(found[i].status, errors[i].status);
  }
  EXPECT_TRUE(ItemErrorsOf(absl::InvalidArgumentError("1 of 2 items failed: item 1")).empty());
  EXPECT_TRUE(ItemErrorsOf(absl::OkStatus()).empty());
}

}  // namespace
}  // namespace siglip
