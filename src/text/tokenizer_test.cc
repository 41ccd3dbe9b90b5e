#include "text/tokenizer.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_map.h"

namespace siglip {
namespace {

using testing::Each;
using testing::HasSubstr;

constexpr const char* kGoldens = "tests/golden/text/";
constexpr std::uint64_t kMaxBytes = 1 << 26;
constexpr std::int64_t kVocabulary = 1000;

std::vector<std::string> GoldenStrings() {
  const auto content = ReadFile(std::string(kGoldens) + "strings.bin", kMaxBytes);
  std::vector<std::string> strings;
  for (std::size_t at = 0; content.ok() && at + 4 <= content->size();) {
    std::uint32_t length;
    std::memcpy(&length, content->data() + at, 4);
    strings.push_back(content->substr(at + 4, length));
    at += 4 + length;
  }
  return strings;
}

class GoldenTest : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, IdsEqualThoseOfTransformers) {
  const std::string folder = std::string(kGoldens) + GetParam();
  const auto tokenizer = Tokenizer::Open(folder, 64, kVocabulary);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<std::string> strings = GoldenStrings();
  ASSERT_GE(strings.size(), 2500u);
  std::ifstream expected(folder + "/ids.txt");
  for (const std::string& text : strings) {
    std::string line;
    ASSERT_TRUE(std::getline(expected, line));
    std::istringstream numbers(line);
    std::vector<std::int64_t> ids;
    for (std::int64_t id; numbers >> id;) ids.push_back(id);
    const auto got = (*tokenizer)->EncodeUnpadded(text);
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_EQ(*got, ids) << testing::PrintToString(text);
    ids.resize(static_cast<std::size_t>((*tokenizer)->text_length()), (*tokenizer)->pad_id());
    EXPECT_EQ(*(*tokenizer)->Encode(text), ids);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         testing::Values("nfkc_unigram", "identity", "no_dummy_prefix",
                                         "byte_fallback", "bpe", "plain_nfkc"));

class TokenizerTest : public testing::Test {
 protected:
  TokenizerTest() : tokenizer_(*Tokenizer::Open(std::string(kGoldens) + "bpe", 8, kVocabulary)) {}
  const std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(TokenizerTest, EmptyTextIsEosAndPadding) {
  EXPECT_THAT(*tokenizer_->Encode(""), Each(tokenizer_->eos_id()));
  EXPECT_EQ(tokenizer_->EncodeUnpadded("?!")->size(), 1u);
}

TEST_F(TokenizerTest, LongTextIsCutToItsFirstIdsAndEos) {
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += "photo of ";
  const auto ids = tokenizer_->EncodeUnpadded(text);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->size(), 8u);
  EXPECT_EQ(ids->back(), tokenizer_->eos_id());
}

TEST_F(TokenizerTest, BrokenUtf8IsRefusedWithItsOffset) {
  const auto ids = tokenizer_->Encode("caf\xe9");
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("offset 3"));
}

class BrokenFolderTest : public testing::Test {
 protected:
  BrokenFolderTest() : folder_(testing::TempDir() + "tokenizer_test") {
    std::filesystem::remove_all(folder_);
    std::filesystem::copy(std::string(kGoldens) + "bpe", folder_);
  }
  std::string Error() {
    const auto tokenizer = Tokenizer::Open(folder_, 64, kVocabulary);
    return tokenizer.ok() ? "opened" : std::string(tokenizer.status().message());
  }
  void Write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << content;
  }
  const std::string folder_;
};

TEST_F(BrokenFolderTest, AnAbsentConfigHasTheClassDefaults) {
  std::filesystem::remove(folder_ + "/tokenizer_config.json");
  EXPECT_EQ(Error(), "opened");
}

TEST_F(BrokenFolderTest, WhatIsMissingOrDamagedIsNamed) {
  std::filesystem::remove(folder_ + "/spiece.model");
  EXPECT_THAT(Error(), HasSubstr("spiece.model: not found"));
  Write("tokenizer.json", "{}");
  EXPECT_THAT(Error(), HasSubstr("SigLIP 2"));
  Write("spiece.model", "no model");
  EXPECT_THAT(Error(), HasSubstr("expected a SentencePiece model"));
}

TEST_F(BrokenFolderTest, AWrongConfigIsNamed) {
  for (const char* config :
       {"{", "[]", R"({"eos_token": 1})", R"({"do_lower_case": "no"})",
        R"({"model_max_length": 0})", R"({"added_tokens_decoder": {"x": {}}})",
        R"({"added_tokens_decoder": {"1": {"content": 2}}})", R"({"pad_token": "<nothing>"})",
        R"({"added_tokens_decoder": {"5000": {"content": "<a>"}}})"}) {
    Write("tokenizer_config.json", config);
    EXPECT_NE(Error(), "opened") << config;
  }
}

TEST_F(BrokenFolderTest, AVocabularyLargerThanTheTowersIsRefused) {
  const auto tokenizer = Tokenizer::Open(folder_, 64, 10);
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace siglip
