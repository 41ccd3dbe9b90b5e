#include "protocol/model_config.h"

#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/json_util.h>

#include "base/absl_view.h"
#include "base/status_macros.h"
#include "protocol/field_lines.h"
#include "protocol/proto_json.h"
#include "protocol/text.h"

namespace siglip {
namespace {

// The wire enum is the struct's enum in another order.
constexpr std::pair<inference::DataType, DataType> kDataTypes[] = {
    {inference::TYPE_BOOL, DataType::kBool},     {inference::TYPE_UINT8, DataType::kUint8},
    {inference::TYPE_UINT16, DataType::kUint16}, {inference::TYPE_UINT32, DataType::kUint32},
    {inference::TYPE_UINT64, DataType::kUint64}, {inference::TYPE_INT8, DataType::kInt8},
    {inference::TYPE_INT16, DataType::kInt16},   {inference::TYPE_INT32, DataType::kInt32},
    {inference::TYPE_INT64, DataType::kInt64},   {inference::TYPE_FP16, DataType::kFp16},
    {inference::TYPE_FP32, DataType::kFp32},     {inference::TYPE_FP64, DataType::kFp64},
    {inference::TYPE_STRING, DataType::kBytes},  {inference::TYPE_BF16, DataType::kBf16},
};

constexpr std::pair<inference::ModelInstanceGroup::Kind, InstanceGroup::Kind> kKinds[] = {
    {inference::ModelInstanceGroup::KIND_AUTO, InstanceGroup::Kind::kAuto},
    {inference::ModelInstanceGroup::KIND_GPU, InstanceGroup::Kind::kGpu},
    {inference::ModelInstanceGroup::KIND_CPU, InstanceGroup::Kind::kCpu},
    {inference::ModelInstanceGroup::KIND_MODEL, InstanceGroup::Kind::kModel},
};

inference::DataType ToWire(DataType type) {
  const auto* it = std::find_if(std::begin(kDataTypes), std::end(kDataTypes),
                                [&](const auto& pair) { return pair.second == type; });
  return it == std::end(kDataTypes) ? inference::TYPE_INVALID : it->first;
}

class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  explicit FirstError(std::string_view path) : path_(path) {}

  // Line and column count from 0, -1 = unknown (a missing required field; proto3 has none).
  void AddError(int line, int column, const std::string& message) override {
    if (status_.ok()) {
      status_ =
          absl::InvalidArgumentError(Concat(path_, ":", line + 1, ":", column + 1, ": ", message));
    }
  }

  absl::Status status() const {
    return status_.ok() ? absl::InvalidArgumentError(Concat(path_, ": not a model configuration"))
                        : status_;
  }

