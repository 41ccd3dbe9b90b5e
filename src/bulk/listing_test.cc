#include "bulk/listing.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace siglip::bulk {
namespace {

namespace fs = std::filesystem;

class ListingTest : public testing::Test {
 protected:
  ListingTest() : folder_(testing::TempDir() + "listing_test") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~ListingTest() override { fs::remove_all(folder_); }

  void Touch(const std::string& name) {
    fs::create_directories(fs::path(folder_ + "/" + name).parent_path());
    std::ofstream(folder_ + "/" + name) << "x";
  }
  // What `paths`, below the folder, come to; names without the folder.
  std::vector<std::string> List(std::vector<std::string> paths) {
    for (std::string& path : paths) path = path.empty() ? folder_ : folder_ + "/" + path;
    NameList names;
    status_ = ListInputs(paths, names);
    std::vector<std::string> found;
    for (std::size_t i = 0; i < names.size(); ++i) {
      found.emplace_back(names[i].substr(folder_.size() + 1));
    }
    return found;
  }

  using Names = std::vector<std::string>;
  const std::string folder_;
  absl::Status status_;
};

TEST_F(ListingTest, FoldersGiveImagesAndTarsInByteOrderOfWholePaths) {
  for (const char* name : {"b.png", "a/z.jpg", "a.jpg", "a/b/c.TIFF", "notes.txt", "s.tar.gz",
                           "captions.parquet", "a-b/x.png"}) {
    Touch(name);
  }
  EXPECT_EQ(List({""}),
            (Names{"a-b/x.png", "a.jpg", "a/b/c.TIFF", "a/z.jpg", "b.png", "s.tar.gz"}));
}

TEST_F(ListingTest, NamedFilesAreTakenWhateverTheyAreCalled) {
  Touch("notes.txt");
  Touch("captions.parquet");
  EXPECT_EQ(List({"notes.txt", "captions.parquet"}), (Names{"notes.txt", "captions.parquet"}));
}

TEST_F(ListingTest, SymlinksToFilesAreFollowedToFoldersNot) {
  Touch("real/a.jpg");
  fs::create_symlink("real/a.jpg", folder_ + "/link.jpg");
  fs::create_directory_symlink("real", folder_ + "/other");
  fs::create_directory_symlink("real", folder_ + "/folder.jpg");
  fs::create_symlink("/dev/null", folder_ + "/device.jpg");
  EXPECT_EQ(List({""}), (Names{"link.jpg", "real/a.jpg"}));
}

TEST_F(ListingTest, SymlinksThatLeadNowhereAreListedSoThatTheyFail) {
  Touch("a.jpg");
  fs::create_symlink("nowhere", folder_ + "/broken.jpg");
  fs::create_symlink("nowhere", folder_ + "/broken.tar");
  fs::create_symlink("nowhere", folder_ + "/broken.txt");
  fs::create_symlink("loop.jpg", folder_ + "/loop.jpg");
  const Names expected{"a.jpg", "broken.jpg", "broken.tar", "loop.jpg"};
  EXPECT_EQ(List({""}), expected);
  EXPECT_EQ(List({"**/*.{jpg,tar}"}), expected);
  EXPECT_EQ(List({"*.{jpg,tar}"}), expected);
}

TEST_F(ListingTest, PatternsMatchFilesAndFolders) {
  for (const char* name :
       {"x1.jpg", "x2.jpg", "y.png", "deep/er/x3.jpg", "deep/x4.jpg", ".x5.jpg"}) {
    Touch(name);
  }
  EXPECT_EQ(List({"x*.jpg"}), (Names{"x1.jpg", "x2.jpg"}));
  EXPECT_EQ(List({"{y.png,x?.jpg}"}), (Names{"x1.jpg", "x2.jpg", "y.png"}));
  EXPECT_EQ(List({"d*"}), (Names{"deep/er/x3.jpg", "deep/x4.jpg"}));
  EXPECT_EQ(List({"**/x*.jpg"}), (Names{"deep/er/x3.jpg", "deep/x4.jpg", "x1.jpg", "x2.jpg"}));
  EXPECT_EQ(List({"deep/**/x*.jpg"}), (Names{"deep/er/x3.jpg", "deep/x4.jpg"}));
  EXPECT_EQ(List({"**/er/*"}), (Names{"deep/er/x3.jpg"}));
  EXPECT_TRUE(status_.ok());
}

TEST_F(ListingTest, AnyDepthIsAWholeComponentAndSkipsWhatIsHidden) {
  for (const char* name : {"pics/a.png", "pics/sub/b.png", "pics/.git/c.png", "pics/.git/d/e.png",
                           "pics/sub/.f.png", "pics2/g.png", "x/pics/h.png"}) {
    Touch(name);
  }
  EXPECT_EQ(List({"pics/**/*.png"}), (Names{"pics/a.png", "pics/sub/b.png"}));
  EXPECT_EQ(List({"pics/**/.git/*.png"}), (Names{"pics/.git/c.png"}));
  EXPECT_EQ(List({"pics**/*.png"}), (Names{"pics/a.png", "pics2/g.png"}));
}

TEST_F(ListingTest, BracesGoWithEveryOtherPattern) {
  for (const char* name : {"a/1.jpg", "a/deep/2.png", "b/3.jpg", "b/deep/4.bmp", "c/5.jpg",
                           "{}.jpg", "{c.jpg", "c,}.jpg"}) {
    Touch(name);
  }
  EXPECT_EQ(List({"**/*.{png,bmp}"}), (Names{"a/deep/2.png", "b/deep/4.bmp"}));
  EXPECT_EQ(List({"{b,a}/**/*.{jpg,png}"}), (Names{"a/1.jpg", "a/deep/2.png", "b/3.jpg"}));
  EXPECT_EQ(List({"{a/**,{b,c}}/*.jpg"}), (Names{"a/1.jpg", "b/3.jpg", "c/5.jpg"}));
  EXPECT_EQ(List({"a/**/{1*,*.jpg,2*}"}), (Names{"a/1.jpg", "a/deep/2.png"}));  // each once
  EXPECT_EQ(List({"{a,c}/[15].{jpg,}"}), (Names{"a/1.jpg", "c/5.jpg"}));
  EXPECT_EQ(List({"{}.*"}), (Names{"{}.jpg"}));
  EXPECT_EQ(List({"{c.*"}), (Names{"{c.jpg"}));
  EXPECT_EQ(List({"c,}.*"}), (Names{"c,}.jpg"}));
  EXPECT_EQ(List({"\\{c.*"}), (Names{"{c.jpg"}));
  EXPECT_EQ(List({"[{]c.*"}), (Names{"{c.jpg"}));
  EXPECT_TRUE(status_.ok()) << status_;
  std::string many = "*";
  for (int i = 0; i < 40; ++i) many += "{a,b}";
  List({many});
  EXPECT_EQ(status_.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ListingTest, APatternWithoutMatchAndAMissingFileAreNamed) {
  List({"*.bmp"});
  EXPECT_EQ(status_.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status_.message().find("*.bmp"), std::string::npos);
  List({"none.jpg"});
  EXPECT_EQ(status_.code(), absl::StatusCode::kNotFound);
  List({"**/a/**/b"});
  EXPECT_EQ(status_.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ListingTest, AFileMayHaveAPatternAsItsName) {
  Touch("a[1].jpg");
  EXPECT_EQ(List({"a[1].jpg"}), (Names{"a[1].jpg"}));
}

TEST_F(ListingTest, ListsSkipEmptyEntriesAndCarriageReturns) {
  std::ofstream(folder_ + "/list") << "a.jpg\r\n\nb c.jpg\nlast" << std::string(70'000, 'x');
  NameList names;
  ASSERT_TRUE(ReadNameList(folder_ + "/list", '\n', names).ok());
  ASSERT_EQ(names.size(), 3u);
  EXPECT_EQ(names[0], "a.jpg");
  EXPECT_EQ(names[1], "b c.jpg");
  EXPECT_EQ(names[2].size(), 70'004u);
}

TEST_F(ListingTest, ListsMayBeSeparatedByZeroBytes) {
  std::ofstream(folder_ + "/list") << std::string("a\nb.jpg\0c.jpg\0", 14);
  NameList names;
  ASSERT_TRUE(ReadNameList(folder_ + "/list", '\0', names).ok());
  ASSERT_EQ(names.size(), 2u);
  EXPECT_EQ(names[0], "a\nb.jpg");
  EXPECT_EQ(ReadNameList(folder_ + "/none", '\0', names).code(), absl::StatusCode::kNotFound);
}

TEST_F(ListingTest, KindsComeFromExtensions) {
  EXPECT_EQ(KindOf("a/b.tar"), InputKind::kTar);
  EXPECT_EQ(KindOf("b.TAR.GZ"), InputKind::kTar);
  EXPECT_EQ(KindOf("b.parquet"), InputKind::kParquet);
  EXPECT_EQ(KindOf("b.gz"), InputKind::kImage);
  EXPECT_EQ(KindOf(".tar"), InputKind::kImage);
}

}  // namespace
}  // namespace siglip::bulk
