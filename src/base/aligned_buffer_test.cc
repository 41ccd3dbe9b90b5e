#include "base/aligned_buffer.h"

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"

namespace siglip {
namespace {

// Of /proc/self/smaps, the flags of the mapping that holds `address`: "rd wr mr ...".
std::string MappingFlags(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  bool is_in = false;
  for (std::string line; std::getline(smaps, line);) {
    std::uintptr_t begin = 0, end = 0;
    char dash = 0;
    std::istringstream range(line);
    if (range >> std::hex >> begin >> dash >> end && dash == '-') {
      const auto at = reinterpret_cast<std::uintptr_t>(address);
      is_in = begin <= at && at < end;
    }
    if (is_in && line.starts_with("VmFlags:")) return line;
  }
  return "";
}

TEST(AlignedBuffer, IsAlignedAndHoldsItsElements) {
  for (const std::size_t size : {1, 15, 16, 17, 5000, 2'000'003}) {
    AlignedBuffer<float> buffer(size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % kBufferAlignment, 0u);
    buffer[0] = 1;
    buffer[size - 1] = 2;
    EXPECT_EQ(buffer[size - 1], 2);
    EXPECT_EQ(buffer.size(), size);
  }
  EXPECT_TRUE(AlignedBuffer<float>(0).empty());
}

TEST(AlignedBuffer, LargeOnesAskForHugePages) {
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled")) {
    GTEST_SKIP() << "no transparent huge pages in this kernel";
  }
  const AlignedBuffer<char> large(std::size_t{64} << 20);
  const std::string flags = MappingFlags(large.data() + large.size() / 2);
  ASSERT_NE(flags, "");
  EXPECT_NE(flags.find(" hg"), std::string::npos) << flags;
}

TEST(AlignedBuffer, MoreThanThereIsThrows) {
  EXPECT_THROW(AlignedBuffer<float>(static_cast<std::size_t>(-1)), std::bad_alloc);
}

}  // namespace
}  // namespace siglip
