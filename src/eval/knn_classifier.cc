#include "eval/knn_classifier.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace siglip {
namespace {

struct ClassVotes {
  int class_index;
  double votes;
};

// By class.
std::vector<ClassVotes> SumVotes(std::span<const Neighbor> neighbors,
                                 std::span<const int> class_of_row) {
  const bool exact = std::any_of(neighbors.begin(), neighbors.end(),
                                 [](const Neighbor& n) { return n.distance == 0; });
  std::vector<ClassVotes> votes;
  for (const Neighbor& neighbor : neighbors) {
    const double weight = exact ? (neighbor.distance == 0 ? 1 : 0) : 1 / neighbor.distance;
    if (weight == 0) continue;
    const int class_index = class_of_row[static_cast<std::size_t>(neighbor.row)];
    const auto found = std::lower_bound(
        votes.begin(), votes.end(), class_index,
        [](const ClassVotes& entry, int value) { return entry.class_index < value; });
    if (found != votes.end() && found->class_index == class_index) {
      found->votes += weight;
    } else {
      votes.insert(found, {class_index, weight});
    }
  }
  return votes;
}

}  // namespace

KnnVotes::KnnVotes(std::vector<int> class_of_row)
    : class_of_row_(std::move(class_of_row)), classes_(class_of_row_) {
  SIGLIP_CHECK(!classes_.empty());
  std::sort(classes_.begin(), classes_.end());
  classes_.erase(std::unique(classes_.begin(), classes_.end()), classes_.end());
}

KnnVotes::Result KnnVotes::Classify(std::span<const Neighbor> neighbors, int k) const {
  SIGLIP_CHECK(!neighbors.empty() && k > 0);
  std::vector<ClassVotes> votes = SumVotes(neighbors, class_of_row_);
  double sum = 0;
  for (const ClassVotes& entry : votes) sum += entry.votes;
  for (ClassVotes& entry : votes) entry.votes /= sum;

  Result result;
  result.predicted =
      std::max_element(votes.begin(), votes.end(), [](const ClassVotes& a, const ClassVotes& b) {
        return a.votes < b.votes;
      })->class_index;
  std::sort(votes.begin(), votes.end(), [](const ClassVotes& a, const ClassVotes& b) {
    return a.votes != b.votes ? a.votes > b.votes : a.class_index > b.class_index;
  });
  result.margin = votes.size() > 1 ? votes[0].votes - votes[1].votes : votes[0].votes;
  const std::size_t wanted = std::min(static_cast<std::size_t>(k), classes_.size());
  for (const ClassVotes& entry : votes) {
    if (result.top.size() == wanted) break;
    result.top.push_back(entry.class_index);
    result.probabilities.push_back(entry.votes);
  }
  const std::vector<int> voted = result.top;
  for (auto it = classes_.rbegin(); result.top.size() < wanted; ++it) {
    if (std::find(voted.begin(), voted.end(), *it) != voted.end()) continue;
    result.top.push_back(*it);
    result.probabilities.push_back(0);
  }
  return result;
}

}  // namespace siglip
