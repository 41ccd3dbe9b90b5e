#pragma once

// The library's only way to say something. One event, one line, `key=value`; levels: error =
// someone must act, warn = degraded, info = lifecycle, debug = off by default. Written to stderr.

#include <string>
#include <string_view>

#include <spdlog/spdlog.h>

namespace siglip {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

// Sets level and line format of the process' log. Called once by main, before threads start.
void ConfigureLog(LogLevel level);

// Control characters, C1's of UTF-8 among them, replaced by \xNN: names of files and of archives'
// members move no cursor of a terminal and begin no line.
std::string Printable(std::string_view text);

// The same with the length bounded: for text that a client sent.
std::string LogSafe(std::string_view text);

}  // namespace siglip

#define SIGLIP_LOG_DEBUG(...) spdlog::debug(__VA_ARGS__)
#define SIGLIP_LOG_INFO(...) spdlog::info(__VA_ARGS__)
#define SIGLIP_LOG_WARN(...) spdlog::warn(__VA_ARGS__)
#define SIGLIP_LOG_ERROR(...) spdlog::error(__VA_ARGS__)
