#include "eval/knn_classifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using testing::ElementsAre;

TEST(KnnVotesTest, WeightsAreInverseDistances) {
  const KnnVotes votes({0, 1, 1});
  const auto result = votes.Classify(std::vector<Neighbor>{{0, 0.1}, {1, 0.5}, {2, 0.5}}, 5);
  EXPECT_EQ(result.predicted, 0);
  EXPECT_THAT(result.top, ElementsAre(0, 1));
  EXPECT_DOUBLE_EQ(result.probabilities[0], 10.0 / 14);
  EXPECT_DOUBLE_EQ(result.margin, 6.0 / 14);
}

TEST(KnnVotesTest, AZeroDistanceSilencesTheOthers) {
  const KnnVotes votes({3, 1, 1, 2});
  const auto result =
      votes.Classify(std::vector<Neighbor>{{0, 0.0}, {1, 1e-12}, {2, 1e-12}, {3, 0.5}}, 2);
  EXPECT_EQ(result.predicted, 3);
  EXPECT_THAT(result.top, ElementsAre(3, 2));
  EXPECT_THAT(result.probabilities, ElementsAre(1, 0));
}

TEST(KnnVotesTest, OfEqualClassesPredictTakesTheLowestAndTopKTheHighest) {
  const KnnVotes votes({4, 2, 7});
  const auto result = votes.Classify(std::vector<Neighbor>{{0, 0.0}, {1, 0.0}, {2, 0.3}}, 1);
  EXPECT_EQ(result.predicted, 2);
  EXPECT_THAT(result.top, ElementsAre(4));
  EXPECT_EQ(result.margin, 0);
}

// oracle: with one voting class `a` of a..t the top 5 is a t s r q.
TEST(KnnVotesTest, ClassesWithoutVotesFillUpFromTheHighest) {
  std::vector<int> classes;
  for (int i = 0; i < 20; ++i) classes.push_back(i);
  const KnnVotes votes(classes);
  EXPECT_THAT(votes.Classify(std::vector<Neighbor>{{0, 0.2}}, 5).top,
              ElementsAre(0, 19, 18, 17, 16));
  EXPECT_THAT(votes.Classify(std::vector<Neighbor>{{18, 0.2}}, 5).top,
              ElementsAre(18, 19, 17, 16, 15));
}

TEST(KnnVotesTest, ClassesWithoutTrainingRowsAreNoCandidates) {
  const KnnVotes votes({9, 5});
  EXPECT_THAT(votes.classes(), ElementsAre(5, 9));
  const auto result = votes.Classify(std::vector<Neighbor>{{1, 0.2}}, 5);
  EXPECT_THAT(result.top, ElementsAre(5, 9));
  EXPECT_EQ(result.margin, 1);
}

}  // namespace
}  // namespace siglip
