#pragma once

// Makes the work of the six deployments from their configurations. The parameter `step` says which
// one a model is, `checkpoint` names its snapshot folder (relative: to its config.pbtxt), `pillow`
// 12 or 13 whose resize image_process has, `max_num_patches` of NaFlex how many patches an image
// has at most. Towers without model_warmup are warmed up with one item of zeros: Triton's core
// takes no model_warmup whose dims are open. In the two doors' configurations it leaves
// logit_scale, logit_bias, image_size (of NaFlex patch_size and max_num_patches), text_length and
// engine; in image_process's the pillow that it has.

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "serving/deployment.h"
#include "siglip/siglip.h"
#include "workers/decode_workers.h"

namespace siglip {

struct DeploymentsOptions {
  std::string model_override;  // of every `checkpoint`; empty: none
  ModelOptions model;
  DecodeWorkers* decode_workers = nullptr;  // decode pictures there; outlive the deployments
  // Opens a checkpoint; tests put another one in.
  std::function<absl::StatusOr<std::unique_ptr<Model>>(const std::string&, const ModelOptions&)>
      open = Model::Open;
};

// Used by one thread at a time.
class DeploymentsFactory final : public DeploymentFactory {
 public:
  explicit DeploymentsFactory(DeploymentsOptions options) : options_(std::move(options)) {}

  absl::StatusOr<Deployment> Make(ModelConfig& config) override;

  // The checkpoint that a deployment of `config` is of; empty if it names none.
  std::string FolderOf(const ModelConfig& config) const;

  // A line per opened checkpoint, for `serve --dry-run`.
  std::vector<std::string> DescribeModels() const;

 private:
  absl::StatusOr<std::shared_ptr<Model>> ModelOf(const ModelConfig& config);

  const DeploymentsOptions options_;
  // One per folder, state of its files and patches: weights are loaded once,
  // whatever number of deployments uses them, and go with the last one.
  struct Key {
    std::string folder;
    std::string files;
    std::int64_t max_patches = 0;  // as asked for
    auto operator<=>(const Key&) const = default;
  };
  std::map<Key, std::weak_ptr<Model>> models_;
};

}  // namespace siglip
