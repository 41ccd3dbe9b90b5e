#include "serving/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using ::testing::HasSubstr;

// 64 bytes of shared memory, byte i = i.
class SharedMemoryTest : public ::testing::Test {
 protected:
  SharedMemoryTest() : key_("/siglip_shared_memory_test_" + std::to_string(::getpid())) {
    fd_ = ::shm_open(key_.c_str(), O_RDWR | O_CREAT, 0600);
    char bytes[64];
    for (int i = 0; i < 64; ++i) bytes[i] = static_cast<char>(i);
    EXPECT_EQ(::write(fd_, bytes, sizeof(bytes)), 64);
  }
  ~SharedMemoryTest() override {
    ::close(fd_);
    ::shm_unlink(key_.c_str());
  }
  static std::string Text(const absl::Status& status) { return std::string(status.message()); }

  const std::string key_;
  int fd_ = -1;
  SharedMemoryRegions regions_{true, 48};
};

TEST_F(SharedMemoryTest, IsOffUnlessAllowed) {
  SharedMemoryRegions off(false, 64);
  EXPECT_EQ(off.Register({"r", key_, 0, 64}).code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(off.Read({"r", 0, 1}).status().code(), absl::StatusCode::kUnimplemented);
  off.Unregister("");
  EXPECT_TRUE(off.Status("")->empty());
}

TEST_F(SharedMemoryTest, ReadsAndWritesWithinTheRegion) {
  ASSERT_TRUE(regions_.Register({"r", key_, 8, 40}).ok());
  const auto read = regions_.Read({"r", 2, 3});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(static_cast<int>((**read)[0]), 10);
  OutputTensor output{.name = "Y"};
  const std::string value = "abcd";
  output.data = std::as_bytes(std::span(value));
  ASSERT_TRUE(regions_.Write({"r", 36, 4}, output).ok());
  char back[4];
  ASSERT_EQ(::pread(fd_, back, 4, 44), 4);
  EXPECT_EQ(std::string(back, 4), "abcd");
  const absl::Status small = regions_.Write({"r", 0, 3}, output);
  EXPECT_EQ(small.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(Text(small), HasSubstr("should be at least 4 bytes"));
}

TEST_F(SharedMemoryTest, StatusAndUnregister) {
  ASSERT_TRUE(regions_.Register({"b", key_, 0, 64}).ok());
  ASSERT_TRUE(regions_.Register({"a", key_, 8, 8}).ok());
  EXPECT_EQ(regions_.Status("")->at(0).offset, 8u);
  EXPECT_EQ(regions_.Status("b")->at(0).key, key_);
  EXPECT_EQ(regions_.Status("c").status().message(), "Unable to find shared memory region: 'c'");
  EXPECT_EQ(regions_.Register({"a", key_, 0, 1}).code(), absl::StatusCode::kAlreadyExists);
  regions_.Unregister("c");
  regions_.Unregister("a");
  EXPECT_EQ(regions_.Status("")->size(), 1u);
  regions_.Unregister("");
  EXPECT_TRUE(regions_.Status("")->empty());
  EXPECT_EQ(regions_.Read({"a", 0, 1}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SharedMemoryTest, HostileKeysAndRangesAreRefused) {
  for (const std::string& key :
       {std::string(), std::string("/"), std::string(".."), std::string("/.."),
        std::string("/../etc/passwd"), std::string("a/b"), std::string("//x"),
        std::string("/x\0y", 4), std::string(300, 'x'), std::string("/no_such_memory_here"),
        std::string("/triton_python_backend_shm_region_1"),
        std::string("triton_python_backend_shm_region_1")}) {
    EXPECT_EQ(regions_.Register({"r", key, 0, 1}).code(), absl::StatusCode::kInvalidArgument)
        << key;
  }
  EXPECT_EQ(regions_.Register({"", key_, 0, 1}).code(), absl::StatusCode::kInvalidArgument);
  const std::uint64_t max = UINT64_MAX;
  for (const auto& [offset, size] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {0, 0}, {0, 65}, {64, 1}, {max, 1}, {1, max}, {max, max}, {65, 0}}) {
    EXPECT_EQ(regions_.Register({"r", key_, offset, size}).code(),
              absl::StatusCode::kInvalidArgument)
        << offset << " " << size;
  }
  ASSERT_TRUE(regions_.Register({"r", key_, 16, 48}).ok());
  for (const auto& [offset, size] :
       std::vector<std::pair<std::uint64_t, std::uint64_t>>{{0, 49}, {48, 1}, {max, 1}, {1, max}}) {
    EXPECT_EQ(regions_.CheckSlice({"r", offset, size}).code(), absl::StatusCode::kInvalidArgument);
  }
  ASSERT_TRUE(regions_.Register({"whole", key_, 0, 64}).ok());
  EXPECT_THAT(Text(regions_.Read({"whole", 0, 49}).status()), HasSubstr("limit of 48"));
}

TEST_F(SharedMemoryTest, MemoryThatShrinksIsAnErrorNotASignal) {
  ASSERT_TRUE(regions_.Register({"r", key_, 0, 64}).ok());
  ASSERT_EQ(::ftruncate(fd_, 8), 0);
  EXPECT_THAT(Text(regions_.Read({"r", 0, 16}).status()), HasSubstr("has become smaller"));
  OutputTensor output{.name = "Y"};
  const std::string value(16, 'x');
  output.data = std::as_bytes(std::span(value));
  EXPECT_EQ(regions_.Write({"r", 0, 16}, output).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace siglip
