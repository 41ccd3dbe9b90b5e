#include "protocol/control.h"

#include <limits>

#include "absl/strings/escaping.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "protocol/json_object.h"
#include "protocol/model_config.h"
#include "protocol/text.h"
#include "serving/config_check.h"

namespace siglip {
namespace {

using Json = nlohmann::json;

// Settings are small; what nests deeper than any of them is not read.
constexpr int kMaxControlDepth = 8;

absl::Status Expected(std::string_view where, std::string_view what) {
  return absl::InvalidArgumentError(Concat("'", where, "': expected ", what));
}

absl::StatusOr<Json> ParseObject(std::string_view body) {
  if (body.empty()) return Json::object();
  return ParseJsonObject<Json>(body, kMaxControlDepth, "an object");
}

absl::StatusOr<std::uint64_t> Unsigned(const Json& object, const char* key, std::uint64_t missing) {
  if (!object.contains(key)) return missing;
  const Json& value = object[key];
  if (!value.is_number_unsigned()) return Expected(key, "an unsigned integer");
  return value.get<std::uint64_t>();
}

// The texts of a setting: a scalar is a list of one, null an empty list.
absl::StatusOr<std::vector<std::string>> Texts(const std::string& key, const Json& value) {
  std::vector<std::string> texts;
  if (value.is_null()) return texts;
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& entry : list) {
    if (entry.is_string()) {
      texts.push_back(entry.get<std::string>());
    } else if (entry.is_number_integer()) {
      texts.push_back(entry.dump());
    } else {
      return Expected(key, "a string, a number, or a list of them");
    }
  }
  return texts;
}

absl::StatusOr<inference::ModelRepositoryParameter> RepositoryParameter(const std::string& key,
                                                                        const Json& value) {
  inference::ModelRepositoryParameter parameter;
  if (value.is_string()) {
    parameter.set_string_param(value.get<std::string>());
  } else if (value.is_boolean()) {
    parameter.set_bool_param(value.get<bool>());
  } else if (value.is_number_integer()) {
    parameter.set_int64_param(value.get<std::int64_t>());
  } else {
    return Expected(key, "a string, bool or integer");
  }
  return parameter;
}

// {"raw_handle":{"b64":...}}; empty if there is none.
absl::StatusOr<std::string> RawHandle(const Json& json) {
  std::string handle;
  if (!json.contains("raw_handle")) return handle;
  const Json& raw = json["raw_handle"];
  if (!raw.is_object() || !raw.contains("b64") || !raw["b64"].is_string() ||
      !absl::Base64Unescape(raw["b64"].get<std::string>(), &handle)) {
    return Expected("raw_handle", "an object with 'b64', a string in base64");
  }
  return handle;
}

// Clients may name files of the model's folder of warmups, and no others.
absl::Status CheckWarmupFiles(const ModelConfig& config) {
  for (const Warmup& warmup : config.warmups) {
    for (const auto& [name, input] : warmup.inputs) {
      if (input.source != WarmupInput::Source::kFile) continue;
      const std::string& file = input.file;
      const bool plain = !file.empty() && file != "." && file != ".." &&
                         file.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
      if (!plain) return Expected("input_data_file", "the name of a file in the model's warmup/");
    }
  }
  return absl::OkStatus();
}

template <class Request>
absl::StatusOr<Request> ParseRepositoryBody(std::string_view body) {
  Request request;
  SIGLIP_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  if (!json.contains("parameters")) return request;
  if (!json["parameters"].is_object()) return Expected("parameters", "an object");
  for (const auto& [key, value] : json["parameters"].items()) {
    if (value.is_null()) continue;
    SIGLIP_ASSIGN_OR_RETURN((*request.mutable_parameters())[key], RepositoryParameter(key, value));
  }
  return request;
}

}  // namespace

absl::StatusOr<inference::RepositoryModelLoadRequest> ParseLoadBody(std::string_view body) {
  return ParseRepositoryBody<inference::RepositoryModelLoadRequest>(body);
}

absl::StatusOr<inference::RepositoryModelUnloadRequest> ParseUnloadBody(std::string_view body) {
  return ParseRepositoryBody<inference::RepositoryModelUnloadRequest>(body);
}

