#include "engine/cuda/algorithm_cache.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/file_map.h"
#include "base/status_macros.h"

namespace siglip::cuda {
namespace {

constexpr char kHead[] = "siglip gemm algorithms 1";
// Some thousand products of 250 bytes; only bounds a wrong file.
constexpr std::uint64_t kMaxFileBytes = 16 << 20;

std::optional<std::pair<std::string, FoundAlgorithm>> ParseLine(const std::string& line) {
  const std::vector<std::string> sides = absl::StrSplit(line, " = ");
  if (sides.size() != 2 || sides[0].empty()) return std::nullopt;
  FoundAlgorithm algorithm;
  const std::vector<std::string> fields = absl::StrSplit(sides[1], ' ');
  if (fields.size() != algorithm.words.size() + 1) return std::nullopt;
  for (std::size_t i = 0; i < algorithm.words.size(); ++i) {
    if (fields[i].size() != 16 || !absl::SimpleHexAtoi(fields[i], &algorithm.words[i])) {
      return std::nullopt;
    }
  }
  if (!absl::SimpleAtod(fields.back(), &algorithm.microseconds) ||
      !std::isfinite(algorithm.microseconds) || algorithm.microseconds < 0) {
    return std::nullopt;
  }
  return std::make_pair(sides[0], algorithm);
}

}  // namespace

absl::Status AlgorithmCache::Load(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  SIGLIP_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  // The last line ends, so that one that was cut off is seen.
  if (lines.size() < 3 || lines[0] != kHead || !lines.back().empty()) {
    return absl::DataLossError(absl::StrCat(path, ": expected a whole file that starts with \"",
                                            kHead, "\", got ", text.size(), " other bytes"));
  }
  if (lines[1] != device_) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": expected algorithms of ", device_, ", got those of another device"));
  }
  std::map<std::string, FoundAlgorithm> read;
  for (std::size_t i = 2; i + 1 < lines.size(); ++i) {
    auto entry = ParseLine(lines[i]);
    if (!entry) {
      return absl::DataLossError(absl::StrCat(path, ":", i + 1,
                                              ": expected a product, \" = \", 8 words of 16 hex "
                                              "digits and microseconds, got ",
                                              lines[i].size(), " other characters"));
    }
    read.insert(*std::move(entry));
  }
  algorithms_.merge(read);
  return absl::OkStatus();
}

absl::Status AlgorithmCache::Save(const std::string& path) const {
  std::string text = absl::StrCat(kHead, "\n", device_, "\n");
  for (const auto& [key, algorithm] : algorithms_) {
    absl::StrAppend(&text, key, " =");
    for (const std::uint64_t word : algorithm.words) absl::StrAppendFormat(&text, " %016x", word);
    absl::StrAppendFormat(&text, " %.2f\n", algorithm.microseconds);
  }
  const std::string next = absl::StrCat(path, ".", ::getpid(), ".new");
  std::ofstream file(next, std::ios::binary);
  file << text;
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(next, path, error);
  if (file && !error) return absl::OkStatus();
  std::error_code ignored;
  std::filesystem::remove(next, ignored);
  return absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
}

std::optional<FoundAlgorithm> AlgorithmCache::Find(const std::string& key) const {
  const auto found = algorithms_.find(key);
  if (found == algorithms_.end()) return std::nullopt;
  return found->second;
}

}  // namespace siglip::cuda
