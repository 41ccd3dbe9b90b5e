#pragma once

// What a classifier confuses: counts of (true class, predicted class).

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace siglip {

struct ClassAccuracy {
  int class_index = 0;
  std::int64_t images = 0;
  std::int64_t hits = 0;
  double accuracy() const { return static_cast<double>(hits) / static_cast<double>(images); }
};

struct ConfusedPair {
  int truth = 0;
  int predicted = 0;
  std::int64_t images = 0;
};

// Thread-compatible.
class Confusion {
 public:
  void Add(int truth, int predicted);

  std::int64_t Count(int truth, int predicted) const;
  // Classes that have images, by class.
  std::vector<ClassAccuracy> PerClass() const;
  // At most `limit` classes that are not perfect, lowest accuracy first, then by class.
  std::vector<ClassAccuracy> WorstClasses(std::size_t limit) const;
  // At most `limit` wrong pairs, most frequent first, then by classes.
  std::vector<ConfusedPair> MostConfused(std::size_t limit) const;

 private:
  std::map<std::pair<int, int>, std::int64_t> counts_;
};

}  // namespace siglip
