#include "serving/shared_memory.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using ::testing::HasSubstr;

constexpr SharedMemoryKind kSystem = SharedMemoryKind::kSystem;
constexpr SharedMemoryKind kCuda = SharedMemoryKind::kCuda;

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
  // GPUs are those of fake_cuda_for_test.cc.
  SharedMemoryRegions regions_{
      {.allowed = true, .max_read_bytes = 48, .cuda_library = SIGLIP_FAKE_CUDA_PATH}};
};

TEST_F(SharedMemoryTest, IsOffUnlessAllowed) {
  SharedMemoryRegions off({.max_read_bytes = 64});
  EXPECT_EQ(off.Register({"r", key_, 0, 64}).code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(off.Read({"r", 0, 1}).status().code(), absl::StatusCode::kUnimplemented);
  off.Unregister(kSystem, "");
  EXPECT_TRUE(off.Status(kSystem, "")->empty());
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
  EXPECT_EQ(regions_.Status(kSystem, "")->at(0).offset, 8u);
  EXPECT_EQ(regions_.Status(kSystem, "b")->at(0).key, key_);
  EXPECT_EQ(regions_.Status(kSystem, "c").status().message(),
            "Unable to find system shared memory region: 'c'");
  EXPECT_EQ(regions_.Status(SharedMemoryKind::kCuda, "b").status().message(),
            "Unable to find cuda shared memory region: 'b'");
  EXPECT_EQ(regions_.Register({"a", key_, 0, 1}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(regions_.Register({"a", "/no_such_memory_here", 0, 1}).code(),
            absl::StatusCode::kAlreadyExists)
      << "the name is looked at first";
  regions_.Unregister(kSystem, "c");
  regions_.Unregister(kSystem, "a");
  EXPECT_EQ(regions_.Status(kSystem, "")->size(), 1u);
  regions_.Unregister(kSystem, "");
  EXPECT_TRUE(regions_.Status(kSystem, "")->empty());
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
  for (const auto& [offset, size] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {0, 0}, {0, 49}, {48, 1}, {max, 1}, {1, max}}) {
    EXPECT_EQ(regions_.CheckSlice({"r", offset, size}).code(), absl::StatusCode::kInvalidArgument);
  }
  ASSERT_TRUE(regions_.Register({"whole", key_, 0, 64}).ok());
  EXPECT_THAT(Text(regions_.Read({"whole", 0, 49}).status()), HasSubstr("limit of 48"));
  EXPECT_TRUE(regions_.Read({"whole", 0, 8}, 40).ok());
  EXPECT_THAT(Text(regions_.Read({"whole", 0, 9}, 40).status()), HasSubstr("limit of 48"));
}

TEST_F(SharedMemoryTest, NamesWithoutTheOperatorsPrefixAreRefused) {
  SharedMemoryRegions own({.allowed = true, .max_read_bytes = 64, .key_prefix = key_.substr(1)});
  EXPECT_TRUE(own.Register({"slash", key_, 0, 64}).ok());
  EXPECT_TRUE(own.Register({"plain", key_.substr(1), 0, 64}).ok());
  SharedMemoryRegions others({.allowed = true, .max_read_bytes = 64, .key_prefix = "/tensors."});
  const absl::Status refused = others.Register({"r", key_, 0, 64});
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(refused), HasSubstr("expected one that begins with '/tensors.'"));
  // Not even whether it is there is told.
  EXPECT_THAT(Text(others.Register({"r", "/no_such_memory_here", 0, 64})),
              HasSubstr("expected one that begins with '/tensors.'"));
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

// Memory of a GPU, of which the stand-in takes the name in place of a handle.
class CudaMemoryTest : public SharedMemoryTest {
 protected:
  CudaMemoryTest() { fake_ = ::dlopen(SIGLIP_FAKE_CUDA_PATH, RTLD_NOW | RTLD_LOCAL); }
  ~CudaMemoryTest() override {
    ::unsetenv("SIGLIP_FAKE_CUDA");
    ::dlclose(fake_);
  }
  // What the stand-in counts: "fake_cuda_open_handles", "fake_cuda_contexts".
  int Count(const char* symbol) const {
    return reinterpret_cast<int (*)()>(::dlsym(fake_, symbol))();
  }
  static SharedMemoryRegion Gpu(std::string name, std::string handle, std::uint64_t size = 64,
                                std::int64_t device = 0) {
    handle.resize(kCudaIpcHandleBytes);
    return {.name = std::move(name),
            .key = std::move(handle),
            .byte_size = size,
            .kind = kCuda,
            .device_id = device};
  }

  void* fake_ = nullptr;
};

TEST_F(CudaMemoryTest, ReadsAndWritesWithinTheRegion) {
  ASSERT_TRUE(regions_.Register(Gpu("g", key_, 60, 1)).ok());
  const auto read = regions_.Read({"g", 10, 3});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(static_cast<int>((**read)[0]), 10);
  EXPECT_EQ(static_cast<int>((**read)[2]), 12);
  OutputTensor output{.name = "Y"};
  const std::string value = "abcd";
  output.data = std::as_bytes(std::span(value));
  ASSERT_TRUE(regions_.Write({"g", 36, 4}, output).ok());
  char back[4];
  ASSERT_EQ(::pread(fd_, back, 4, 36), 4);
  EXPECT_EQ(std::string(back, 4), "abcd");
  EXPECT_EQ(regions_.CheckSlice({"g", 60, 1}).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaMemoryTest, KindsShareNamesAndAreListedApart) {
  ASSERT_TRUE(regions_.Register(Gpu("g", key_)).ok());
  ASSERT_TRUE(regions_.Register({"s", key_, 0, 64}).ok());
  EXPECT_EQ(regions_.Register({"g", key_, 0, 64}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(regions_.Register(Gpu("s", key_)).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Count("fake_cuda_open_handles"), 1);
  ASSERT_EQ(regions_.Status(kCuda, "")->size(), 1u);
  EXPECT_EQ(regions_.Status(kCuda, "g")->at(0).byte_size, 64u);
  EXPECT_EQ(regions_.Status(kSystem, "g").status().code(), absl::StatusCode::kNotFound);
  regions_.Unregister(kSystem, "g");
  regions_.Unregister(kSystem, "");
  EXPECT_EQ(regions_.Status(kSystem, "")->size(), 0u);
  EXPECT_EQ(regions_.Status(kCuda, "")->size(), 1u);
  regions_.Unregister(kCuda, "");
  EXPECT_TRUE(regions_.Status(kCuda, "")->empty());
  EXPECT_EQ(Count("fake_cuda_open_handles"), 0);
}

TEST_F(CudaMemoryTest, EverythingIsGivenBack) {
  {
    SharedMemoryRegions regions(
        {.allowed = true, .max_read_bytes = 64, .cuda_library = SIGLIP_FAKE_CUDA_PATH});
    ASSERT_TRUE(regions.Register(Gpu("a", key_)).ok());
    ASSERT_TRUE(regions.Register(Gpu("b", key_, 64, 1)).ok());
    EXPECT_EQ(Count("fake_cuda_contexts"), 2);
  }
  EXPECT_EQ(Count("fake_cuda_open_handles"), 0);
  EXPECT_EQ(Count("fake_cuda_contexts"), 0);
}

TEST_F(CudaMemoryTest, HostileHandlesDevicesAndSizesAreRefused) {
  SharedMemoryRegion shorter = Gpu("g", key_);
  shorter.key.pop_back();
  for (const SharedMemoryRegion& region :
       {shorter, Gpu("g", "/no_such_memory"), Gpu("g", ""), Gpu("g", key_, 65), Gpu("g", key_, 0),
        Gpu("g", key_, UINT64_MAX), Gpu("g", key_, 64, 2), Gpu("g", key_, 64, -1), Gpu("", key_)}) {
    EXPECT_EQ(regions_.Register(region).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(Count("fake_cuda_open_handles"), 0);
  SharedMemoryRegions off({.max_read_bytes = 64, .cuda_library = SIGLIP_FAKE_CUDA_PATH});
  EXPECT_EQ(off.Register(Gpu("g", key_)).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(CudaMemoryTest, ALostGpuIsAnErrorOfItsRequest) {
  ASSERT_TRUE(regions_.Register(Gpu("g", key_)).ok());
  ::setenv("SIGLIP_FAKE_CUDA", "lost", 1);
  EXPECT_THAT(Text(regions_.Read({"g", 0, 1}).status()), HasSubstr("the fake GPU is lost (46)"));
  OutputTensor output{.name = "Y"};
  const std::string value = "abcd";
  output.data = std::as_bytes(std::span(value));
  EXPECT_EQ(regions_.Write({"g", 0, 4}, output).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(regions_.Register(Gpu("h", key_)).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaMemoryTest, WithoutAGpuTheAnswerIsTritons) {
  const auto refused = [this](SharedMemoryRegions& regions) {
    const absl::Status status = regions.Register(Gpu("g", key_));
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(Text(status),
              "failed to register CUDA shared memory region: 'g', GPUs not supported");
  };
  SharedMemoryRegions no_library(
      {.allowed = true, .max_read_bytes = 64, .cuda_library = "libno_such_driver.so.1"});
  refused(no_library);
  SharedMemoryRegions no_symbols(
      {.allowed = true, .max_read_bytes = 64, .cuda_library = "libm.so.6"});
  refused(no_symbols);
  for (const char* fault : {"no_gpu", "no_driver"}) {
    ::setenv("SIGLIP_FAKE_CUDA", fault, 1);
    refused(regions_);
  }
  ::unsetenv("SIGLIP_FAKE_CUDA");
  EXPECT_TRUE(regions_.Register(Gpu("g", key_)).ok());
}

}  // namespace
}  // namespace siglip
