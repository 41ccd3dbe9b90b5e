#include "engine/weight_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/content_hash.h"
#include "base/file_map.h"
#include "checkpoint/tiny_checkpoint_for_test.h"
#include "engine/cpu_engine.h"
#include "engine/engine.h"

namespace siglip {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
namespace fs = std::filesystem;

constexpr std::chrono::nanoseconds kAtOnce = std::chrono::nanoseconds(0);

std::string ReadAll(const std::string& path) { return ReadFile(path, 1 << 30).value(); }

std::vector<Precision> PrecisionsHere() {
  std::vector<Precision> precisions = {Precision::kFp32, Precision::kInt16};
  if (GemmHasFormat(GemmFormat::kInt8)) precisions.push_back(Precision::kInt8);
  return precisions;
}

class WeightCacheTest : public testing::TestWithParam<Precision> {
 protected:
  void SetUp() override {
    const std::string name = absl::StrCat("siglip_weight_cache_", ::getpid());
    folder_ = WriteTinyCheckpoint(name);
    cache_ = folder_ + "/made/when/needed";
  }
  void TearDown() override { fs::remove_all(folder_); }

  Checkpoint OpenCheckpoint() const { return *Checkpoint::Open(folder_); }

  absl::StatusOr<WeightCache> OpenCache() {
    return WeightCache::Open(cache_, OpenCheckpoint(), FormatOf(GetParam()), team_);
  }

  std::unique_ptr<Engine> OpenEngine(const std::string& cache) const {
    auto engine = Engine::Open(OpenCheckpoint(),
                               {.num_threads = 2, .precision = GetParam(), .cache_dir = cache});
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  // Of a fixed picture and a fixed text.
  static std::vector<float> Embed(Engine& engine) {
    std::vector<float> pixels(3 * 9 * 9);
    for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<float>(i % 23) - 11;
    const std::vector<std::int64_t> ids = {3, 1, 4, 1, 5};
    std::vector<float> out(2 * 12);
    const float* images[] = {pixels.data()};
    const std::int64_t* texts[] = {ids.data()};
    float* image_rows[] = {out.data()};
    float* text_rows[] = {out.data() + 12};
    EXPECT_TRUE(engine.EncodeImages(images, image_rows).ok());
    EXPECT_TRUE(engine.EncodeTexts(texts, 5, text_rows).ok());
    return out;
  }
  std::vector<float> Embed(const std::string& cache) const { return Embed(*OpenEngine(cache)); }

  std::vector<std::string> FilesInCache(const std::string& extension) const {
    std::vector<std::string> files;
    for (const auto& entry : fs::directory_iterator(cache_)) {
      if (entry.path().extension() == extension) files.push_back(entry.path());
    }
    return files;
  }
  std::string OnlyFile() const {
    const auto files = FilesInCache(".weights");
    EXPECT_THAT(files, SizeIs(1));
    return files.at(0);
  }
  // Changes the checkpoint where it lies, without changing its size.
  void ChangeLastByteOfWeights() const {
    std::string bytes = ReadAll(folder_ + "/model.safetensors");
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    std::ofstream(folder_ + "/model.safetensors", std::ios::binary) << bytes;
  }

  std::string folder_;
  std::string cache_;
  ThreadTeam team_{2};
};

INSTANTIATE_TEST_SUITE_P(Precisions, WeightCacheTest, testing::ValuesIn(PrecisionsHere()),
                         [](const auto& precision) { return PrecisionName(precision.param); });

TEST_P(WeightCacheTest, PackedOrMappedEmbeddingsAreEqualBitForBit) {
  const std::vector<float> want = Embed("");
  EXPECT_EQ(Embed(cache_), want);
  const FileIdentity packed = IdentifyFile(OnlyFile()).value();
  const auto engine = OpenEngine(cache_);
  EXPECT_EQ(Embed(*engine), want);
  EXPECT_EQ(IdentifyFile(OnlyFile()).value(), packed);
  EXPECT_THAT(FilesInCache(".new"), IsEmpty());
  EXPECT_EQ(engine->memory_bytes(), OpenEngine("")->memory_bytes());
  fs::remove_all(cache_);
  EXPECT_EQ(Embed(*engine), want);
}

TEST_P(WeightCacheTest, EachContentAndPrecisionHasItsOwnFile) {
  EXPECT_EQ(Embed(cache_), Embed(""));
  ChangeLastByteOfWeights();
  EXPECT_EQ(Embed(cache_), Embed(""));
  EXPECT_THAT(FilesInCache(".weights"), SizeIs(2));
  const Precision other = GetParam() == Precision::kFp32 ? Precision::kInt16 : Precision::kFp32;
  EXPECT_TRUE(
      Engine::Open(OpenCheckpoint(), {.num_threads = 1, .precision = other, .cache_dir = cache_})
          .ok());
  EXPECT_THAT(FilesInCache(".weights"), SizeIs(3));
}

TEST_P(WeightCacheTest, DamagedCutOffAndForeignFilesAreReplaced) {
  const std::vector<float> want = Embed(cache_);
  const std::string path = OnlyFile();
  const std::string good = ReadAll(path);
  std::string flipped = good;
  flipped[good.size() / 2] = static_cast<char>(flipped[good.size() / 2] ^ 0x10);
  for (const std::string& bad :
       {std::string(), good.substr(0, 40), good.substr(0, good.size() - 1), good + "x", flipped,
        std::string("{\"not\": \"weights\"}"), std::string(good.size(), '\0')}) {
    std::ofstream(path, std::ios::binary) << bad;
    EXPECT_EQ(Embed(cache_), want);
    EXPECT_TRUE(ReadAll(path) == good);
  }
}

// As another version of this program might leave it.
TEST_P(WeightCacheTest, AFileOfTheRightLabelWithOtherArraysIsReplaced) {
  const std::vector<float> want = Embed(cache_);
  const std::string path = OnlyFile();
  const std::string good = ReadAll(path);
  fs::remove(path);
  auto cache = OpenCache();
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(cache->path(), path);
  EXPECT_EQ(cache->Load(team_).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(cache
                  ->Build(team_,
                          [](WeightFileWriter& writer) {
                            writer.Append("one", std::vector<float>{1, 2});
                          })
                  .ok());
  ASSERT_TRUE(cache->Load(team_).ok());
  EXPECT_EQ(Embed(cache_), want);
  EXPECT_TRUE(ReadAll(path) == good);
}

TEST_P(WeightCacheTest, AFolderThatCannotBeUsedCostsNothingButTime) {
  const std::vector<float> want = Embed("");
  EXPECT_EQ(Embed("/dev/null/cache"), want);
  fs::create_directories(cache_);
  const auto cache = OpenCache();
  fs::create_directories(cache->path() + "/in the way");
  EXPECT_EQ(Embed(cache_), want);
  fs::remove_all(cache->path());
  fs::create_directories(cache->path() + ".new");
  EXPECT_EQ(Embed(cache_), want);
}

TEST_P(WeightCacheTest, ManyAtOncePackOnceAndAgree) {
  const std::vector<float> want = Embed("");
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) threads.emplace_back([&] { EXPECT_EQ(Embed(cache_), want); });
  for (std::thread& thread : threads) thread.join();
  OnlyFile();
  EXPECT_THAT(FilesInCache(".new"), IsEmpty());
}

TEST_P(WeightCacheTest, ProcessesAtOnceAgreeAndOneThatDiedIsNotWaitedFor) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer follows no threads that start after a fork";
#endif
  const std::vector<float> want = Embed("");
  fs::create_directories(cache_);
  const auto cache = OpenCache();
  std::ofstream(cache->path() + ".new") << "left behind";
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) ::_exit(Embed(cache_) == want ? 0 : 1);
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  EXPECT_EQ(OnlyFile(), cache->path());
  EXPECT_THAT(FilesInCache(".new"), IsEmpty());
}

