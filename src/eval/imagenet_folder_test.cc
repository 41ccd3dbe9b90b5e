#include "eval/imagenet_folder.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/utf8.h"

namespace siglip {
namespace {

using testing::HasSubstr;

TEST(SynsetMappingTest, SplitsAtWhiteSpaceAndSortsByCodePoint) {
  const auto classes = ParseSynsetMapping(
      "z last\r\n\nn2\tgreat  white\tshark, man-eater\nN10 x\n"
      "\xc3\xa9 accent\nn10 ten",
      "map");
  ASSERT_TRUE(classes.ok()) << classes.status();
  std::vector<std::string> labels;
  for (const ImagenetClass& c : *classes) labels.push_back(c.label);
  EXPECT_THAT(labels, testing::ElementsAre("N10", "n10", "n2", "z", "\xc3\xa9"));
  EXPECT_EQ((*classes)[2].text, "great white shark, man-eater");
}

// oracle: [c for c in map(chr, range(0x110000)) if len(f"a{c}b".split()) == 2] in Python 3.11
TEST(SynsetMappingTest, SplitsWherePythonDoes) {
  std::u32string spaces = U"\t\v\f\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000";
  for (char32_t c = 0x2000; c <= 0x200a; ++c) spaces += c;
  // Above come no more, but U+FEFF is often taken for one.
  std::u32string tried = U"\ufeff\U0001f600\U0010ffff";
  for (char32_t c = 0; c < 0x3100; ++c) tried += c;
  for (const char32_t c : tried) {
    if (c == '\n' || c == '\r') continue;
    const std::string between = EncodeUtf8({&c, 1});
    const auto classes = ParseSynsetMapping("n1 a" + between + between + "b" + between, "map");
    ASSERT_TRUE(classes.ok()) << classes.status();
    ASSERT_EQ((*classes)[0].text, spaces.find(c) == std::u32string::npos
                                      ? "a" + between + between + "b" + between
                                      : "a b")
        << "U+" << std::hex << static_cast<std::uint32_t>(c);
  }
}

TEST(SynsetMappingTest, LinesEndAsInPythonsTextFiles) {
  const auto classes = ParseSynsetMapping("a one\rb two\r\nc three\u2028more\r\r\n", "map");
  ASSERT_TRUE(classes.ok()) << classes.status();
  ASSERT_EQ(classes->size(), 3u);
  EXPECT_EQ((*classes)[0].text, "one");
  EXPECT_EQ((*classes)[2].text, "three more");
}

TEST(SynsetMappingTest, AByteOrderMarkIsNoPartOfTheFirstLabel) {
  const auto classes = ParseSynsetMapping(
      "\xef\xbb\xbf"
      "n1 one\r\nn2 two\r\n",
      "m");
  ASSERT_TRUE(classes.ok()) << classes.status();
  ASSERT_EQ(classes->size(), 2u);
  EXPECT_EQ((*classes)[0].label, "n1");
}

TEST(SynsetMappingTest, WrongLinesAreNamed) {
  EXPECT_THAT(std::string(ParseSynsetMapping("a b\nlonely\n", "map").status().message()),
              HasSubstr("map:2: expected a label and a text"));
  EXPECT_THAT(std::string(ParseSynsetMapping("a b\nb c\na d\n", "map").status().message()),
              HasSubstr("map:3: label a appears a second time"));
  EXPECT_THAT(std::string(ParseSynsetMapping("a b\r\nc \xff\r\n", "map").status().message()),
              HasSubstr("map:2: "));
  EXPECT_FALSE(ParseSynsetMapping("\n \n", "map").ok());
}

class ImagenetFolderTest : public testing::Test {
 protected:
  ImagenetFolderTest() : root_(testing::TempDir() + "imagenet_folder_test") {
    std::filesystem::remove_all(root_);
  }
  ~ImagenetFolderTest() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& content = "x") {
    std::filesystem::create_directories(std::filesystem::path(root_ + "/" + path).parent_path());
    std::ofstream(root_ + "/" + path) << content;
  }
  const std::string root_;
};

TEST_F(ImagenetFolderTest, ListsImagesByClassAndSaysWhatIsMissing) {
  Write("LOC_synset_mapping.txt", "n2 two\nn1 one\nn3 three\n");
  Write("train/n2/b.JPEG");
  Write("train/n2/a.JPEG");
  Write("train/n2/.hidden");
  Write("train/n1/c.JPEG");
  Write("train/n9/d.JPEG");
  Write("valid/n3/e.JPEG");
  const auto folder = OpenImagenetFolder(root_);
  ASSERT_TRUE(folder.ok()) << folder.status();
  ASSERT_EQ(folder->train.size(), 3u);
  EXPECT_EQ(folder->train[0].path, root_ + "/train/n1/c.JPEG");
  EXPECT_EQ(folder->train[1].path, root_ + "/train/n2/a.JPEG");
  EXPECT_EQ(folder->train[1].class_index, 1);
  EXPECT_EQ(folder->valid[0].class_index, 2);
  EXPECT_THAT(folder->remarks,
              testing::ElementsAre(HasSubstr("train: 1 of 3 classes have no images: n3"),
                                   HasSubstr("train: 1 folders are not in"),
                                   HasSubstr("valid: 2 of 3 classes have no images: n1, n2")));
}

TEST_F(ImagenetFolderTest, AMissingMappingSplitOrImageIsNamed) {
  EXPECT_THAT(std::string(OpenImagenetFolder(root_).status().message()),
              HasSubstr("LOC_synset_mapping.txt"));
  Write("LOC_synset_mapping.txt", "n1 one\n");
  EXPECT_THAT(std::string(OpenImagenetFolder(root_).status().message()), HasSubstr("/train"));
  Write("train/n2/a.JPEG");
  EXPECT_THAT(std::string(OpenImagenetFolder(root_).status().message()),
              HasSubstr("found no image"));
}

}  // namespace
}  // namespace siglip
