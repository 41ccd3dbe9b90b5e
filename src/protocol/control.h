#pragma once

// What steers the server: model control, shared memory, trace and log settings. HTTP's bodies
// become the messages that gRPC carries, so that both doors mean the same.

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/log_settings.h"
#include "serving/service.h"
#include "serving/shared_memory.h"
#include "serving/tracer.h"

#include "grpc_service.pb.h"

namespace siglip {

// Bodies of HTTP: empty or a JSON object; InvalidArgument names the field. What the path says is
// filled in by the caller.
absl::StatusOr<inference::RepositoryModelLoadRequest> ParseLoadBody(std::string_view body);
absl::StatusOr<inference::RepositoryModelUnloadRequest> ParseUnloadBody(std::string_view body);
absl::StatusOr<SharedMemoryRegion> ParseRegionBody(SharedMemoryKind kind, std::string_view body);
absl::StatusOr<TraceSettingsMap> ParseTraceBody(std::string_view body);
absl::StatusOr<inference::LogSettingsRequest> ParseLogBody(std::string_view body);

// `config` as JSON, in place of the repository's file. InvalidArgument for other parameters and for
// what is no model's name.
absl::StatusOr<LoadModelRequest> ToLoadRequest(
    const inference::RepositoryModelLoadRequest& request);
absl::StatusOr<bool> UnloadsDependents(const inference::RepositoryModelUnloadRequest& request);

TraceSettingsMap ToTraceSettings(const inference::TraceSettingRequest& request);
inference::TraceSettingResponse TraceSettingsToProto(const TraceSettingsMap& settings);
std::string TraceSettingsJson(const TraceSettingsMap& settings);

// `current` with the request's changes; Unimplemented for log_file.
absl::StatusOr<LogSettings> ChangedLogSettings(LogSettings current,
                                               const inference::LogSettingsRequest& request);
// Changes the process' log so, in one step; what is then set.
absl::StatusOr<LogSettings> ApplyLogSettings(const inference::LogSettingsRequest& request);
inference::LogSettingsResponse LogSettingsToProto(const LogSettings& settings);
std::string LogSettingsJson(const LogSettings& settings);

std::string RegionsJson(const std::vector<SharedMemoryRegion>& regions);

absl::Status RepositoryNameRefused();
// Whether there is a model whose trace settings are asked for; "" is all models. As Triton, not
// NotFound.
absl::Status CheckTracedModel(const Service& service, const std::string& model);

}  // namespace siglip