class ContentKeyTest : public WeightCacheTest {
 protected:
  void SetUp() override {
    WeightCacheTest::SetUp();
    fs::create_directories(cache_);
  }
  std::string Key(std::chrono::nanoseconds settled = kAtOnce) {
    return ContentKey(OpenCheckpoint(), cache_, team_, {.settled = settled});
  }
};

INSTANTIATE_TEST_SUITE_P(Once, ContentKeyTest, testing::Values(Precision::kFp32));

TEST_P(ContentKeyTest, IsOfTheContentNotOfThePlace) {
  const std::string key = Key();
  EXPECT_THAT(key, SizeIs(16));
  const std::string twin = folder_ + "_twin";
  fs::copy(folder_, twin, fs::copy_options::recursive);
  EXPECT_EQ(ContentKey(*Checkpoint::Open(twin), cache_, team_), key);
  fs::remove_all(twin);
  EXPECT_EQ(ContentKey(OpenCheckpoint(), "/nonexistent", team_, {.settled = kAtOnce}), key);
  const std::string config = ReadAll(folder_ + "/config.json");
  // Other heads: the same tensors mean another network.
  WriteText(
      folder_ + "/config.json",
      absl::StrReplaceAll(config, {{"\"num_attention_heads\": 3", "\"num_attention_heads\": 2"}}));
  EXPECT_NE(Key(), key);
  WriteText(folder_ + "/config.json", config);
  EXPECT_EQ(Key(), key);
}

TEST_P(ContentKeyTest, AChangeShowsEvenIfSizeAndModificationTimeAreKept) {
  const std::string path = folder_ + "/model.safetensors";
  const std::string key = Key();
  EXPECT_THAT(FilesInCache(".identity"), SizeIs(1));
  const auto modified = fs::last_write_time(path);
  ChangeLastByteOfWeights();
  fs::last_write_time(path, modified);
  const std::string changed = Key();
  EXPECT_NE(changed, key);
  ChangeLastByteOfWeights();
  EXPECT_EQ(Key(), key);
}

TEST_P(ContentKeyTest, OnlySettledFilesAreRemembered) {
  Key(std::chrono::hours(1));
  EXPECT_THAT(FilesInCache(".identity"), IsEmpty());
  Key(kAtOnce);
  EXPECT_THAT(FilesInCache(".identity"), SizeIs(1));
}

TEST_P(ContentKeyTest, WhatIsRememberedIsUsedUnlessItIsDamaged) {
  const std::string key = Key();
  const std::string path = FilesInCache(".identity").at(0);
  const std::string good = ReadAll(path);
  // 16 digits of the key, a line end, 16 of the hash, a line end.
  std::string other = good.substr(0, good.size() - 34) + std::string(16, '0') + "\n";
  WriteText(path, other + good.substr(good.size() - 17));
  EXPECT_EQ(Key(), key);
  EXPECT_EQ(ReadAll(path), good);
  const std::uint64_t hash = ContentHash(std::as_bytes(std::span(other)));
  WriteText(path, absl::StrCat(other, absl::Hex(hash, absl::kZeroPad16), "\n"));
  EXPECT_EQ(Key(), std::string(16, '0'));
  for (const std::string& bad : {std::string(), good.substr(0, good.size() - 1), good + "x"}) {
    WriteText(path, bad);
    EXPECT_EQ(Key(), key);
  }
}

}  // namespace
}  // namespace siglip
