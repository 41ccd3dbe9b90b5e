#include "server/door_state.h"

#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/status_macros.h"
#include "protocol/text.h"

namespace siglip {
namespace {

// As Triton reads them on its command line: in any case, and levels by older names too. What is
// none of its words stays as it is.
std::string TraceWord(std::string_view name, std::string_view value) {
  constexpr std::pair<std::string_view, std::string_view> kLevels[] = {
      {"off", "OFF"},        {"false", "OFF"},       {"timestamps", "TIMESTAMPS"},
      {"on", "TIMESTAMPS"},  {"true", "TIMESTAMPS"}, {"min", "TIMESTAMPS"},
      {"max", "TIMESTAMPS"}, {"tensors", "TENSORS"}};
  constexpr std::pair<std::string_view, std::string_view> kModes[] = {{"triton", "triton"},
                                                                      {"chrome", "chrome"}};
  std::span<const std::pair<std::string_view, std::string_view>> words;
  if (name == "level") words = kLevels;
  if (name == "mode") words = kModes;
  for (const auto& [word, meaning] : words) {
    if (EqualsIgnoreCase(word, value)) return std::string(meaning);
  }
  return std::string(value);
}

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
      settings[std::string(setting)] = {TraceWord(name, left)};
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
