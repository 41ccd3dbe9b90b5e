#include "serving/config_check.h"

#include <algorithm>
#include <functional>
#include <set>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/absl_view.h"
#include "base/checked_math.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "serving/ensemble.h"
#include "serving/validate.h"

namespace siglip {
namespace {

// Bytes of one row of one tensor: far above [3,1024,1024] FP32 (12 MiB), far below what would make
// a batch of rows overflow.
constexpr std::int64_t kMaxRowBytes = std::int64_t{1} << 30;
// Threads per model. More gain nothing: one pass of an engine uses every core, and pictures are
// decoded by as many as the deployment itself asks for, which is allowed too.
constexpr int kMaxInstances = 64;

// ":<line>", or nothing.
std::string LineText(const ModelConfig& config, std::string_view field, std::string_view item) {
  std::string path = absl::StrCat(AbslView(field), ".", AbslView(item));
  while (true) {
    const auto found = config.lines.find(path);
    if (found != config.lines.end()) return absl::StrCat(":", found->second);
    const std::size_t dot = path.rfind('.');
    if (dot == std::string::npos) return {};
    path.resize(dot);
  }
}

absl::Status CheckKind(const ModelConfig& c) {
  if (!IsModelName(c.name)) {
    return absl::InvalidArgumentError(absl::StrCat(c.source, LineText(c, "name", {}),
                                                   ": name: expected ", kModelNameRule, ", got '",
                                                   LogSafe(c.name), "'"));
  }
  if (c.is_ensemble()) {
    if (!c.backend.empty()) {
      return ConfigError(c, "backend",
                         absl::StrCat("expected none for an ensemble, got '", c.backend, "'"));
    }
    if (c.ensemble_steps.empty()) {
      return ConfigError(c, "ensemble_scheduling", "expected at least one step, got none");
    }
    if (c.dynamic_batching) {
      return ConfigError(c, "dynamic_batching", "expected none for an ensemble");
    }
    if (!c.instance_groups.empty()) {
      return ConfigError(c, "instance_group", "expected none for an ensemble");
    }
    if (!c.warmups.empty()) {
      return ConfigError(c, "model_warmup", "expected none for an ensemble");
    }
    if (c.has_optimization) {
      return ConfigError(c, "optimization", "expected none for an ensemble");
    }
    return absl::OkStatus();
  }
  if (!c.ensemble_steps.empty()) {
    return ConfigError(
        c, "platform",
        absl::StrCat("expected 'ensemble' beside ensemble_scheduling, got '", c.platform, "'"));
  }
  if (!c.platform.empty()) {
    return ConfigError(c, "platform",
                       absl::StrCat("expected 'ensemble' or none, got '", c.platform, "'"));
  }
  return c.backend.empty() ? CheckBackend(c) : absl::OkStatus();
}

absl::Status CheckTensors(const ModelConfig& c, std::string_view field,
                          const std::vector<TensorConfig>& tensors) {
  if (tensors.empty()) return ConfigError(c, field, "expected at least one tensor, got none");
  std::set<std::string_view> names;
  for (const TensorConfig& tensor : tensors) {
    if (tensor.name.empty())
      return ConfigError(c, field, "expected a name for each tensor, got none");
    if (!names.insert(tensor.name).second) {
      return ConfigError(c, field,
                         absl::StrCat("expected each tensor once, got '", tensor.name, "' twice"),
                         tensor.name);
    }
    if (tensor.optional) {
      return ConfigError(c, field,
                         absl::StrCat("'", tensor.name, "': optional inputs are not supported"),
                         tensor.name);
    }
    for (const std::int64_t dim : tensor.dims) {
      if (dim == -1 || dim > 0) continue;
      return ConfigError(c, field,
                         absl::StrCat("'", tensor.name, "': expected dims > 0 or -1, got ",
                                      ShapeText(tensor.dims)),
                         tensor.name);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckBatching(const ModelConfig& c) {
  if (!c.dynamic_batching) return absl::OkStatus();
  const DynamicBatching& d = *c.dynamic_batching;
  if (c.max_batch_size == 0) {
    return ConfigError(c, "dynamic_batching",
                       "expected a max_batch_size of at least 1 beside it, got 0");
  }
  for (const std::int64_t size : d.preferred_batch_sizes) {
    if (size > 0 && size <= c.max_batch_size) continue;
    return ConfigError(
        c, "dynamic_batching.preferred_batch_size",
        absl::StrCat("expected 1 to max_batch_size ", c.max_batch_size, ", got ", size));
  }
  // An hour is no queue delay; the bound keeps nanoseconds within 64 bits.
  if (d.max_queue_delay_us > 3'600'000'000u) {
    return ConfigError(c, "dynamic_batching.max_queue_delay_microseconds",
                       absl::StrCat("expected at most 3600000000, got ", d.max_queue_delay_us));
  }
  // Each level has queues of its own; Triton allows any number.
  constexpr std::uint32_t kMaxLevels = 1024;
  if (d.priority_levels > kMaxLevels) {
    return ConfigError(c, "dynamic_batching.priority_levels",
                       absl::StrCat("expected at most ", kMaxLevels, ", got ", d.priority_levels));
  }
  if (d.priority_levels > 0 &&
      (d.default_priority_level < 1 || d.default_priority_level > d.priority_levels)) {
    return ConfigError(
        c, "dynamic_batching.default_priority_level",
        absl::StrCat("expected 1 to ", d.priority_levels, ", got ", d.default_priority_level));
  }
  for (const auto& [level, policy] : d.priority_queue_policy) {
    if (level >= 1 && level <= d.priority_levels) continue;
    return ConfigError(c, "dynamic_batching.priority_queue_policy",
                       absl::StrCat("expected levels 1 to ", d.priority_levels, ", got ", level));
  }
  if (!d.preserve_ordering) return absl::OkStatus();
  if (d.priority_levels > 1) {
    return ConfigError(
        c, "dynamic_batching.preserve_ordering",
        absl::StrCat("expected at most 1 priority level beside it, got ", d.priority_levels));
  }
  bool delays = d.default_queue_policy.timeout_action == QueuePolicy::TimeoutAction::kDelay;
  for (const auto& [level, policy] : d.priority_queue_policy) {
    delays |= policy.timeout_action == QueuePolicy::TimeoutAction::kDelay;
  }
  if (delays) {
    return ConfigError(c, "dynamic_batching.preserve_ordering",
                       "expected no timeout_action DELAY beside it");
  }
  return absl::OkStatus();
}

// Where a group's instances run: KIND_AUTO is a GPU where the model runs on one, else the CPU.
InstanceGroup::Kind KindOf(const InstanceGroup& group, const Deployment& deployment) {
  if (group.kind != InstanceGroup::Kind::kAuto) return group.kind;
  return deployment.gpus.empty() ? InstanceGroup::Kind::kCpu : InstanceGroup::Kind::kGpu;
}

// As in Triton, only instances on GPUs name some.
absl::Status CheckGpus(const ModelConfig& c, const InstanceGroup& group,
                       const Deployment& deployment) {
  if (group.gpus.empty() || KindOf(group, deployment) == InstanceGroup::Kind::kGpu) {
    return absl::OkStatus();
  }
  const char* where = "where the model runs on the CPU";
  if (group.kind == InstanceGroup::Kind::kCpu) where = "beside KIND_CPU";
  if (group.kind == InstanceGroup::Kind::kModel) where = "beside KIND_MODEL";
  return ConfigError(
      c, "instance_group.gpus",
      absl::StrCat("expected none ", where, ", got ", absl::StrJoin(group.gpus, ", ")));
}

absl::Status CheckInstances(const ModelConfig& c, const Deployment& deployment) {
  const int most = std::max(kMaxInstances, deployment.num_instances);
  std::int64_t sum = 0;
  for (const InstanceGroup& group : c.instance_groups) {
    if (group.count < 0 || group.count > most) {
      return ConfigError(c, "instance_group.count",
                         absl::StrCat("expected 0 to ", most, ", got ", group.count));
    }
    sum += group.count > 0 ? group.count : deployment.num_instances;
    SIGLIP_RETURN_IF_ERROR(CheckGpus(c, group, deployment));
  }
  if (sum > most) {
    return ConfigError(c, "instance_group",
                       absl::StrCat("expected at most ", most, " in all, got ", sum));
  }
  return absl::OkStatus();
}

// What Prometheus takes for a label's name.
bool IsLabelName(std::string_view name) {
  return !name.empty() && !absl::ascii_isdigit(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return absl::ascii_isalnum(c) || c == '_'; });
}

absl::Status CheckMetrics(const ModelConfig& c) {
  const auto& bounds = c.response_bounds_ms;
  if (std::adjacent_find(bounds.begin(), bounds.end(), std::greater_equal<>()) != bounds.end()) {
    return ConfigError(c, "model_metrics.histogram_options.buckets",
                       "expected each bound to be larger than the one before");
  }
  for (const auto& [tag, value] : c.metric_tags) {
    if (IsLabelName(tag)) continue;
    return ConfigError(
        c, "metric_tags",
        absl::StrCat("expected keys of letters, digits and '_', and no digit first, got '",
                     LogSafe(tag), "'"));
  }
  return absl::OkStatus();
}

// Counts of 0 are taken as 1.
absl::Status CheckWarmups(const ModelConfig& c) {
  // Runs before a model is ready; the largest warmups known to us ask for tens.
  constexpr std::uint64_t kMaxRuns = 1000;
  std::uint64_t runs = 0;
  for (const Warmup& warmup : c.warmups) runs += std::max<std::uint32_t>(1, warmup.count);
  if (runs <= kMaxRuns) return absl::OkStatus();
  return ConfigError(c, "model_warmup.count",
                     absl::StrCat("expected at most ", kMaxRuns, " in all, got ", runs));
}

absl::Status CheckFixed(const ModelConfig& c, std::string_view field, const TensorConfig& tensor) {
  const std::optional<std::int64_t> count = ElementCount(tensor.dims);
  if (!count || *count == 0) {
    return ConfigError(
        c, field,
        absl::StrCat("'", tensor.name, "': expected fixed dims, got ", ShapeText(tensor.dims)),
        tensor.name);
  }
  if (*count > kMaxRowBytes / 8) {
    return ConfigError(c, field,
                       absl::StrCat("'", tensor.name, "': expected a row of at most ", kMaxRowBytes,
                                    " bytes, got dims ", ShapeText(tensor.dims)),
                       tensor.name);
  }
  return absl::OkStatus();
}

}  // namespace

bool IsModelName(std::string_view name) {
  constexpr std::size_t kMaxModelNameBytes = 128;
  return !name.empty() && name.size() <= kMaxModelNameBytes && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

absl::Status ConfigError(const ModelConfig& config, std::string_view field, std::string_view text,
                         std::string_view item) {
  return absl::InvalidArgumentError(absl::StrCat(config.source, LineText(config, field, item),
                                                 ": model '", config.name, "': ", AbslView(field),
                                                 ": ", AbslView(text)));
}

absl::Status CheckBackend(const ModelConfig& config) {
  // Under Triton these are two libraries; here one program does the work of both.
  if (config.backend != "siglip" && config.backend != "siglip_embed") {
    return ConfigError(
        config, "backend",
        absl::StrCat("expected 'siglip' or 'siglip_embed', got '", config.backend, "'"));
  }
  if (config.decoupled) {
    return ConfigError(config, "model_transaction_policy.decoupled",
                       "expected false: one answer per request");
  }
  return absl::OkStatus();
}

absl::Status CheckConfig(const ModelConfig& config) {
  SIGLIP_RETURN_IF_ERROR(CheckKind(config));
  if (config.max_batch_size < 0) {
    return ConfigError(config, "max_batch_size",
                       absl::StrCat("expected at least 0, got ", config.max_batch_size));
  }
  // What another backend takes is not known here; CheckBackend tells of it.
  if (!config.is_ensemble() && !CheckBackend(config).ok()) return absl::OkStatus();
  SIGLIP_RETURN_IF_ERROR(CheckTensors(config, "input", config.inputs));
  SIGLIP_RETURN_IF_ERROR(CheckTensors(config, "output", config.outputs));
  SIGLIP_RETURN_IF_ERROR(CheckBatching(config));
  SIGLIP_RETURN_IF_ERROR(CheckMetrics(config));
  SIGLIP_RETURN_IF_ERROR(CheckWarmups(config));
  if (config.is_ensemble()) SIGLIP_RETURN_IF_ERROR(CheckGraph(config));
  if (config.versions.empty()) {
    return ConfigError(config, "versions",
                       "expected a version folder (such as 1/) beside config.pbtxt, got none");
  }
  return absl::OkStatus();
}

absl::Status CheckCompleted(const ModelConfig& config, const Deployment& deployment) {
  SIGLIP_RETURN_IF_ERROR(CheckInstances(config, deployment));
  for (const TensorConfig& input : config.inputs) {
    SIGLIP_RETURN_IF_ERROR(CheckFixed(config, "input", input));
    if (input.datatype == DataType::kBytes && ElementCount(input.dims) != 1) {
      return ConfigError(config, "input",
                         absl::StrCat("'", input.name, "': expected dims [1] for BYTES, got ",
                                      ShapeText(input.dims)),
                         input.name);
    }
  }
  for (const TensorConfig& output : config.outputs) {
    SIGLIP_RETURN_IF_ERROR(CheckFixed(config, "output", output));
    if (output.datatype == DataType::kBytes) {
      return ConfigError(config, "output",
                         absl::StrCat("'", output.name, "': BYTES outputs are not supported"),
                         output.name);
    }
  }
  if (deployment.step != nullptr && config.max_batch_size > deployment.step->MaxBatchItems()) {
    return ConfigError(config, "max_batch_size",
                       absl::StrCat("expected at most ", deployment.step->MaxBatchItems(),
                                    ", what the model runs at once, got ", config.max_batch_size));
  }
  for (const InstanceGroup& group : config.instance_groups) {
    if (KindOf(group, deployment) != InstanceGroup::Kind::kGpu) continue;
    if (deployment.gpus.empty()) {
      return ConfigError(
          config, "instance_group.kind",
          "expected a GPU (KIND_GPU), but the model runs on the CPU: no GPU was found, or "
          "it was not chosen");
    }
    for (const int gpu : group.gpus) {
      if (std::count(deployment.gpus.begin(), deployment.gpus.end(), gpu) > 0) continue;
      return ConfigError(config, "instance_group.gpus",
                         absl::StrCat("expected some of the GPUs that --device names (",
                                      absl::StrJoin(deployment.gpus, ", "), "), got ", gpu));
    }
  }
  return absl::OkStatus();
}

void NormalizeConfig(const Deployment& deployment, ModelConfig& config) {
  if (config.dynamic_batching) {
    std::vector<std::int64_t>& sizes = config.dynamic_batching->preferred_batch_sizes;
    if (sizes.empty()) sizes = {config.max_batch_size};
    std::sort(sizes.begin(), sizes.end());
  }
  if (config.is_ensemble()) return;
  if (config.instance_groups.empty()) {
    config.instance_groups.push_back({.name = config.name, .count = deployment.num_instances});
  }
  for (std::size_t i = 0; i < config.instance_groups.size(); ++i) {
    InstanceGroup& group = config.instance_groups[i];
    if (group.name.empty()) group.name = absl::StrCat(config.name, "_", i);
    group.kind = KindOf(group, deployment);
    if (group.count < 1) group.count = deployment.num_instances;
    if (group.kind == InstanceGroup::Kind::kGpu && group.gpus.empty()) {
      group.gpus = deployment.gpus;
    }
  }
}

int InstanceCount(const ModelConfig& config) {
  int count = 0;
  for (const InstanceGroup& group : config.instance_groups) {
    const int devices = std::max(1, static_cast<int>(group.gpus.size()));
    count += group.count * devices;
  }
  return std::max(1, count);
}

bool DimsFit(std::span<const std::int64_t> a, std::span<const std::int64_t> b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(),
                    [](std::int64_t x, std::int64_t y) { return x == y || x == -1 || y == -1; });
}

}  // namespace siglip
