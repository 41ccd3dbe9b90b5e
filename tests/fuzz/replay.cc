// A fuzz target as a plain test: its seeds, and each of them cut short and damaged. What fuzzing
// found is among the seeds once it is fixed.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void RunOne(const std::string& bytes) {
  // A buffer of exactly this size, so that the sanitizers see every byte read past it.
  const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

TEST(FuzzSeeds, AreHandledWholeCutAndDamaged) {
  const char* const folder = std::getenv("SIGLIP_FUZZ_SEEDS");
  ASSERT_NE(folder, nullptr);
  int seeds = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    SCOPED_TRACE(entry.path().string());
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    RunOne(bytes);
    for (const std::size_t eighth : {0u, 1u, 3u, 5u, 7u}) {
      RunOne(bytes.substr(0, bytes.size() * eighth / 8));
      std::string damaged = bytes;
      if (!damaged.empty()) damaged[damaged.size() * eighth / 8] ^= 0x41;
      RunOne(damaged);
    }
    ++seeds;
  }
  EXPECT_GT(seeds, 0) << folder;
}

}  // namespace
