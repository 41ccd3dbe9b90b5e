#include "server/door_state.h"

#include "base/status_macros.h"
#include "protocol/text.h"

namespace siglip {
namespace {

// "rate=100", "level=TIMESTAMPS", "mode=triton" or "triton,file=trace.json": Triton's form.
absl::StatusOr<TraceSettingsMap> ParseTraceConfig(const std::vector<std::string>& texts) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"level", "trace_level"}, {"rate", "trace_rate"}, {"count", "trace_count"},
      {"mode", "trace_mode"},   {"file", "trace_file"}, {"log-frequency", "log_frequency"}};
  TraceSettingsMap settings;
  for (const std::string& text : texts) {
    std::string_view left = text;
    for (const std::string_view mode : {"triton,", "chrome,"}) {
      if (left.starts_with(mode)) left.remove_prefix(mode.size());
    }
    const std::string_view name = NextPart(left, '=');
    bool known = false;
    for (const auto& [short_name, setting] : kNames) {
      if (short_name != name || left.empty()) continue;
      settings[std::string(setting)] = {std::string(left)};
      known = true;
    }
    if (!known) {
      return absl::InvalidArgumentError(
          Concat("trace config '", text,
                 "': expected level=, rate=, count=, mode=triton|chrome, triton,file= or "
                 "triton,log-frequency="));
    }
  }
  return settings;
}

}  // namespace

absl::Status DoorState::Configure(const ServerOptions& options) {
  SIGLIP_RETURN_IF_ERROR(api_keys.Load(options.api_key_file));
  SIGLIP_ASSIGN_OR_RETURN(http_restricted, RestrictedApis::Parse(options.http_restricted_apis, ""));
  SIGLIP_ASSIGN_OR_RETURN(grpc_restricted, RestrictedApis::Parse(options.grpc_restricted_protocols,
                                                                 "triton-grpc-protocol-"));
  SIGLIP_ASSIGN_OR_RETURN(http_forwarding,
                          HeaderForwarding::Parse(options.http_header_forward_pattern));
  SIGLIP_ASSIGN_OR_RETURN(grpc_forwarding,
                          HeaderForwarding::Parse(options.grpc_header_forward_pattern));
  SIGLIP_ASSIGN_OR_RETURN(const TraceSettingsMap trace, ParseTraceConfig(options.trace_config));
  return tracer->Configure(trace);
}

}  // namespace siglip
