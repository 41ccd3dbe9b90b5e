#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <cstdio>
#include <memory>

namespace siglip {

void ConfigureLog(LogLevel level) {
  auto logger = spdlog::stderr_color_mt("siglip");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %^%l%$ %v", spdlog::pattern_time_type::utc);
  switch (level) {
    case LogLevel::kDebug: logger->set_level(spdlog::level::debug); break;
    case LogLevel::kInfo: logger->set_level(spdlog::level::info); break;
    case LogLevel::kWarn: logger->set_level(spdlog::level::warn); break;
    case LogLevel::kError: logger->set_level(spdlog::level::err); break;
    case LogLevel::kOff: logger->set_level(spdlog::level::off); break;
  }
  spdlog::set_default_logger(std::move(logger));
}

std::string LogSafe(std::string_view text) {
  constexpr std::size_t kMaxBytes = 256;  // a log line stays a line
  std::string out;
  for (const char c : text.substr(0, kMaxBytes)) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f) {
      char escaped[5];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned>(u));
      out += escaped;
    } else {
      out += c;
    }
  }
  if (text.size() > kMaxBytes) out += "...";
  return out;
}

}  // namespace siglip
