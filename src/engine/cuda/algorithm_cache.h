#pragma once

// Which of cuBLASLt's algorithms was the fastest for a product, kept in a text file between starts.
// An algorithm means something only to the library version and GPU that it was found with: the
// file's second line names them, and a file of others is not used. Damage is recognised, and costs
// the search.
//
//   siglip gemm algorithms 1
//   NVIDIA H200, driver 13000, cublasLt 130100
//   m23328 n1152 k4304 ... = 0000000000000042 ... (8 words) 512.5

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace siglip::cuda {

struct FoundAlgorithm {
  std::array<std::uint64_t, 8> words = {};  // cublasLtMatmulAlgo_t
  double microseconds = 0;

  bool operator==(const FoundAlgorithm&) const = default;
};

// Thread-compatible.
class AlgorithmCache {
 public:
  // For `device`, one line of text.
  explicit AlgorithmCache(std::string device) : device_(std::move(device)) {}

  // Adds what a file holds. NotFound if there is none, FailedPrecondition if it is another
  // device's, DataLoss with file and line if it is damaged; nothing is added then.
  absl::Status Load(const std::string& path);
  // Replaces the file, whole or not at all.
  absl::Status Save(const std::string& path) const;

  std::optional<FoundAlgorithm> Find(const std::string& key) const;
  // key: one line without '='.
  void Add(const std::string& key, const FoundAlgorithm& algorithm) {
    algorithms_[key] = algorithm;
    changed_ = true;
  }
  void Forget(const std::string& key) { changed_ |= algorithms_.erase(key) > 0; }
  bool changed() const { return changed_; }  // since Load

 private:
  std::string device_;
  std::map<std::string, FoundAlgorithm> algorithms_;
  bool changed_ = false;
};

}  // namespace siglip::cuda
