#pragma once

// Where configurations come from. Folders of config.pbtxt files are read in `cli`.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "serving/model_config.h"

namespace siglip {

// Used by one thread at a time, but Names, which any thread may call.
class ModelRepository {
 public:
  virtual ~ModelRepository() = default;
  // Sorted. An error if the repository cannot be read, or not to its end.
  virtual absl::StatusOr<std::vector<std::string>> Names() const = 0;
  // The configuration as it is now. NotFound for a name that Names does not give; other errors name
  // the file.
  virtual absl::StatusOr<ModelConfig> Read(const std::string& name) const = 0;
  // A number that changes when the model's files do.
  virtual std::uint64_t Stamp(const std::string& name) const = 0;
};

// Configurations that never change.
class ListedModels final : public ModelRepository {
 public:
  // REQUIRES: each name once (CheckNames).
  explicit ListedModels(std::vector<ModelConfig> configs) : configs_(std::move(configs)) {}
  absl::StatusOr<std::vector<std::string>> Names() const override;
  absl::StatusOr<ModelConfig> Read(const std::string& name) const override;
  std::uint64_t Stamp(const std::string&) const override { return 0; }

 private:
  const std::vector<ModelConfig> configs_;
};

// InvalidArgument if two configurations have one name.
absl::Status CheckNames(const std::vector<ModelConfig>& configs);

}  // namespace siglip
