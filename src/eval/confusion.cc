#include "eval/confusion.h"

#include <algorithm>

namespace siglip {

void Confusion::Add(int truth, int predicted) { ++counts_[{truth, predicted}]; }

std::int64_t Confusion::Count(int truth, int predicted) const {
  const auto found = counts_.find({truth, predicted});
  return found == counts_.end() ? 0 : found->second;
}

std::vector<ClassAccuracy> Confusion::PerClass() const {
  std::vector<ClassAccuracy> classes;
  for (const auto& [pair, count] : counts_) {
    if (classes.empty() || classes.back().class_index != pair.first) {
      classes.push_back({pair.first, 0, 0});
    }
    classes.back().images += count;
    if (pair.first == pair.second) classes.back().hits += count;
  }
  return classes;
}

std::vector<ClassAccuracy> Confusion::WorstClasses(std::size_t limit) const {
  std::vector<ClassAccuracy> classes = PerClass();
  std::erase_if(classes, [](const ClassAccuracy& c) { return c.hits == c.images; });
  std::stable_sort(
      classes.begin(), classes.end(),
      [](const ClassAccuracy& a, const ClassAccuracy& b) { return a.accuracy() < b.accuracy(); });
  classes.resize(std::min(classes.size(), limit));
  return classes;
}

std::vector<ConfusedPair> Confusion::MostConfused(std::size_t limit) const {
  std::vector<ConfusedPair> pairs;
  for (const auto& [pair, count] : counts_) {
    if (pair.first != pair.second) pairs.push_back({pair.first, pair.second, count});
  }
  std::stable_sort(pairs.begin(), pairs.end(), [](const ConfusedPair& a, const ConfusedPair& b) {
    return a.images > b.images;
  });
  pairs.resize(std::min(pairs.size(), limit));
  return pairs;
}

}  // namespace siglip
