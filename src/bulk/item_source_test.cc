#include "bulk/item_source.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <set>

#include <gtest/gtest.h>

#include <archive.h>
#include <archive_entry.h>

#include "absl/strings/str_cat.h"
#include "bulk/fingerprint.h"

namespace siglip::bulk {
namespace {

void WriteTar(const std::string& path, int num_images) {
  ::archive* writer = ::archive_write_new();
  ::archive_write_set_format_ustar(writer);
  ASSERT_EQ(::archive_write_open_filename(writer, path.c_str()), ARCHIVE_OK);
  for (int i = 0; i < num_images; ++i) {
    ::archive_entry* entry = ::archive_entry_new();
    ::archive_entry_set_pathname(entry, absl::StrCat(i, ".jpg").c_str());
    ::archive_entry_set_filetype(entry, AE_IFREG);
    ::archive_entry_set_size(entry, 1);
    ::archive_write_header(writer, entry);
    ::archive_write_data(writer, "x", 1);
    ::archive_entry_free(entry);
  }
  ::archive_write_free(writer);
}

class ItemSourceTest : public testing::Test {
 protected:
  ItemSourceTest() : folder_(testing::TempDir() + "item_source_test/") {
    std::filesystem::create_directories(folder_);
    WriteTar(folder_ + "a.tar", 5);
    WriteTar(folder_ + "b.tar", 3);
    std::ofstream(folder_ + "broken.tar") << "no tar";
    for (const char* name : {"1.jpg", "a.tar", "2.jpg", "broken.tar", "3.jpg", "b.tar"}) {
      items_.inputs.Add(folder_ + name);
    }
    items_.texts.Add("x");
    items_.texts.Add("y");
  }
  ~ItemSourceTest() override { std::filesystem::remove_all(folder_); }

  // "name" or "name!" of each item, without the folder; positions after them in positions_.
  std::vector<std::string> Read(const Shard& shard, Position start = {}) {
    std::vector<std::string> names;
    positions_.clear();
    const auto source = OpenItems(items_, shard, start);
    Item item;
    while (source->Next(item)) {
      const std::size_t skipped = item.name.starts_with(folder_) ? folder_.size() : 0;
      names.push_back(item.name.substr(skipped) + (item.status.ok() ? "" : "!"));
      positions_.push_back(item.next);
    }
    return names;
  }

  const std::string folder_;
  JobItems items_;
  std::vector<Position> positions_;
};

TEST_F(ItemSourceTest, InputsThenTextsInOrder) {
  EXPECT_EQ(Read({}),
            (std::vector<std::string>{"1.jpg", "a.tar/0.jpg", "a.tar/1.jpg", "a.tar/2.jpg",
                                      "a.tar/3.jpg", "a.tar/4.jpg", "2.jpg", "broken.tar!", "3.jpg",
                                      "b.tar/0.jpg", "b.tar/1.jpg", "b.tar/2.jpg", "x", "y"}));
}

TEST_F(ItemSourceTest, AnyPositionCanBeGoneBackTo) {
  for (const std::uint32_t count : {1u, 2u, 3u, 5u}) {
    for (std::uint32_t index = 0; index < count; ++index) {
      const auto all = Read({index, count});
      const auto positions = positions_;
      for (std::size_t i = 0; i < all.size(); ++i) {
        EXPECT_EQ(
            Read({index, count}, positions[i]),
            std::vector<std::string>(all.begin() + static_cast<std::ptrdiff_t>(i) + 1, all.end()))
            << i << " of shard " << index << "/" << count;
      }
    }
  }
}

TEST_F(ItemSourceTest, ShardsShareTheWholeWithoutOverlap) {
  const auto all = Read({});
  for (const std::uint32_t count : {2u, 3u, 4u, 7u}) {
    std::multiset<std::string> shared;
    for (std::uint32_t index = 0; index < count; ++index) {
      for (std::string& name : Read({index, count})) shared.insert(std::move(name));
    }
    // An archive that cannot be opened fails in every share that would have a part of it.
    shared.erase("broken.tar!");
    std::multiset<std::string> expected(all.begin(), all.end());
    expected.erase("broken.tar!");
    EXPECT_EQ(shared, expected) << count;
  }
}

TEST_F(ItemSourceTest, WholeArchivesAreDealtIfThereAreEnough) {
  for (const std::string& name : Read({0, 3})) EXPECT_FALSE(name.starts_with("b.tar")) << name;
  EXPECT_EQ(SizeOf(items_, {0, 3}).archives, 1u);
  EXPECT_EQ(SizeOf(items_, {0, 4}).archives, 3u);
  EXPECT_EQ(SizeOf(items_, {}).items, 5u);
}

TEST_F(ItemSourceTest, TheFingerprintSeesNamesOrderAndArchives) {
  const std::string before = ItemsFingerprint(items_);
  EXPECT_EQ(ItemsFingerprint(items_), before);
  WriteTar(folder_ + "b.tar", 30);
  EXPECT_NE(ItemsFingerprint(items_), before);
  JobItems split, joined;
  split.inputs.Add("a");
  split.inputs.Add("b");
  joined.inputs.Add("ab");
  EXPECT_NE(ItemsFingerprint(split), ItemsFingerprint(joined));
  JobItems text;
  text.texts.Add("ab");
  EXPECT_NE(ItemsFingerprint(text), ItemsFingerprint(joined));
}

TEST_F(ItemSourceTest, TheFingerprintTellsInputsFromTexts) {
  JobItems three_files, one_file;
  for (const char* name : {"a", "texts", "b"}) three_files.inputs.Add(name);
  one_file.inputs.Add("a");
  for (const char* text : {"b", "texts"}) one_file.texts.Add(text);
  EXPECT_NE(ItemsFingerprint(three_files), ItemsFingerprint(one_file));
  one_file.texts = {};
  for (const char* text : {"texts", "b"}) one_file.texts.Add(text);
  EXPECT_NE(ItemsFingerprint(three_files), ItemsFingerprint(one_file));
}

TEST_F(ItemSourceTest, APipeIsNoArchiveAndIsNotWaitedFor) {
  items_ = {};
  for (const char* name : {"pipe.tar", "pipe.parquet"}) {
    ASSERT_EQ(::mkfifo((folder_ + name).c_str(), 0600), 0);
    items_.inputs.Add(folder_ + name);
  }
  EXPECT_EQ(Read({}), (std::vector<std::string>{"pipe.tar!", "pipe.parquet!"}));
}

}  // namespace
}  // namespace siglip::bulk
