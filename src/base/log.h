#pragma once

// The library's only way to say something. One event, one line, `key=value`; levels: error =
// someone must act, warn = degraded, info = lifecycle, debug = off by default. Written to stderr,
// by a logger of its own: spdlog's default one is that of the program that uses the library.

#include <string>
#include <string_view>

#include <spdlog/spdlog.h>

namespace siglip {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

// Of the process: the program or libsiglip.so and their modules share it. Warnings and errors to
// stderr until something else is set. Thread-safe; it is never destroyed, so that whatever runs at
// the end of a process may log.
spdlog::logger& Log();

// Sets level and line format. Called once by main, before threads start.
void ConfigureLog(LogLevel level);

// Control characters, C1's of UTF-8 among them, replaced by \xNN: names of files and of archives'
// members move no cursor of a terminal and begin no line.
std::string Printable(std::string_view text);

// The same with the length bounded: for text that a client sent.
std::string LogSafe(std::string_view text);

}  // namespace siglip

#define SIGLIP_LOG_DEBUG(...) siglip::Log().debug(__VA_ARGS__)
#define SIGLIP_LOG_INFO(...) siglip::Log().info(__VA_ARGS__)
#define SIGLIP_LOG_WARN(...) siglip::Log().warn(__VA_ARGS__)
#define SIGLIP_LOG_ERROR(...) siglip::Log().error(__VA_ARGS__)
