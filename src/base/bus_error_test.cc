#include "base/bus_error.h"

#include <unistd.h>

#include <csignal>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/file_map.h"

namespace siglip {
namespace {

TEST(BusErrorDeathTest, TheFileThatWasCutShortIsNamed) {
  const std::string path = ::testing::TempDir() + "cut_short_" + std::to_string(::getpid());
  std::ofstream(path) << std::string(1 << 16, 'x');
  const auto map = FileMap::Open(path);
  ASSERT_TRUE(map.ok()) << map.status();
  ASSERT_EQ(::truncate(path.c_str(), 0), 0);
  EXPECT_EXIT(
      {
        ReportBusErrors();
        // Threads that fail at once must not cut the message off.
        std::vector<std::thread> threads;
        for (int i = 0; i < 8; ++i) {
          threads.emplace_back([&map] {
            volatile std::byte byte = map->bytes()[1 << 15];
            static_cast<void>(byte);
          });
        }
        for (std::thread& thread : threads) thread.join();
      },
      ::testing::KilledBySignal(SIGBUS), "cut short while it was in use.*" + path);
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace siglip