absl::StatusOr<SharedMemoryRegion> ParseRegionBody(SharedMemoryKind kind, std::string_view body) {
  SIGLIP_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  SharedMemoryRegion region{.kind = kind};
  SIGLIP_ASSIGN_OR_RETURN(region.byte_size, Unsigned(json, "byte_size", 0));
  if (kind == SharedMemoryKind::kCuda) {
    SIGLIP_ASSIGN_OR_RETURN(region.key, RawHandle(json));
    SIGLIP_ASSIGN_OR_RETURN(const std::uint64_t device, Unsigned(json, "device_id", 0));
    if (device > std::numeric_limits<std::int32_t>::max()) {
      return Expected("device_id", "the number of a GPU");
    }
    region.device_id = static_cast<std::int64_t>(device);
    return region;
  }
  if (json.contains("key")) {
    if (!json["key"].is_string()) return Expected("key", "a string");
    region.key = json["key"].get<std::string>();
  }
  SIGLIP_ASSIGN_OR_RETURN(region.offset, Unsigned(json, "offset", 0));
  return region;
}

absl::StatusOr<TraceSettingsMap> ParseTraceBody(std::string_view body) {
  SIGLIP_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  TraceSettingsMap settings;
  for (const auto& [key, value] : json.items()) {
    SIGLIP_ASSIGN_OR_RETURN(settings[key], Texts(key, value));
  }
  return settings;
}

absl::StatusOr<inference::LogSettingsRequest> ParseLogBody(std::string_view body) {
  SIGLIP_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  inference::LogSettingsRequest request;
  for (const auto& [key, value] : json.items()) {
    if (value.is_null()) continue;  // as Triton: no change
    auto& setting = (*request.mutable_settings())[key];
    if (value.is_boolean()) {
      setting.set_bool_param(value.get<bool>());
    } else if (value.is_string()) {
      setting.set_string_param(value.get<std::string>());
    } else if (value.is_number_unsigned() &&
               value.get<std::uint64_t>() <= std::numeric_limits<std::uint32_t>::max()) {
      setting.set_uint32_param(value.get<std::uint32_t>());
    } else {
      return Expected(key, "a bool, a string or an unsigned integer of 32 bits");
    }
  }
  return request;
}

absl::StatusOr<LoadModelRequest> ToLoadRequest(
    const inference::RepositoryModelLoadRequest& request) {
  LoadModelRequest load{.name = request.model_name(), .config = std::nullopt};
  if (!IsModelName(load.name)) return Expected("model_name", kModelNameRule);
  for (const auto& [key, value] : request.parameters()) {
    if (key == "config") {
      if (!value.has_string_param()) return Expected("config", "a string of JSON");
      SIGLIP_ASSIGN_OR_RETURN(load.config, ParseModelConfigJson(value.string_param(), load.name));
      SIGLIP_RETURN_IF_ERROR(CheckWarmupFiles(*load.config));
    } else if (key.starts_with("file:")) {
      return absl::UnimplementedError(Concat(
          "load parameter '", LogSafe(key),
          "': files cannot be sent, weights are read from the folder that 'checkpoint' names"));
    } else {
      return absl::InvalidArgumentError(Concat("unrecognized load parameter '", LogSafe(key), "'"));
    }
  }
  return load;
}

absl::StatusOr<bool> UnloadsDependents(const inference::RepositoryModelUnloadRequest& request) {
  if (request.model_name().empty()) return Expected("model_name", "a name");
  bool dependents = false;
  for (const auto& [key, value] : request.parameters()) {
    if (key != "unload_dependents") {
      return absl::InvalidArgumentError(
          Concat("unrecognized unload parameter '", LogSafe(key), "'"));
    }
    if (!value.has_bool_param()) return Expected(key, "true or false");
    dependents = value.bool_param();
  }
  return dependents;
}

TraceSettingsMap ToTraceSettings(const inference::TraceSettingRequest& request) {
  TraceSettingsMap settings;
  for (const auto& [key, value] : request.settings()) {
    settings[key].assign(value.value().begin(), value.value().end());
  }
  return settings;
}

inference::TraceSettingResponse TraceSettingsToProto(const TraceSettingsMap& settings) {
  inference::TraceSettingResponse response;
  for (const auto& [key, values] : settings) {
    auto& setting = (*response.mutable_settings())[key];
    for (const std::string& value : values) setting.add_value(value);
  }
  return response;
}

