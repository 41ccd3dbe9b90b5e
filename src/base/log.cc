#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>

#include "base/log_settings.h"
#include "base/mutex.h"

namespace siglip {
namespace {

bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (!IsControl(c)) {
      out += c;
      continue;
    }
    char escaped[5];
    std::snprintf(escaped, sizeof escaped, "\\x%02x",
                  static_cast<unsigned>(static_cast<unsigned char>(c)));
    out += escaped;
  }
  return out;
}

// Passes on what the settings let through. spdlog's own level is a threshold, which cannot leave
// out warnings and keep infos.
class SettingsSink final : public spdlog::sinks::sink {
 public:
  SettingsSink() { Reopen(""); }

  void log(const spdlog::details::log_msg& message) override {
    MutexLock lock(mu_);
    if (!Wanted(message.level)) return;
    const std::string_view text(message.payload.data(), message.payload.size());
    if (std::none_of(text.begin(), text.end(), IsControl)) return target_->log(message);
    // Somebody else's words, and no LogSafe around them: a line stays one line.
    const std::string safe = Escaped(text);
    spdlog::details::log_msg safe_message = message;
    safe_message.payload = safe;
    target_->log(safe_message);
  }
  void flush() override {
    MutexLock lock(mu_);
    target_->flush();
  }
  void set_pattern(const std::string& pattern) override {
    MutexLock lock(mu_);
    target_->set_pattern(pattern);
  }
  void set_formatter(std::unique_ptr<spdlog::formatter> formatter) override {
    MutexLock lock(mu_);
    target_->set_formatter(std::move(formatter));
  }

  bool Change(const LogSettings& settings) {
    MutexLock lock(mu_);
    if (settings.file != settings_.file && !Reopen(settings.file)) return false;
    settings_ = settings;
    const char* pattern =
        settings.iso8601 ? "%Y-%m-%dT%H:%M:%SZ %^%L%$ %P] %v" : "%Y-%m-%dT%H:%M:%S.%eZ %^%l%$ %v";
    target_->set_formatter(std::make_unique<spdlog::pattern_formatter>(
        pattern, spdlog::pattern_time_type::utc));
    return true;
  }
  LogSettings settings() const {
    MutexLock lock(mu_);
    return settings_;
  }

 private:
  bool Wanted(spdlog::level::level_enum level) const SIGLIP_REQUIRES(mu_) {
    switch (level) {
      case spdlog::level::info:
        return settings_.info;
      case spdlog::level::warn:
        return settings_.warning;
      case spdlog::level::err:
      case spdlog::level::critical:
        return settings_.error;
      default:
        return settings_.verbose_level > 0;
    }
  }
  bool Reopen(const std::string& file) SIGLIP_NO_THREAD_SAFETY_ANALYSIS {
    try {
      if (file.empty()) {
        target_ = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
      } else {
        target_ = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file);
      }
      return true;
    } catch (const spdlog::spdlog_ex&) {
      return false;
    }
  }

  mutable Mutex mu_;
  LogSettings settings_ SIGLIP_GUARDED_BY(mu_);
  std::shared_ptr<spdlog::sinks::sink> target_ SIGLIP_GUARDED_BY(mu_);
};

std::shared_ptr<SettingsSink> CurrentSink() {
  const auto& sinks = spdlog::default_logger_raw()->sinks();
  return sinks.empty() ? nullptr : std::dynamic_pointer_cast<SettingsSink>(sinks[0]);
}

}  // namespace

void ConfigureLog(LogLevel level) {
  auto logger = std::make_shared<spdlog::logger>("siglip", std::make_shared<SettingsSink>());
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
  LogSettings settings;
  settings.verbose_level = level == LogLevel::kDebug ? 1 : 0;
  settings.info = level <= LogLevel::kInfo;
  settings.warning = level <= LogLevel::kWarn;
  settings.error = level <= LogLevel::kError;
  ChangeLog(settings);
}

bool ChangeLog(const LogSettings& settings) {
  const std::shared_ptr<SettingsSink> sink = CurrentSink();
  if (sink == nullptr || !sink->Change(settings)) return false;
  // Lines that nobody wants are not even formatted.
  spdlog::default_logger_raw()->set_level(settings.verbose_level > 0 ? spdlog::level::debug
                                          : settings.info            ? spdlog::level::info
                                          : settings.warning         ? spdlog::level::warn
                                          : settings.error           ? spdlog::level::err
                                                                     : spdlog::level::off);
  return true;
}

LogSettings CurrentLog() {
  const std::shared_ptr<SettingsSink> sink = CurrentSink();
  return sink == nullptr ? LogSettings{} : sink->settings();
}

void ConfigureQuietLogOnce() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (CurrentSink() == nullptr) ConfigureLog(LogLevel::kWarn);
  });
}

std::string LogSafe(std::string_view text) {
  constexpr std::size_t kMaxBytes = 256;  // a log line stays a line
  return Escaped(text.substr(0, kMaxBytes)) + (text.size() > kMaxBytes ? "..." : "");
}

}  // namespace siglip
