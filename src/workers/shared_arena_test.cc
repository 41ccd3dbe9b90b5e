#include "workers/shared_arena.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "gtest/gtest.h"
#include "workers/wire.h"

namespace siglip {
namespace {

std::shared_ptr<SharedArena> NewArena() { return *SharedArena::Create(); }

TEST(SharedArenaTest, BlocksDoNotOverlapAndTheLowestGapIsTaken) {
  const auto arena = NewArena();
  std::byte* a = arena->Allocate(100);
  std::byte* b = arena->Allocate(100'000);
  std::byte* c = arena->Allocate(1);
  ASSERT_TRUE(a != nullptr && b != nullptr && c != nullptr);
  EXPECT_GE(b - a, 100);
  EXPECT_GE(c - b, 100'000);
  std::memset(b, 7, 100'000);
  arena->Free(b);
  EXPECT_EQ(arena->Allocate(100'000), b);
  arena->Free(a);
  EXPECT_EQ(arena->Allocate(50), a);
}

TEST(SharedArenaTest, WhatDoesNotFitIsRefused) {
  const auto arena = NewArena();
  EXPECT_EQ(arena->Allocate(kPixelAreaBytes + 1), nullptr);
  EXPECT_EQ(arena->Allocate(SIZE_MAX), nullptr);
  std::byte* all = arena->Allocate(kPixelAreaBytes);
  ASSERT_NE(all, nullptr);
  EXPECT_EQ(arena->Allocate(1), nullptr);
  arena->Free(all);
  EXPECT_NE(arena->Allocate(1), nullptr);
}

TEST(SharedArenaTest, WhatIsKeptLeavesRoomForWhatPasses) {
  const auto arena = NewArena();
  EXPECT_EQ(arena->Allocate(kPixelAreaBytes, SharedArena::Stay::kWaits), nullptr);
  std::byte* kept = arena->Allocate(kPixelAreaBytes - kPassingBytes, SharedArena::Stay::kWaits);
  ASSERT_NE(kept, nullptr);
  EXPECT_EQ(arena->Allocate(1, SharedArena::Stay::kWaits), nullptr);
  std::byte* passing = arena->Allocate(kPassingBytes);
  ASSERT_NE(passing, nullptr);
  arena->Free(kept);
  EXPECT_EQ(arena->Allocate(kPixelAreaBytes - kPassingBytes, SharedArena::Stay::kWaits), kept);
  arena->Free(kept);
  std::byte* low = arena->Allocate(1);
  EXPECT_EQ(low, kept);
  EXPECT_EQ(arena->Allocate(kPixelAreaBytes - kPassingBytes, SharedArena::Stay::kWaits), nullptr);
}

TEST(SharedArenaTest, OffsetsAreThoseOfWholeBlocksAlone) {
  const auto arena = NewArena();
  constexpr std::size_t kBlock = std::size_t{64} << 10;
  std::byte* a = arena->Allocate(kBlock);
  std::byte* b = arena->Allocate(kBlock);
  EXPECT_EQ(arena->OffsetOf(b, kBlock), static_cast<std::size_t>(b - a));
  EXPECT_EQ(arena->OffsetOf(a + 16, kBlock - 16), 16U);
  EXPECT_EQ(arena->OffsetOf(a + 16, kBlock), std::nullopt) << "runs into the next block";
  EXPECT_EQ(arena->OffsetOf(b + kBlock, 1), std::nullopt) << "nobody's";
  EXPECT_EQ(arena->OffsetOf(arena->encoded_area().data(), 1), std::nullopt);
  std::byte other{};
  EXPECT_EQ(arena->OffsetOf(&other, 1), std::nullopt);
}

TEST(SharedArenaTest, ReservedBlocksAreThoseThatNobodyWroteTo) {
  const auto arena = NewArena();
  std::byte* a = arena->Allocate(1);
  std::byte* b = arena->Allocate(1);
  EXPECT_EQ(arena->num_reserved(), 2);
  arena->MarkWritten(a);
  arena->MarkWritten(a);
  EXPECT_EQ(arena->num_reserved(), 1);
  arena->Free(a);
  arena->Free(b);
  EXPECT_EQ(arena->num_reserved(), 0);
}

std::int64_t BytesInMemory(const SharedArena& arena) {
  struct stat info = {};
  return fstat(arena.descriptor(), &info) == 0 ? info.st_blocks * 512 : -1;
}

TEST(SharedArenaTest, GivingBackTouchesNoBlockInUse) {
  const auto arena = NewArena();
  constexpr std::size_t kBlock = std::size_t{1} << 20;
  std::byte* const freed = arena->Allocate(kBlock);
  std::byte* const first = arena->Allocate(kBlock);
  std::byte* const between = arena->Allocate(kBlock);
  std::byte* const second = arena->Allocate(kBlock);
  arena->MarkWritten(second);
  arena->Free(freed);
  arena->Free(between);
  std::memset(freed, 7, 5 * kBlock);  // and beyond the last block
  std::memset(second + kPixelAreaBytes / 2, 7, kBlock);
  std::memset(arena->encoded_area().data(), 7, kBlock);
  std::memset(arena->encoded_area().data() + kEncodedAreaBytes - kBlock, 7, kBlock);
  arena->GiveBackUnused();
  EXPECT_EQ(BytesInMemory(*arena), 2 * kBlock);
  for (const std::byte* block : {first, second}) {
    EXPECT_EQ(std::count(block, block + kBlock, std::byte{7}), kBlock);
  }
  EXPECT_EQ(*between, std::byte{0});
}

TEST(SharedArenaTest, ItsSizeCannotBeChanged) {
  const auto arena = NewArena();
  EXPECT_NE(ftruncate(arena->descriptor(), 4096), 0);
  EXPECT_NE(ftruncate(arena->descriptor(), off_t{1} << 40), 0);
}

}  // namespace
}  // namespace siglip
