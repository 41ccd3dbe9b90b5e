#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "base/log_settings.h"
#include "base/mutex.h"

namespace siglip {
namespace {

// Bytes of the control character that `text` begins with; 0: none.
std::size_t ControlBytes(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x20 || byte(0) == 0x7f) return 1;
  // U+0080 to U+009F: a terminal may take U+009B for ESC [.
  return text.size() > 1 && byte(0) == 0xc2 && byte(1) >= 0x80 && byte(1) < 0xa0 ? 2 : 0;
}

// Passes on what the settings let through. spdlog's own level is a threshold, which cannot leave
// out warnings and keep infos.
class SettingsSink final : public spdlog::sinks::sink {
 public:
  SettingsSink() { Reopen(""); }

  void log(const spdlog::details::log_msg& message) override {
    MutexLock lock(mu_);
    if (!Wanted(message.level)) return;
    // Maybe somebody else's words, and no LogSafe around them: a line stays one line.
    const std::string safe = Printable({message.payload.data(), message.payload.size()});
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
    target_->set_formatter(
        std::make_unique<spdlog::pattern_formatter>(pattern, spdlog::pattern_time_type::utc));
    return true;
  }
  LogSettings settings() const {
    MutexLock lock(mu_);
    return settings_;
  }
  // Held over a whole change: from what is set to the logger's level.
  Mutex& change_mu() { return change_mu_; }

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

  Mutex change_mu_;
  mutable Mutex mu_;
  LogSettings settings_ SIGLIP_GUARDED_BY(mu_);
  std::shared_ptr<spdlog::sinks::sink> target_ SIGLIP_GUARDED_BY(mu_);
};

bool ApplyTo(spdlog::logger& logger, SettingsSink& sink, const LogSettings& settings) {
  if (!sink.Change(settings)) return false;
  // Lines that nobody wants are not even formatted.
  logger.set_level(settings.verbose_level > 0 ? spdlog::level::debug
                   : settings.info            ? spdlog::level::info
                   : settings.warning         ? spdlog::level::warn
                   : settings.error           ? spdlog::level::err
                                              : spdlog::level::off);
  return true;
}

// Where spdlog keeps the logger for the modules, each of which has a copy of this code.
constexpr char kLoggerName[] = "siglip.cpp";

std::shared_ptr<spdlog::logger> FindOrMakeLogger() {
  if (auto logger = spdlog::get(kLoggerName)) return logger;
  const auto sink = std::make_shared<SettingsSink>();
  auto logger = std::make_shared<spdlog::logger>(kLoggerName, sink);
  logger->flush_on(spdlog::level::trace);
  ApplyTo(*logger, *sink, {.info = false});
  spdlog::register_logger(logger);
  return logger;
}

// Null if another copy of the library made the logger.
std::shared_ptr<SettingsSink> CurrentSink() {
  return std::dynamic_pointer_cast<SettingsSink>(Log().sinks().at(0));
}

}  // namespace

spdlog::logger& Log() {
  using Owner = std::shared_ptr<spdlog::logger>;
  static Owner& logger = *std::make_unique<Owner>(FindOrMakeLogger()).release();
  return *logger;
}

void ConfigureLog(LogLevel level) {
  LogSettings settings;
  settings.verbose_level = level == LogLevel::kDebug ? 1 : 0;
  settings.info = level <= LogLevel::kInfo;
  settings.warning = level <= LogLevel::kWarn;
  settings.error = level <= LogLevel::kError;
  ChangeLog(settings);
}

bool ChangeLog(const LogSettings& settings) {
  const std::shared_ptr<SettingsSink> sink = CurrentSink();
  if (sink == nullptr) return false;
  MutexLock lock(sink->change_mu());
  return ApplyTo(Log(), *sink, settings);
}

absl::StatusOr<LogSettings> UpdateLog(
    const std::function<absl::StatusOr<LogSettings>(LogSettings)>& change) {
  const std::shared_ptr<SettingsSink> sink = CurrentSink();
  if (sink == nullptr) return change(LogSettings{});
  MutexLock lock(sink->change_mu());
  absl::StatusOr<LogSettings> changed = change(sink->settings());
  if (changed.ok()) static_cast<void>(ApplyTo(Log(), *sink, *changed));
  return changed.ok() ? sink->settings() : changed;
}

LogSettings CurrentLog() {
  const std::shared_ptr<SettingsSink> sink = CurrentSink();
  return sink == nullptr ? LogSettings{} : sink->settings();
}

std::string Printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t control = ControlBytes(text);
    for (std::size_t i = 0; i < control; ++i) {
      char escaped[5];
      std::snprintf(escaped, sizeof escaped, "\\x%02x",
                    static_cast<unsigned>(static_cast<unsigned char>(text[i])));
      out += escaped;
    }
    if (control == 0) out += text.front();
    text.remove_prefix(std::max(control, std::size_t{1}));
  }
  return out;
}

std::string LogSafe(std::string_view text) {
  constexpr std::size_t kMaxBytes = 256;  // a log line stays a line
  return Printable(text.substr(0, kMaxBytes)) + (text.size() > kMaxBytes ? "..." : "");
}

}  // namespace siglip
