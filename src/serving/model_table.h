#pragma once

// The models that are served, as they were at one moment. A change makes a new table; a request
// keeps the one that it was admitted under, and what is sent on its behalf goes through the same.
// So a model that is unloaded or replaced meanwhile still does all the work of the requests that
// came before.

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "serving/deployment.h"
#include "serving/model_config.h"
#include "serving/scheduler.h"
#include "serving/statistics_recorder.h"

namespace siglip {

struct LoadedModel {
  std::string name;
  std::string version;
  ModelConfig read;                           // as it was before completion
  std::shared_ptr<const ModelConfig> config;  // checked and completed
  std::unique_ptr<StatisticsRecorder> statistics;
  std::shared_ptr<const Step> step;     // null: other models do the work
  std::shared_ptr<const void> threads;  // counts the scheduler's; goes after it
  std::shared_ptr<const void> place;    // among all models; of all of one name
  std::unique_ptr<Scheduler> scheduler;
};

// Immutable, so thread-safe; held by shared_ptr alone.
class ModelTable final : public ModelAccess, public std::enable_shared_from_this<ModelTable> {
 public:
  using Models = std::map<std::string, std::shared_ptr<const LoadedModel>>;
  // `unavailable`: the versions of models that are known but not served, by name. `generation`: no
  // two tables have the same.
  ModelTable(Models ready, std::map<std::string, std::string> unavailable,
             std::uint64_t generation);

  const Models& ready() const { return ready_; }
  // Whether it is known, but not served.
  bool IsUnavailable(const std::string& name) const { return unavailable_.contains(name); }
  // Valid as long as the table. NotFound, or Unavailable for a version that is known but not
  // served, with Triton's texts.
  absl::StatusOr<const LoadedModel*> Find(const std::string& name,
                                          const std::string& version) const;

  absl::StatusOr<std::shared_ptr<const ModelConfig>> ReadyConfig(
      const std::string& name, const std::string& version) const override;
  // Checks the request against the model's configuration and puts it into its queue.
  void InferWithin(std::unique_ptr<InferRequest> request) override;
  std::uint64_t generation() const override { return generation_; }

 private:
  const Models ready_;
  const std::map<std::string, std::string> unavailable_;
  const std::uint64_t generation_;
};

}  // namespace siglip
