#pragma once

// From neighbours to classes by the rules of scikit-learn 1.9:
// KNeighborsClassifier(weights="distance") and top_k_accuracy_score.

#include <cstdint>
#include <span>
#include <vector>

#include "eval/nearest.h"

namespace siglip {

// Classes are numbers whose order is that of their labels by code point (np.unique's). Only classes
// with a training row are candidates: scikit-learn's columns. Immutable, thread-safe.
class KnnVotes {
 public:
  // class_of_row[i] >= 0 is the class of training row i. REQUIRES: not empty.
  explicit KnnVotes(std::vector<int> class_of_row);

  struct Result {
    // predict(): the most probable class, the lowest of equals.
    int predicted = 0;
    // top_k_accuracy_score's k best: by probability, the highest class of equals first. Classes
    // without votes have probability 0 and fill up from the highest down.
    std::vector<int> top;
    // Probability of `top`.
    std::vector<double> probabilities;
    // Between the two most probable classes; 1 if there is only one.
    double margin = 1;
  };

  // `neighbors` by distance, not empty. If any distance is exactly 0, those neighbours weigh 1 and
  // the others nothing; else the weight is 1/distance. Votes are summed in that order in float64.
  Result Classify(std::span<const Neighbor> neighbors, int k) const;

  const std::vector<int>& classes() const { return classes_; }

 private:
  std::vector<int> class_of_row_;
  std::vector<int> classes_;  // sorted, unique
};

}  // namespace siglip