 private:
  const std::string path_;
  absl::Status status_;
};

absl::StatusOr<DataType> FromWire(inference::DataType type, std::string_view where) {
  for (const auto& [wire, ours] : kDataTypes) {
    if (wire == type) return ours;
  }
  return absl::InvalidArgumentError(Concat(where, ": data_type is missing"));
}

template <class Repeated>
absl::StatusOr<std::vector<TensorConfig>> TensorsFromWire(const Repeated& tensors,
                                                          std::string_view where) {
  std::vector<TensorConfig> out;
  for (const auto& tensor : tensors) {
    TensorConfig& config = out.emplace_back();
    config.name = tensor.name();
    config.dims.assign(tensor.dims().begin(), tensor.dims().end());
    SIGLIP_ASSIGN_OR_RETURN(config.datatype,
                            FromWire(tensor.data_type(), Concat(where, " '", tensor.name(), "'")));
    if constexpr (requires { tensor.optional(); }) config.optional = tensor.optional();
  }
  return out;
}

QueuePolicy FromWire(const inference::ModelQueuePolicy& wire) {
  QueuePolicy policy;
  policy.timeout_action = wire.timeout_action() == inference::ModelQueuePolicy::DELAY
                              ? QueuePolicy::TimeoutAction::kDelay
                              : QueuePolicy::TimeoutAction::kReject;
  policy.default_timeout_us = wire.default_timeout_microseconds();
  policy.allow_timeout_override = wire.allow_timeout_override();
  policy.max_queue_size = wire.max_queue_size();
  return policy;
}

void ToWire(const QueuePolicy& policy, inference::ModelQueuePolicy* wire) {
  wire->set_timeout_action(policy.timeout_action == QueuePolicy::TimeoutAction::kDelay
                               ? inference::ModelQueuePolicy::DELAY
                               : inference::ModelQueuePolicy::REJECT);
  wire->set_default_timeout_microseconds(policy.default_timeout_us);
  wire->set_allow_timeout_override(policy.allow_timeout_override);
  wire->set_max_queue_size(policy.max_queue_size);
}

absl::StatusOr<std::uint32_t> Level(std::uint64_t value, std::string_view where) {
  if (value <= std::numeric_limits<std::uint32_t>::max()) return static_cast<std::uint32_t>(value);
  return absl::InvalidArgumentError(Concat(where, ": expected at most 2^32-1, got ", value));
}

absl::StatusOr<DynamicBatching> FromWire(const inference::ModelDynamicBatching& wire) {
  DynamicBatching batching;
  batching.preferred_batch_sizes.assign(wire.preferred_batch_size().begin(),
                                        wire.preferred_batch_size().end());
  std::sort(batching.preferred_batch_sizes.begin(), batching.preferred_batch_sizes.end());
  batching.max_queue_delay_us = wire.max_queue_delay_microseconds();
  batching.preserve_ordering = wire.preserve_ordering();
  SIGLIP_ASSIGN_OR_RETURN(batching.priority_levels,
                          Level(wire.priority_levels(), "dynamic_batching.priority_levels"));
  SIGLIP_ASSIGN_OR_RETURN(
      batching.default_priority_level,
      Level(wire.default_priority_level(), "dynamic_batching.default_priority_level"));
  if (wire.has_default_queue_policy()) {
    batching.default_queue_policy = FromWire(wire.default_queue_policy());
  }
  for (const auto& [level, policy] : wire.priority_queue_policy()) {
    SIGLIP_ASSIGN_OR_RETURN(const std::uint32_t key,
                            Level(level, "dynamic_batching.priority_queue_policy"));
    batching.priority_queue_policy[key] = FromWire(policy);
  }
  return batching;
}

InstanceGroup FromWire(const inference::ModelInstanceGroup& wire) {
  InstanceGroup group;
  group.name = wire.name();
  for (const auto& [kind, ours] : kKinds) {
    if (kind == wire.kind()) group.kind = ours;
  }
  group.count = wire.count() == 0 ? 1 : wire.count();  // unset means one
  group.gpus.assign(wire.gpus().begin(), wire.gpus().end());
  return group;
}

EnsembleStep FromWire(const inference::ModelEnsembling::Step& wire) {
  return {.model_name = wire.model_name(),
          .model_version = wire.model_version(),
          .input_map = {wire.input_map().begin(), wire.input_map().end()},
          .output_map = {wire.output_map().begin(), wire.output_map().end()}};
}

absl::StatusOr<Warmup> FromWire(const inference::ModelWarmup& wire) {
  Warmup warmup;
  warmup.name = wire.name();
  warmup.batch_size = wire.batch_size();
  warmup.count = wire.count() == 0 ? 1 : wire.count();
  for (const auto& [name, input] : wire.inputs()) {
    WarmupInput& out = warmup.inputs[name];
    SIGLIP_ASSIGN_OR_RETURN(out.datatype,
                            FromWire(input.data_type(), Concat("model_warmup input '", name, "'")));
    out.dims.assign(input.dims().begin(), input.dims().end());
    if (input.has_random_data()) out.source = WarmupInput::Source::kRandom;
    if (input.has_input_data_file()) {
      out.source = WarmupInput::Source::kFile;
      out.file = input.input_data_file();
    }
  }
  return warmup;
}

// What would make answers others than this server gives. `where`: "input", "output".
template <class Repeated>
absl::Status CheckTensorFields(const Repeated& tensors, std::string_view where) {
  for (const auto& tensor : tensors) {
    std::string_view field;
    if (tensor.has_reshape()) field = "reshape";
    if (tensor.is_shape_tensor()) field = "is_shape_tensor";
    if constexpr (requires { tensor.label_filename(); }) {
      if (!tensor.label_filename().empty()) field = "label_filename";
    }
    if (field.empty()) continue;
    return absl::InvalidArgumentError(
        Concat(where, " '", tensor.name(), "': ", field, " is not supported"));
  }
  return absl::OkStatus();
}

absl::Status CheckFields(const inference::ModelConfig& wire) {
  std::string_view field;
  if (wire.has_sequence_batching()) field = "sequence_batching";
  if (wire.batch_input_size() != 0) field = "batch_input";
  if (wire.batch_output_size() != 0) field = "batch_output";
  for (const auto& group : wire.instance_group()) {
    if (group.profile_size() != 0) field = "instance_group.profile";
  }
  if (!field.empty()) return absl::InvalidArgumentError(Concat(field, " is not supported"));
  SIGLIP_RETURN_IF_ERROR(CheckTensorFields(wire.input(), "input"));
  return CheckTensorFields(wire.output(), "output");
}

// Where a model's files lie and what reads them is told by other fields here.
std::vector<std::string> FieldsWithoutEffect(const inference::ModelConfig& wire) {
  std::vector<std::string> fields;
  if (!wire.runtime().empty()) fields.emplace_back("runtime");
  if (!wire.default_model_filename().empty()) fields.emplace_back("default_model_filename");
  if (!wire.cc_model_filenames().empty()) fields.emplace_back("cc_model_filenames");
  if (wire.has_model_operations()) fields.emplace_back("model_operations");
  if (wire.has_model_repository_agents()) fields.emplace_back("model_repository_agents");
  return fields;
}

void VersionPolicyFromWire(const inference::ModelVersionPolicy& wire, ModelConfig& config) {
  if (wire.has_specific()) {
    const auto& versions = wire.specific().versions();
    config.version_policy_specific.emplace(versions.begin(), versions.end());
  }
  if (wire.has_all()) config.version_policy_latest.reset();
  if (wire.has_latest()) config.version_policy_latest = wire.latest().num_versions();
}

absl::Status MetricsFromWire(const inference::ModelMetrics& wire, ModelConfig& config) {
  for (const auto& control : wire.metric_control()) {
    const std::string& family = control.metric_identifier().family();
    const auto& buckets = control.histogram_options().buckets();
    if (family.empty() || buckets.empty()) {
      return absl::InvalidArgumentError(Concat("model_metrics: expected a family and its buckets, ",
                                               "got '", family, "' and ", buckets.size()));
    }
    if (family == "nv_inference_first_response_histogram_ms") {
      config.response_bounds_ms.assign(buckets.begin(), buckets.end());
    } else {
      config.without_effect.emplace_back("model_metrics");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> FromWire(const inference::ModelConfig& wire) {
  SIGLIP_RETURN_IF_ERROR(CheckFields(wire));
  ModelConfig config;
  config.without_effect = FieldsWithoutEffect(wire);
  config.name = wire.name();
  config.platform = wire.platform();
  config.backend = wire.backend();
  config.max_batch_size = wire.max_batch_size();
  config.has_optimization = wire.has_optimization();
  SIGLIP_ASSIGN_OR_RETURN(config.inputs, TensorsFromWire(wire.input(), "input"));
  SIGLIP_ASSIGN_OR_RETURN(config.outputs, TensorsFromWire(wire.output(), "output"));
  for (const auto& group : wire.instance_group()) config.instance_groups.push_back(FromWire(group));
  if (wire.has_dynamic_batching()) {
    SIGLIP_ASSIGN_OR_RETURN(config.dynamic_batching, FromWire(wire.dynamic_batching()));
  }
  for (const auto& step : wire.ensemble_scheduling().step()) {
    config.ensemble_steps.push_back(FromWire(step));
  }
  config.ensemble_max_inflight_requests = wire.ensemble_scheduling().max_inflight_requests();
  for (const auto& [key, value] : wire.parameters()) config.parameters[key] = value.string_value();
  for (const auto& warmup : wire.model_warmup()) {
    SIGLIP_ASSIGN_OR_RETURN(Warmup converted, FromWire(warmup));
    config.warmups.push_back(std::move(converted));
  }
  VersionPolicyFromWire(wire.version_policy(), config);
  config.decoupled = wire.model_transaction_policy().decoupled();
  config.response_cache = wire.response_cache().enable();
  config.metric_tags = {wire.metric_tags().begin(), wire.metric_tags().end()};
  SIGLIP_RETURN_IF_ERROR(MetricsFromWire(wire.model_metrics(), config));
  return config;
}

// ":<line>" of the field that an error of FromWire begins with, and of the element that it names
// next ("input 'X': ..."); nothing if the text has no such field.
std::string LineOfError(std::string_view message, const std::map<std::string, int>& lines) {
  std::string field(message.substr(0, message.find_first_of(" :")));
  auto found = lines.find(field);
  const std::string_view rest = message.substr(field.size());
  if (rest.starts_with(" '")) {
    const std::string_view name = rest.substr(2, rest.find("':") - 2);
    if (const auto named = lines.find(Concat(field, ".", name)); named != lines.end()) {
      found = named;
    }
  }
  return found == lines.end() ? std::string() : Concat(":", found->second);
}

// Overlays by position where the counts agree (fields that the struct does not know survive), else
// anew.
template <class Repeated>
void TensorsToWire(const std::vector<TensorConfig>& tensors, Repeated* wire) {
  if (std::cmp_not_equal(wire->size(), tensors.size())) {
    wire->Clear();
    for (std::size_t i = 0; i < tensors.size(); ++i) wire->Add();
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    auto& out = *wire->Mutable(static_cast<int>(i));
    out.set_name(tensors[i].name);
    out.set_data_type(ToWire(tensors[i].datatype));
    out.mutable_dims()->Assign(tensors[i].dims.begin(), tensors[i].dims.end());
    if constexpr (requires { out.set_optional(true); }) out.set_optional(tensors[i].optional);
  }
}

void GroupsToWire(const std::vector<InstanceGroup>& groups, inference::ModelConfig* wire) {
  if (std::cmp_not_equal(wire->instance_group_size(), groups.size())) {
    wire->clear_instance_group();
    for (std::size_t i = 0; i < groups.size(); ++i) wire->add_instance_group();
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    inference::ModelInstanceGroup& out = *wire->mutable_instance_group(static_cast<int>(i));
    out.set_name(groups[i].name);
    for (const auto& [kind, ours] : kKinds) {
      if (ours == groups[i].kind) out.set_kind(kind);
    }
    out.set_count(groups[i].count);
    out.mutable_gpus()->Assign(groups[i].gpus.begin(), groups[i].gpus.end());
  }
}

void BatchingToWire(const DynamicBatching& batching, int max_batch_size,
                    inference::ModelDynamicBatching* wire) {
  wire->clear_preferred_batch_size();
  for (const std::int64_t size : batching.preferred_batch_sizes) {
    wire->add_preferred_batch_size(static_cast<std::int32_t>(size));
  }
  if (batching.preferred_batch_sizes.empty()) wire->add_preferred_batch_size(max_batch_size);
  wire->set_max_queue_delay_microseconds(batching.max_queue_delay_us);
  wire->set_preserve_ordering(batching.preserve_ordering);
  wire->set_priority_levels(batching.priority_levels);
  wire->set_default_priority_level(batching.default_priority_level);
  if (wire->has_default_queue_policy() || batching.default_queue_policy.max_queue_size != 0 ||
      batching.default_queue_policy.default_timeout_us != 0) {
    ToWire(batching.default_queue_policy, wire->mutable_default_queue_policy());
  }
  wire->clear_priority_queue_policy();
  for (const auto& [level, policy] : batching.priority_queue_policy) {
    ToWire(policy, &(*wire->mutable_priority_queue_policy())[level]);
  }
}

void EnsembleToWire(const ModelConfig& config, inference::ModelEnsembling* wire) {
  if (std::cmp_not_equal(wire->step_size(), config.ensemble_steps.size())) {
    wire->clear_step();
    for (std::size_t i = 0; i < config.ensemble_steps.size(); ++i) wire->add_step();
  }
  for (std::size_t i = 0; i < config.ensemble_steps.size(); ++i) {
    const EnsembleStep& step = config.ensemble_steps[i];
    inference::ModelEnsembling::Step& out = *wire->mutable_step(static_cast<int>(i));
    out.set_model_name(step.model_name);
    out.set_model_version(step.model_version);
    *out.mutable_input_map() = {step.input_map.begin(), step.input_map.end()};
    *out.mutable_output_map() = {step.output_map.begin(), step.output_map.end()};
  }
  wire->set_max_inflight_requests(config.ensemble_max_inflight_requests);
}

void ToWire(const Warmup& warmup, inference::ModelWarmup* wire) {
  wire->set_name(warmup.name);
  wire->set_batch_size(warmup.batch_size);
  wire->set_count(warmup.count);
  for (const auto& [name, input] : warmup.inputs) {
    inference::ModelWarmup::Input& out = (*wire->mutable_inputs())[name];
    out.set_data_type(ToWire(input.datatype));
    out.mutable_dims()->Assign(input.dims.begin(), input.dims.end());
    switch (input.source) {
      case WarmupInput::Source::kZero:
        out.set_zero_data(true);
        break;
      case WarmupInput::Source::kRandom:
        out.set_random_data(true);
        break;
      case WarmupInput::Source::kFile:
        out.set_input_data_file(input.file);
        break;
    }
  }
}

// What Triton's core adds before it prints a configuration.
void Normalize(const ModelConfig& config, inference::ModelConfig* wire) {
  if (!wire->has_version_policy())
    wire->mutable_version_policy()->mutable_latest()->set_num_versions(1);
  if (config.is_ensemble()) {
    wire->mutable_model_transaction_policy()->set_decoupled(false);
    return;
  }
  inference::ModelOptimizationPolicy& optimization = *wire->mutable_optimization();
  if (!optimization.has_input_pinned_memory()) {
    optimization.mutable_input_pinned_memory()->set_enable(true);
  }
  if (!optimization.has_output_pinned_memory()) {
    optimization.mutable_output_pinned_memory()->set_enable(true);
  }
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view text, std::string_view path) {
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    return absl::InvalidArgumentError(Concat(path, ": larger than 2 GiB"));
  }
  FirstError errors(path);
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  parser.SetRecursionLimit(32);  // the deepest of Triton's fields is 7 down
  google::protobuf::io::ArrayInputStream input(text.data(), static_cast<int>(text.size()));
  google::protobuf::TextFormat::ParseInfoTree tree;
  parser.WriteLocationsTo(&tree);
  inference::ModelConfig wire;
  if (!parser.Parse(&input, &wire)) return errors.status();
  std::map<std::string, int> lines = FieldLines(wire, tree);
  absl::StatusOr<ModelConfig> config = FromWire(wire);
  if (!config.ok()) {
    const std::string_view message = StdView(config.status().message());
    return absl::InvalidArgumentError(Concat(path, LineOfError(message, lines), ": ", message));
  }
  config->lines = std::move(lines);
  config->source = std::string(path);
  const std::size_t slash = path.rfind('/');
  config->directory = slash == std::string_view::npos ? "." : std::string(path.substr(0, slash));
  config->wire = wire.SerializeAsString();
  return config;
}

absl::StatusOr<ModelConfig> ParseModelConfigJson(std::string_view json, std::string_view name) {
  if (json.size() > kMaxLoadConfigBytes) {
    return absl::InvalidArgumentError(Concat("load parameter 'config': expected at most ",
                                             kMaxLoadConfigBytes, " bytes, got ", json.size()));
  }
  inference::ModelConfig wire;
  const auto parsed = google::protobuf::util::JsonStringToMessage(std::string(json), &wire);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        Concat("load parameter 'config' of model '", name, "': ", std::string(parsed.message())));
  }
  if (!wire.name().empty() && wire.name() != name) {
    return absl::InvalidArgumentError(Concat("load parameter 'config': name: expected '", name,
                                             "' or none, got '", wire.name(), "'"));
  }
  wire.set_name(std::string(name));
  absl::StatusOr<ModelConfig> config = FromWire(wire);
  if (!config.ok()) {
    return absl::InvalidArgumentError(
        Concat("load parameter 'config' of model '", name, "': ", config.status().message()));
  }
  config->wire = wire.SerializeAsString();
  return config;
}

inference::ModelConfig ModelConfigToProto(const ModelConfig& config) {
  inference::ModelConfig wire;
  // Our own serialisation, or empty: cannot fail.
  if (!wire.ParseFromString(config.wire)) wire.Clear();
  wire.set_name(config.name);
  wire.set_platform(config.platform);
  wire.set_backend(config.backend);
  wire.set_max_batch_size(config.max_batch_size);
  TensorsToWire(config.inputs, wire.mutable_input());
  TensorsToWire(config.outputs, wire.mutable_output());
  GroupsToWire(config.instance_groups, &wire);
  if (config.dynamic_batching) {
    BatchingToWire(*config.dynamic_batching, config.max_batch_size,
                   wire.mutable_dynamic_batching());
  }
  if (config.is_ensemble()) EnsembleToWire(config, wire.mutable_ensemble_scheduling());
  wire.clear_parameters();
  for (const auto& [key, value] : config.parameters) {
    (*wire.mutable_parameters())[key].set_string_value(value);
  }
  wire.clear_model_warmup();
  for (const Warmup& warmup : config.warmups) ToWire(warmup, wire.add_model_warmup());
  if (config.decoupled) wire.mutable_model_transaction_policy()->set_decoupled(true);
  if (config.response_cache || wire.has_response_cache()) {
    wire.mutable_response_cache()->set_enable(config.response_cache);
  }
  Normalize(config, &wire);
  return wire;
}

std::string ModelConfigJson(const ModelConfig& config) {
  return ProtoJson(ModelConfigToProto(config));
}

}  // namespace siglip
