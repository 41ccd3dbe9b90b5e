#include "eval/confusion.h"

#include <gtest/gtest.h>

namespace siglip {
namespace {

TEST(ConfusionTest, CountsPerClassWorstAndPairs) {
  Confusion confusion;
  for (int i = 0; i < 3; ++i) confusion.Add(0, 0);
  confusion.Add(1, 0);
  confusion.Add(1, 0);
  confusion.Add(1, 2);
  confusion.Add(1, 1);
  confusion.Add(2, 0);
  confusion.Add(2, 2);

  EXPECT_EQ(confusion.Count(1, 0), 2);
  EXPECT_EQ(confusion.Count(0, 1), 0);
  const auto classes = confusion.PerClass();
  ASSERT_EQ(classes.size(), 3u);
  EXPECT_EQ(classes[1].images, 4);
  EXPECT_DOUBLE_EQ(classes[1].accuracy(), 0.25);
  const auto worst = confusion.WorstClasses(5);
  ASSERT_EQ(worst.size(), 2u);
  EXPECT_EQ(worst[0].class_index, 1);
  EXPECT_EQ(worst[1].class_index, 2);
  const auto pairs = confusion.MostConfused(2);
  ASSERT_EQ(pairs.size(), 2u);
  EXPECT_EQ(pairs[0].images, 2);
  EXPECT_EQ(pairs[0].truth, 1);
  EXPECT_EQ(pairs[0].predicted, 0);
  EXPECT_EQ(pairs[1].truth, 1);
  EXPECT_EQ(pairs[1].predicted, 2);
}

}  // namespace
}  // namespace siglip
