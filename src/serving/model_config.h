#pragma once

// A model's configuration (config.pbtxt) as a plain struct. Parsed and rendered by `protocol`;
// checked and completed here and in `deployments`.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "serving/data_type.h"

namespace siglip {

struct TensorConfig {
  std::string name = {};
  DataType datatype = DataType::kFp32;
  std::vector<std::int64_t> dims = {};  // without the batch dimension; -1 = any
  bool optional = false;
};

struct QueuePolicy {
  enum class TimeoutAction { kReject, kDelay };
  TimeoutAction timeout_action = TimeoutAction::kReject;
  std::uint64_t default_timeout_us = 0;  // 0 = none
  bool allow_timeout_override = false;
  std::uint32_t max_queue_size = 0;  // requests; 0 = unlimited
};

struct DynamicBatching {
  std::vector<std::int64_t> preferred_batch_sizes = {};  // ascending
  std::uint64_t max_queue_delay_us = 0;
  bool preserve_ordering = false;
  std::uint32_t priority_levels = 0;
  std::uint32_t default_priority_level = 0;
  // Of a configuration that states none: a client may end its own wait.
  QueuePolicy default_queue_policy = {.allow_timeout_override = true};
  std::map<std::uint32_t, QueuePolicy> priority_queue_policy = {};
};

struct InstanceGroup {
  enum class Kind { kAuto, kGpu, kCpu, kModel };
  std::string name = {};
  Kind kind = Kind::kAuto;
  int count = 1;
  std::vector<int> gpus = {};
};

struct EnsembleStep {
  std::string model_name = {};
  std::int64_t model_version = -1;                     // 0 or less = the newest
  std::map<std::string, std::string> input_map = {};   // the step's input -> ensemble tensor
  std::map<std::string, std::string> output_map = {};  // the step's output -> ensemble tensor

  // As InferRequest's: empty = the newest.
  std::string version() const { return model_version > 0 ? std::to_string(model_version) : ""; }
};

struct WarmupInput {
  enum class Source { kZero, kRandom, kFile };
  DataType datatype = DataType::kFp32;
  std::vector<std::int64_t> dims = {};
  Source source = Source::kZero;
  std::string file = {};  // beneath <model>/warmup/
};

struct Warmup {
  std::string name = {};
  std::uint32_t batch_size = 0;
  std::map<std::string, WarmupInput> inputs = {};
  std::uint32_t count = 1;
};

struct ModelConfig {
  std::string name = {};
  std::string platform = {};  // "ensemble" for ensembles
  std::string backend = {};   // "siglip" or "siglip_embed" for the others
  int max_batch_size = 0;     // 0: no batch dimension
  std::vector<TensorConfig> inputs = {};
  std::vector<TensorConfig> outputs = {};
  std::vector<InstanceGroup> instance_groups = {};
  std::optional<DynamicBatching> dynamic_batching;
  std::vector<EnsembleStep> ensemble_steps = {};
  std::uint32_t ensemble_max_inflight_requests = 0;  // 0 = unlimited
  std::map<std::string, std::string> parameters = {};
  std::vector<Warmup> warmups = {};
  bool has_optimization = false;  // how GPUs of other backends work; of no ensemble
  bool decoupled = false;
  bool response_cache = false;
  std::map<std::string, std::string> metric_tags = {};  // labels of the model's metrics
  // Of nv_inference_first_response_histogram_ms; ascending. The default is Triton's.
  std::vector<double> response_bounds_ms = {100, 500, 2000, 5000};
  std::vector<std::int64_t> versions = {};  // of the repository; the built-in ones have {1}
  // version_policy: those listed, else so many of the highest; neither = all. One is served.
  std::optional<std::vector<std::int64_t>> version_policy_specific = {};
  std::optional<std::uint32_t> version_policy_latest = 1;
  std::vector<std::string> without_effect = {};  // fields that are set and not acted on

  // Where it came from: the path of config.pbtxt, or "built-in". For errors.
  std::string source = {};
  // Lines of `source`, from 1, by the path of the field that stands there: "max_batch_size",
  // "dynamic_batching.priority_levels", "input" and "input.X". Empty if it has none.
  std::map<std::string, int> lines = {};
  // Folder of config.pbtxt: relative paths of parameters start here.
  std::string directory = {};
  // The whole message as parsed, serialised: fields that this struct does not know are rendered
  // back from it. Opaque outside `protocol`.
  std::string wire = {};

  bool is_ensemble() const { return platform == "ensemble"; }
  // Empty if it is not there.
  std::string parameter(const std::string& key) const {
    const auto found = parameters.find(key);
    return found == parameters.end() ? std::string() : found->second;
  }
  // parameters.checkpoint, seen from `directory`; empty: it names none.
  std::string checkpoint_folder() const {
    const std::string folder = parameter("checkpoint");
    return folder.empty() || folder[0] == '/' ? folder : directory + "/" + folder;
  }
};

}  // namespace siglip
