#include "cli/labels.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace siglip::cli {
namespace {

using Labels = std::vector<std::string>;

absl::StatusOr<Labels> FromFile(const std::string& content) {
  const std::string path = testing::TempDir() + "labels_test.txt";
  std::ofstream(path) << content;
  auto labels = ReadLabels(path);
  std::filesystem::remove(path);
  return labels;
}

TEST(LabelsTest, ListsAreCutAtCommas) {
  EXPECT_EQ(*ParseLabels(" cat, hot dog ,,bird"), (Labels{"cat", "hot dog", "bird"}));
  EXPECT_EQ(ParseLabels(" , ").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(ParseLabels("a,b,a").status().message().find("\"a\" twice"), std::string::npos);
}

TEST(LabelsTest, FilesHoldALabelALineOrSynsets) {
  EXPECT_EQ(*FromFile("cat, domestic\r\n\n n01440764 x\n"),
            (Labels{"cat, domestic", "n01440764 x"}));
  EXPECT_EQ(*FromFile("n01440764 tench, Tinca tinca\nn01443537 goldfish\n"),
            (Labels{"tench, Tinca tinca", "goldfish"}));
  EXPECT_EQ(*FromFile("n01440764 tench\nn0144353x goldfish\n"),
            (Labels{"n01440764 tench", "n0144353x goldfish"}));
  // ImageNet's own list names two classes alike.
  EXPECT_EQ(*FromFile("n02012849 crane\nn01440764 tench\nn03126707 crane\n"),
            (Labels{"crane (n02012849)", "tench", "crane (n03126707)"}));
  EXPECT_FALSE(FromFile("n01440764 tench\nn01440764 tench\n").ok());
  // White space beside the name is not of it, and a class has a name.
  EXPECT_EQ(*FromFile("n01440764\ttench \nn01443537  goldfish\n"), (Labels{"tench", "goldfish"}));
  for (const char* content : {"n01440764  \nn01443537 goldfish\n", "n01440764 \nn01443537 b\n"}) {
    EXPECT_NE(FromFile(content).status().message().find(
                  "expected a synset and a name, got only \"n01440764\""),
              std::string::npos);
  }
  EXPECT_EQ(*FromFile("\xef\xbb\xbf"
                      "cat\ndog\n"),
            (Labels{"cat", "dog"}));
  EXPECT_FALSE(FromFile("\n").ok());
  EXPECT_FALSE(ReadLabels("/nonexistent").ok());
}

TEST(LabelsTest, OfTemplatesOnlyTheLinesAreTaken) {
  const std::string path = testing::TempDir() + "templates_test.txt";
  const auto read = [&path](const std::string& content) {
    std::ofstream(path) << content;
    return ReadTemplates(path);
  };
  EXPECT_EQ(*read("\xef\xbb\xbf"
                  "a {text}\r\n \r\n\n {label} b \r\nc {text}"),
            (Labels{"a {text}", " {label} b ", "c {text}"}));
  for (const char* content : {"", "\n \r\n", "\xef\xbb\xbf"}) {
    EXPECT_EQ(read(content).status().code(), absl::StatusCode::kInvalidArgument) << content;
    EXPECT_NE(read(content).status().message().find(path), std::string::npos);
  }
  std::filesystem::remove(path);
  EXPECT_FALSE(ReadTemplates("/nonexistent").ok());
}

std::string All(std::string_view format) {
  const auto writer = AnswerWriter::Create(format);
  std::string text = writer->Begin();
  text += writer->Image("a,\"1\".jpg", {{"cat", 0.5}, {"dog", 0.25}});
  text += writer->Image("b.jpg", {{"dog", 1}});
  return text + writer->End();
}

TEST(AnswerWriterTest, EveryFormat) {
  EXPECT_EQ(All("csv"),
            "image,rank,label,probability\n\"a,\"\"1\"\".jpg\",1,cat,0.5\n"
            "\"a,\"\"1\"\".jpg\",2,dog,0.25\nb.jpg,1,dog,1\n");
  const std::string first =
      R"({"image":"a,\"1\".jpg","labels":[{"label":"cat","probability":0.5},{"label":"dog","probability":0.25}]})";
  const std::string second = R"({"image":"b.jpg","labels":[{"label":"dog","probability":1}]})";
  EXPECT_EQ(All("jsonl"), first + "\n" + second + "\n");
  EXPECT_EQ(All("json"), "[\n" + first + ",\n" + second + "\n]\n");
  EXPECT_NE(All("table").find("  cat   50.00 %  ###############\n"), std::string::npos);
}

}  // namespace
}  // namespace siglip::cli