std::string TraceSettingsJson(const TraceSettingsMap& settings) {
  std::string json = "{";
  for (const auto& [key, values] : settings) {
    if (json.size() > 1) json += ',';
    AppendJsonString(key, json);
    json += ':';
    if (key == "trace_level") {
      json += '[';
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (i != 0) json += ',';
        AppendJsonString(values[i], json);
      }
      json += ']';
    } else {
      AppendJsonString(values.empty() ? std::string_view() : std::string_view(values[0]), json);
    }
  }
  return json + '}';
}

absl::StatusOr<LogSettings> ChangedLogSettings(LogSettings current,
                                               const inference::LogSettingsRequest& request) {
  const std::pair<std::string_view, bool*> switches[] = {{"log_info", &current.info},
                                                         {"log_warning", &current.warning},
                                                         {"log_error", &current.error}};
  for (const auto& [key, value] : request.settings()) {
    bool known = false;
    for (const auto& [name, target] : switches) {
      if (name != key) continue;
      if (!value.has_bool_param()) return Expected(key, "true or false");
      *target = value.bool_param();
      known = true;
    }
    if (known) continue;
    if (key == "log_verbose_level") {
      if (!value.has_uint32_param()) return Expected(key, "an unsigned integer");
      current.verbose_level = value.uint32_param();
    } else if (key == "log_format") {
      const bool good = value.has_string_param() &&
                        (value.string_param() == "default" || value.string_param() == "ISO8601");
      if (!good) return Expected(key, "default or ISO8601");
      current.iso8601 = value.string_param() == "ISO8601";
    } else if (key == "log_file") {
      return absl::UnimplementedError(
          "log file location can not be updated through network protocol");
    } else {
      return absl::InvalidArgumentError(Concat("unknown log setting '", LogSafe(key), "'"));
    }
  }
  return current;
}

absl::StatusOr<LogSettings> ApplyLogSettings(const inference::LogSettingsRequest& request) {
  return UpdateLog(
      [&request](LogSettings current) { return ChangedLogSettings(std::move(current), request); });
}

inference::LogSettingsResponse LogSettingsToProto(const LogSettings& settings) {
  inference::LogSettingsResponse response;
  auto& out = *response.mutable_settings();
  out["log_file"].set_string_param(settings.file);
  out["log_info"].set_bool_param(settings.info);
  out["log_warning"].set_bool_param(settings.warning);
  out["log_error"].set_bool_param(settings.error);
  out["log_verbose_level"].set_uint32_param(settings.verbose_level);
  out["log_format"].set_string_param(settings.iso8601 ? "ISO8601" : "default");
  return response;
}

std::string LogSettingsJson(const LogSettings& settings) {
  const auto text = [](bool on) { return on ? "true" : "false"; };
  std::string json = "{\"log_file\":";
  AppendJsonString(settings.file, json);
  AppendAll(json, ",\"log_info\":", text(settings.info),
            ",\"log_warning\":", text(settings.warning), ",\"log_error\":", text(settings.error),
            ",\"log_verbose_level\":", settings.verbose_level, ",\"log_format\":\"",
            settings.iso8601 ? "ISO8601" : "default", "\"}");
  return json;
}

std::string RegionsJson(const std::vector<SharedMemoryRegion>& regions) {
  std::string json = "[";
  for (const SharedMemoryRegion& region : regions) {
    json += json.size() == 1 ? "{\"name\":" : ",{\"name\":";
    AppendJsonString(region.name, json);
    if (region.kind == SharedMemoryKind::kCuda) {
      AppendAll(json, ",\"device_id\":", region.device_id);
    } else {
      json += ",\"key\":";
      AppendJsonString(region.key, json);
      AppendAll(json, ",\"offset\":", region.offset);
    }
    AppendAll(json, ",\"byte_size\":", region.byte_size, "}");
  }
  return json + ']';
}

absl::Status CheckTracedModel(const Service& service, const std::string& model) {
  if (model.empty() || service.GetModelMetadata(model, "").ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(Concat("Request for unknown model : ", model));
}

absl::Status RepositoryNameRefused() {
  return absl::UnimplementedError("'repository_name' specification is not supported");
}

}  // namespace siglip
