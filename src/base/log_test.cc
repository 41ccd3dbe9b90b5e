#include "base/log.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/log_settings.h"

namespace siglip {
namespace {

TEST(LogSafe, ControlCharactersCannotForgeALine) {
  EXPECT_EQ(LogSafe("a\nb\x1b[0m\x7f"), "a\\x0ab\\x1b[0m\\x7f");
  EXPECT_LE(LogSafe(std::string(10000, 'x')).size(), 300u);
}

TEST(Printable, IsWholeAndHasNoControlCharacters) {
  EXPECT_EQ(Printable("a\r\x1b[2K\u009bK"), "a\\x0d\\x1b[2K\\xc2\\x9bK");
  const std::string name = std::string(1000, 'x') + "\u00e9\u00a0\xc2";
  EXPECT_EQ(Printable(name), name);
}

TEST(LogSettings, EachLevelIsSwitchedAlone) {
  ConfigureLog(LogLevel::kInfo);
  EXPECT_EQ(CurrentLog(), LogSettings{});
  const std::string file = ::testing::TempDir() + "log_test.txt";
  std::remove(file.c_str());
  LogSettings settings{.warning = false, .verbose_level = 1, .iso8601 = true, .file = file};
  ASSERT_TRUE(ChangeLog(settings));
  SIGLIP_LOG_INFO("one");
  SIGLIP_LOG_WARN("two");
  SIGLIP_LOG_DEBUG("three");
  settings.verbose_level = 0;
  settings.info = false;
  settings.warning = true;
  ASSERT_TRUE(ChangeLog(settings));
  SIGLIP_LOG_INFO("four");
  SIGLIP_LOG_WARN("five");
  SIGLIP_LOG_DEBUG("six");
  EXPECT_EQ(CurrentLog(), settings);
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  std::string words;
  std::istringstream lines(text.str());
  for (std::string line; std::getline(lines, line);) words += line.substr(line.rfind(' '));
  EXPECT_EQ(words, " one three five");
  EXPECT_NE(text.str().find("Z I "), std::string::npos) << text.str();
  settings.file = "README.md/log.txt";
  EXPECT_FALSE(ChangeLog(settings));
  EXPECT_EQ(CurrentLog().file, file);
  EXPECT_TRUE(ChangeLog({}));
}

TEST(LogSettings, OfChangesAtOnceNoneIsLost) {
  ConfigureLog(LogLevel::kError);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int change = 0; change < 500; ++change) {
        const auto changed = UpdateLog([](LogSettings settings) {
          ++settings.verbose_level;
          return settings;
        });
        EXPECT_TRUE(changed.ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(CurrentLog().verbose_level, 2000);
  const LogSettings before = CurrentLog();
  const auto refused = UpdateLog([](const LogSettings&) -> absl::StatusOr<LogSettings> {
    return absl::InvalidArgumentError("no");
  });
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CurrentLog(), before);
  EXPECT_TRUE(ChangeLog({}));
}

TEST(LogSettings, NoLineHasControlBytesWhoeverWroteIt) {
  ConfigureLog(LogLevel::kInfo);
  const std::string file = ::testing::TempDir() + "log_test_control.txt";
  std::remove(file.c_str());
  ASSERT_TRUE(ChangeLog({.file = file}));
  SIGLIP_LOG_INFO("name={} end", std::string("a\n2026 error forged\x1b[2J\x7f\0", 24));
  ASSERT_TRUE(ChangeLog({}));
  std::ostringstream content;
  content << std::ifstream(file).rdbuf();
  const std::string text = content.str();
  EXPECT_NE(text.find("name=a\\x0a2026 error forged\\x1b[2J\\x7f end"), std::string::npos) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST(Log, AProgramKeepsItsOwnDefaultLogger) {
  const auto theirs = spdlog::default_logger();
  SIGLIP_LOG_WARN("ours");
  ConfigureLog(LogLevel::kOff);
  EXPECT_EQ(spdlog::default_logger(), theirs);
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("another"));
  EXPECT_TRUE(ChangeLog({.info = false}));
  EXPECT_EQ(CurrentLog(), LogSettings{.info = false});
  spdlog::set_default_logger(theirs);
}

TEST(Log, ItOutlivesSpdlog) {
  ConfigureLog(LogLevel::kError);
  spdlog::drop_all();
  ::testing::internal::CaptureStderr();
  SIGLIP_LOG_ERROR("still here");
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("still here"), std::string::npos);
}

}  // namespace
}  // namespace siglip
