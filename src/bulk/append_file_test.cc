#include "bulk/append_file.h"

#include <dlfcn.h>
#include <sys/file.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "base/file_map.h"

namespace {

// Moved away by the next flock, before it locks: as by the process that had the lock.
std::string move_before_lock;

}  // namespace

// In place of the C library's.
extern "C" int flock(int fd, int operation) noexcept {
  if (!move_before_lock.empty()) {
    std::rename(move_before_lock.c_str(), (move_before_lock + ".gone").c_str());
    move_before_lock.clear();
  }
  return reinterpret_cast<int (*)(int, int)>(::dlsym(RTLD_NEXT, "flock"))(fd, operation);
}

namespace siglip::bulk {
namespace {

class AppendFileTest : public testing::Test {
 protected:
  AppendFileTest() : path_(testing::TempDir() + "append_file_test") {
    std::filesystem::remove_all(path_);
  }
  ~AppendFileTest() override { std::filesystem::remove_all(path_); }
  std::string Contents() { return ReadFile(path_, 1 << 22).value_or("unreadable"); }
  const std::string path_;
};

TEST_F(AppendFileTest, OpeningCutsToTheLengthAndGoesOnThere) {
  {
    auto file = AppendFile::Open(path_, 0);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append("kept, torn").ok());
    ASSERT_TRUE(file->Flush().ok());
    EXPECT_EQ(file->size(), 10u);
  }
  auto file = AppendFile::Open(path_, 5);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(file->Append(" more").ok());
  ASSERT_TRUE(file->Flush().ok());
  EXPECT_EQ(Contents(), "kept, more");
  ASSERT_TRUE(file->Overwrite("KEPT").ok());
  ASSERT_TRUE(file->Append("!").ok());
  ASSERT_TRUE(file->Flush().ok());
  EXPECT_EQ(Contents(), "KEPT, more!");
}

TEST_F(AppendFileTest, AShorterFileIsDataLoss) {
  const absl::Status status = AppendFile::Open(path_, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("--overwrite begins anew"), std::string::npos) << status;
}

TEST_F(AppendFileTest, TheLockIsHeldOnce) {
  const auto first = FileLock::Take(path_);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(FileLock::Take(path_).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(AppendFileTest, ALockOnAFileThatIsGoneIsNone) {
  move_before_lock = path_;
  const auto first = FileLock::Take(path_);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(FileLock::Take(path_).status().code(), absl::StatusCode::kUnavailable);
  std::filesystem::remove(path_ + ".gone");
}

TEST_F(AppendFileTest, MovesMayBeRepeated) {
  ASSERT_TRUE(WriteFileAtomically(path_ + ".from", "x").ok());
  EXPECT_TRUE(MoveIfThere(path_ + ".from", path_).ok());
  EXPECT_TRUE(MoveIfThere(path_ + ".from", path_).ok());
  EXPECT_EQ(Contents(), "x");
}

TEST_F(AppendFileTest, AMoveToAnotherFileSystemTouchesNoOtherFile) {
  const std::string to = "/dev/shm/siglip_append_file_test";
  ASSERT_TRUE(WriteFileAtomically(path_, "moved").ok());
  if (!WriteFileAtomically(to, "old").ok() || !WriteFileAtomically(to + ".tmp", "not ours").ok() ||
      IdentifyFile(path_)->device == IdentifyFile(to)->device) {
    GTEST_SKIP() << "/dev/shm is no other file system";
  }
  EXPECT_TRUE(MoveIfThere(path_, to).ok());
  EXPECT_EQ(ReadFile(to, 100).value_or("?"), "moved");
  EXPECT_EQ(ReadFile(to + ".tmp", 100).value_or("?"), "not ours");
  EXPECT_FALSE(std::filesystem::exists(path_));
  for (const char* end : {"", ".tmp"}) std::filesystem::remove(to + end);
}

TEST_F(AppendFileTest, WhatCannotBeLookedForIsNotTakenForMoved) {
  std::filesystem::create_symlink(path_, path_);  // ELOOP
  const absl::Status status = MoveIfThere(path_, path_ + ".to");
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(path_), std::string::npos) << status;
}

TEST_F(AppendFileTest, AFolderThatCannotBeFlushedIsNoError) {
  EXPECT_TRUE(FlushFolderOf("/proc/x").ok());  // EINVAL
  EXPECT_FALSE(FlushFolderOf("/nonexistent/x").ok());
}

TEST_F(AppendFileTest, AFolderThatCannotBeReadIsNoError) {
  std::filesystem::create_directory(path_);
  std::filesystem::permissions(
      path_, std::filesystem::perms::owner_write | std::filesystem::perms::owner_exec);
  EXPECT_TRUE(FlushFolderOf(path_ + "/x").ok());  // root may read it all the same
  std::filesystem::permissions(path_, std::filesystem::perms::owner_all);
}

}  // namespace
}  // namespace siglip::bulk
