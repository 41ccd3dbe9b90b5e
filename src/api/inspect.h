#pragma once

// What a checkpoint folder is, and everything that is wrong with it: goes on after a problem,
// unlike Model::Open.

#include <string>
#include <utility>
#include <vector>

namespace siglip {

// A table of facts in reading order, and problems.
struct InspectReport {
  std::string directory;
  std::vector<std::pair<std::string, std::string>> facts;  // "vision tower" -> "27 layers, ..."
  std::vector<std::string> extra_tensors;                  // in the files, not needed
  std::vector<std::string> problems;

  bool ok() const { return problems.empty(); }
  std::string Text() const;
  std::string Json() const;
};

InspectReport InspectCheckpoint(const std::string& directory);

}  // namespace siglip
