#pragma once

// A model repository's folders, or the built-in deployments -> configurations.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "serving/model_config.h"
#include "serving/model_repository.h"

namespace siglip::cli {

// <repository>/<model>/config.pbtxt of one or more folders, read anew at each call.
class FolderRepository final : public ModelRepository {
 public:
  // An error with the name of a folder that cannot be read; InvalidArgument if there is no model at
  // all, or one name in two folders. Folders without a config.pbtxt are skipped with a warning.
  // `config_name`: <model>/configs/<config_name>.pbtxt where there is one.
  static absl::StatusOr<std::unique_ptr<FolderRepository>> Open(
      std::vector<std::string> repositories, std::string config_name = "");

  absl::StatusOr<std::vector<std::string>> Names() const override;
  // Errors name the file; so does a model that has no version folder or whose name differs from its
  // folder's.
  absl::StatusOr<ModelConfig> Read(const std::string& name) const override;
  // Of the names, sizes and times of the files of the model's folder, its versions' included.
  std::uint64_t Stamp(const std::string& name) const override;

 private:
  FolderRepository(std::vector<std::string> repositories, std::string config_name)
      : repositories_(std::move(repositories)), config_name_(std::move(config_name)) {}
  // The folder of a model; NotFound if there is none. Names are compared with what the repositories
  // hold, never made part of a path.
  absl::StatusOr<std::string> FolderOf(const std::string& name) const;

  const std::vector<std::string> repositories_;
  const std::string config_name_;
};

// The six deployments that are compiled in, in the form for `checkpoint`: fixed resolution or
// NaFlex. A folder that cannot be read gets the first, whose loading says what is wrong with it.
absl::StatusOr<std::unique_ptr<ModelRepository>> BuiltInRepository(const std::string& checkpoint);

}  // namespace siglip::cli
