#include "text/tokenizer.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file_map.h"
#include "text/bpe_model.h"

namespace siglip {
namespace {

using testing::Each;
using testing::HasSubstr;

constexpr const char* kGoldens = "tests/golden/text/";
constexpr std::uint64_t kMaxBytes = 1 << 26;
constexpr std::int64_t kVocabulary = 1200;

std::vector<std::string> GoldenStrings(const std::string& folder) {
  const auto content = ReadFile(folder + "strings.bin", kMaxBytes);
  std::vector<std::string> strings;
  for (std::size_t at = 0; content.ok() && at + 4 <= content->size();) {
    std::uint32_t length;
    std::memcpy(&length, content->data() + at, 4);
    strings.push_back(content->substr(at + 4, length));
    at += 4 + length;
  }
  return strings;
}

void ExpectGoldenIds(const std::string& folder, const std::vector<std::string>& strings) {
  const auto tokenizer = Tokenizer::Open(folder, 64, kVocabulary);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
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

class GoldenTest : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, IdsEqualThoseOfTransformers) {
  const std::vector<std::string> strings = GoldenStrings(kGoldens);
  ASSERT_GE(strings.size(), 2500u);
  ExpectGoldenIds(std::string(kGoldens) + GetParam(), strings);
}

// Of segmentations that are equally good but for rounding SentencePiece's version decides.
TEST(GoldenRepeatsTest, IdsEqualThoseOfTransformers) {
  const std::string folder = std::string(kGoldens) + "repeats/";
  const std::vector<std::string> strings = GoldenStrings(folder);
  ASSERT_GE(strings.size(), 400u);
  ExpectGoldenIds(folder, strings);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         testing::Values("nfkc_unigram", "identity", "no_dummy_prefix",
                                         "byte_fallback", "bpe", "plain_nfkc", "gemma",
                                         "gemma_variant"));

// A copy of one of the goldens' folders in which the files of a case are written anew.
std::string WriteCase(const nlohmann::json& one) {
  const std::string folder = testing::TempDir() + "tokenizer_test_case";
  std::filesystem::remove_all(folder);
  std::filesystem::copy(kGoldens + one["base"].get<std::string>(), folder);
  for (const auto& [name, content] : one["files"].items()) {
    const std::string path = folder + "/" + name;
    if (content.is_null()) {
      std::filesystem::remove(path);
      continue;
    }
    nlohmann::json written = content;
    if (name == "tokenizer.json" && std::filesystem::exists(path)) {
      written = nlohmann::json::parse(*ReadFile(path, kMaxBytes));
      written.merge_patch(content);
    }
    std::ofstream(path) << written;
  }
  return folder;
}

// tools/make_tokenizer_folder_goldens.py
TEST(FolderGoldenTest, WhatTheFilesSayCountsAsInTransformers) {
  const auto golden =
      nlohmann::json::parse(*ReadFile(std::string(kGoldens) + "folders.json", kMaxBytes));
  for (const nlohmann::json& one : golden["cases"]) {
    SCOPED_TRACE(one["name"].get<std::string>());
    const auto tokenizer =
        Tokenizer::Open(WriteCase(one), golden["length"].get<std::int64_t>(), kVocabulary);
    if (one["ids"].is_null()) {
      EXPECT_FALSE(tokenizer.ok());
      continue;
    }
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (std::size_t i = 0; i < one["texts"].size(); ++i) {
      const auto ids = (*tokenizer)->Encode(one["texts"][i].get<std::string>());
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, one["ids"][i].get<std::vector<std::int64_t>>()) << one["texts"][i];
    }
  }
}

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

// Encoded in parts, of which none but the whole has an unknown piece.
TEST_F(TokenizerTest, ALongRunOfUnknownCharactersIsOnePiece) {
  std::string run;
  for (int i = 0; i < 100'000; ++i) run += i % 3 == 0 ? "漢" : "字";
  EXPECT_EQ(*tokenizer_->EncodeUnpadded("photo " + run + " of"),
            *tokenizer_->EncodeUnpadded("photo 漢 of"));
}

double CpuSeconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::string Repeated(std::string_view unit, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += unit;
  return text;
}

// Of characters that normalization makes others of, alone (U+3300, halfwidth) or together (jamo,
// a mark), and of a model in which the end of "<unk>" is unknown (the demo).
TEST(LongUnknownTest, TakesTimeInProportionToItsLength) {
  for (const char* folder :
       {"tests/golden/text/nfkc_unigram", "tests/golden/text/bpe", "models/demo"}) {
    const auto tokenizer = Tokenizer::Open(folder, 64, kVocabulary);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const char* unit : {"漢", "㌀", "ｱ", "\u1100\u1161", "d\u0323"}) {
      SCOPED_TRACE(std::string(folder) + " " + unit);
      const auto few = (*tokenizer)->EncodeUnpadded("photo " + Repeated(unit, 9) + " of");
      double before = 0;
      for (const int count : {5'000, 40'000}) {
        const std::string text = "photo " + Repeated(unit, count) + " of";
        const double begin = CpuSeconds();
        EXPECT_EQ(*(*tokenizer)->EncodeUnpadded(text), *few);
        const double seconds = CpuSeconds() - begin;
        // 8 times as long; a quadratic search would take 64 times as long.
        if (before > 0) {
          EXPECT_LT(seconds, 24 * before);
        }
        before = seconds;
      }
    }
  }
}

TEST_F(TokenizerTest, BrokenUtf8IsRefusedWithItsOffset) {
  const auto ids = tokenizer_->Encode("caf\xe9");
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("offset 3"));
}

// What nobody waits for is not tokenized to its end.
TEST(GivenUpTest, EndsSoon) {
  const std::string unknown = Repeated("\xe6\xbc\xa2", 1 << 18);
  for (const char* folder : {"nfkc_unigram", "bpe"}) {
    const auto tokenizer = Tokenizer::Open(std::string(kGoldens) + folder, 64, kVocabulary);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    int asked = 0;
    const auto encode = [&](int patience) {
      asked = 0;
      return (*tokenizer)->Encode(unknown, [&] { return ++asked > patience; });
    };
    const auto whole = encode(INT_MAX);
    ASSERT_TRUE(whole.ok()) << whole.status();
    EXPECT_GT(asked, 3) << folder;
    EXPECT_EQ(whole->ids, *(*tokenizer)->Encode(unknown));
    const auto given_up = encode(2);
    EXPECT_TRUE(absl::IsCancelled(given_up.status())) << folder;
    EXPECT_EQ(asked, 3) << folder;
  }
}

TEST(GivenUpTest, ShortTextsAskNothing) {
  for (const char* folder : {"nfkc_unigram", "bpe", "gemma"}) {
    const auto tokenizer = Tokenizer::Open(std::string(kGoldens) + folder, 64, kVocabulary);
    const auto ids = (*tokenizer)->Encode("a photo of a cat", [] { return true; });
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(ids->unpadded,
              static_cast<std::int64_t>((*tokenizer)->EncodeUnpadded("a photo of a cat")->size()));
  }
}

// Merges one after the other: the lowest rank, and of those the leftmost.
std::vector<std::int64_t> MergedPlainly(const BpeModel::Options& options, const std::string& text) {
  std::vector<std::string> pieces;
  for (const char c : text) pieces.emplace_back(1, c);
  while (true) {
    std::size_t best_rank = options.merges.size();
    std::size_t best_at = 0;
    for (std::size_t i = 0; i + 1 < pieces.size(); ++i) {
      for (std::size_t rank = 0; rank < best_rank; ++rank) {
        if (options.merges[rank] != std::pair(pieces[i], pieces[i + 1])) continue;
        best_rank = rank;
        best_at = i;
      }
    }
    if (best_rank == options.merges.size()) break;
    pieces[best_at] += pieces[best_at + 1];
    pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
  std::vector<std::int64_t> ids;
  for (const std::string& piece : pieces) {
    const auto found = std::find_if(options.vocabulary.begin(), options.vocabulary.end(),
                                    [&](const auto& entry) { return entry.first == piece; });
    ids.push_back(found == options.vocabulary.end() ? -1 : found->second);
  }
  return ids;
}

// Random merges over few letters, of which some meet and others never do.
BpeModel::Options RandomMerges(std::mt19937& random) {
  BpeModel::Options options;
  const std::string letters = "abc_";
  for (const char c : letters) {
    options.vocabulary.emplace_back(std::string(1, c),
                                    static_cast<BpeModel::Id>(options.vocabulary.size()));
  }
  std::set<std::string> known;
  for (int i = 0; i < 12; ++i) {
    const auto any = [&] { return options.vocabulary[random() % options.vocabulary.size()].first; };
    const std::string left = any(), right = any();
    const bool crosses = left.back() != '_' && right.front() == '_';
    const std::string both = left + right;
    if (crosses || both.size() > 6 || !known.insert(both).second) continue;
    options.merges.emplace_back(left, right);
    options.vocabulary.emplace_back(both, static_cast<BpeModel::Id>(options.vocabulary.size()));
  }
  return options;
}

TEST(BpeModelTest, PartsOfALongTextHaveTheIdsOfTheWhole) {
  std::mt19937 random(7);
  int parts = 0;
  constexpr int kRounds = 4;
  for (int round = 0; round < kRounds; ++round) {
    const BpeModel::Options options = RandomMerges(random);
    const auto model = BpeModel::Create(options);
    ASSERT_TRUE(model.ok()) << model.status();
    std::string text;
    while (text.size() < 9000) text += "abc_"[random() % 4];
    const std::vector<std::int64_t> whole = MergedPlainly(options, text);
    std::vector<std::int64_t> ids;
    EXPECT_TRUE(model->Encode(text, {.give_up = [&] { return ++parts < 0; }}, ids));
    EXPECT_EQ(ids, whole) << "round " << round;
    std::vector<std::int64_t> first;
    EXPECT_TRUE(model->Encode(text, {.enough = 64}, first));
    ASSERT_GE(first.size(), 64u);
    EXPECT_LT(first.size(), ids.size());
    first.resize(64);
    EXPECT_EQ(first, std::vector<std::int64_t>(ids.begin(), ids.begin() + 64));
  }
  EXPECT_GE(parts, kRounds) << "nothing was cut";
}

TEST(BpeModelTest, WhatCannotBeCutIsGivenUpToo) {
  const auto model = BpeModel::Create(
      {.vocabulary = {{"a", 0}, {"aa", 1}}, .merges = {{"a", "a"}}, .unk_token = ""});
  ASSERT_TRUE(model.ok()) << model.status();
  const std::string text(1 << 18, 'a');
  int asked = 0;
  std::vector<std::int64_t> ids;
  EXPECT_FALSE(model->Encode(text, {.give_up = [&] { return ++asked == 3; }}, ids));
  EXPECT_EQ(asked, 3);
  ids.clear();
  EXPECT_TRUE(model->Encode(text, {}, ids));
  EXPECT_EQ(ids, std::vector<std::int64_t>(1 << 17, 1));
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

TEST_F(BrokenFolderTest, TheSideOfThePaddingIsDescribed) {
  EXPECT_THAT((*Tokenizer::Open(folder_, 64, kVocabulary))->Describe(),
              HasSubstr("PAD 1 on the right"));
  Write("tokenizer_config.json", R"({"padding_side": "left", "truncation_side": "left"})");
  EXPECT_THAT((*Tokenizer::Open(folder_, 64, kVocabulary))->Describe(),
              HasSubstr("PAD 1 on the left, cut on the left"));
}

TEST_F(BrokenFolderTest, AnAbsentConfigHasTheClassDefaults) {
  std::filesystem::remove(folder_ + "/tokenizer_config.json");
  EXPECT_EQ(Error(), "opened");
}

TEST_F(BrokenFolderTest, WhatIsMissingOrDamagedIsNamed) {
  std::filesystem::remove(folder_ + "/spiece.model");
  EXPECT_THAT(Error(), HasSubstr("expected spiece.model (SigLIP 1) or tokenizer.json (SigLIP 2)"));
  Write("spiece.model", "no model");
  EXPECT_THAT(Error(), HasSubstr("expected a SentencePiece model"));
}

TEST_F(BrokenFolderTest, AWrongConfigIsNamed) {
  const std::string twice =
      R"({"added_tokens_decoder": {"7": {"content": "<a>"}, "8": {"content": "<a>"}}})";
  for (const auto& [config, named] : std::vector<std::pair<std::string, std::string>>{
           {"{", "not valid JSON at byte"},
           {"[]", "expected a JSON object"},
           {R"({"eos_token": 1})", "eos_token"},
           {R"({"eos_token": null})", "eos_token"},
           {R"({"eos_token": {"content": "</s>", "lstrip": 1}})", "lstrip"},
           {R"({"do_lower_case": "no"})", "do_lower_case"},
           {R"({"do_lower_case": null})", "do_lower_case"},
           {R"({"model_max_length": 0})", "model_max_length"},
           {R"({"sp_model_kwargs": {"enable_sampling": true}})", "sp_model_kwargs"},
           {R"({"extra_special_tokens": "<a>"})", "extra_special_tokens"},
           {R"({"extra_special_tokens": [1]})", "extra_special_tokens"},
           {R"({"image_token": "<a>", "boi_token": "<b>"})", "\"boi_token\" and \"image_token\""},
           {R"({"added_tokens_decoder": {"x": {"content": "<a>"}}})", "an id as key"},
           {R"({"added_tokens_decoder": {"1": {"content": 2}}})", "\"content\""},
           {R"({"added_tokens_decoder": {"7": {"content": "<a>", "single_word": true}}})",
            "single_word"},
           {R"({"added_tokens_decoder": {"5000": {"content": "<a>"}}})", "has id 5000"},
           {R"({"added_tokens_decoder": {"7": {"content": ")" + std::string(1025, 'x') + "\"}}}",
            "at most 1024 bytes"},
           {twice, "is there twice"},
           {std::string(100'000, '['), "nested deeper"},
           {"{\"a\": \"\xff\"}", "not valid JSON at byte"}}) {
    Write("tokenizer_config.json", config);
    EXPECT_THAT(Error(), HasSubstr(named)) << config.substr(0, 100);
  }
}

TEST_F(BrokenFolderTest, WrongFilesBesideTheConfigAreNamed) {
  Write("tokenizer_config.json", "{}");
  for (const auto& [name, content] : std::vector<std::pair<std::string, std::string>>{
           {"special_tokens_map.json", R"({"pad_token": 1})"},
           {"special_tokens_map.json", "["},
           {"added_tokens.json", R"({"<a>": -1})"},
           {"added_tokens.json", R"({"<a>": "1"})"},
           {"added_tokens.json", "[]"},
           {"tokenizer.json", "{"},
           {"tokenizer.json", R"({"added_tokens": [{"id": 1}]})"}}) {
    Write(name, content);
    EXPECT_THAT(Error(), HasSubstr(name)) << content;
    std::filesystem::remove(folder_ + "/" + name);
  }
}

// transformers fails where the embedding is looked up.
TEST_F(BrokenFolderTest, ASpecialTokenPastTheTowersVocabularyIsAnErrorWhereItIsUsed) {
  constexpr std::int64_t kPieces = 400;
  Write("tokenizer_config.json", R"({"mask_token": "<nothing>"})");
  const auto tokenizer = Tokenizer::Open(folder_, 64, kPieces);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_TRUE((*tokenizer)->Encode("a cat").ok());
  EXPECT_THAT(std::string((*tokenizer)->Encode("a <nothing>").status().message()),
              HasSubstr("id is 400, the text tower has a vocabulary of 400"));
  Write("tokenizer_config.json", R"({"pad_token": "<nothing>"})");
  EXPECT_THAT(std::string(Tokenizer::Open(folder_, 64, kPieces).status().message()),
              HasSubstr("pad_token is none of its pieces, and would have id 400"));
}

// Sorted anew for each, or searched for each piece, these would take minutes.
TEST_F(BrokenFolderTest, ManyAddedTokensTakeNoTimeOfTheirSquare) {
  std::string tokens;
  for (int i = 0; i < 200'000; ++i) {
    tokens += (i > 0 ? ",\"" : "\"") + std::to_string(i) + R"(": {"content": "<)" +
              std::to_string(i) + "\"}";
  }
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {)" + tokens + "}}");
  const auto tokenizer = Tokenizer::Open(folder_, 64, 1'000'000);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "<<7";
  EXPECT_EQ((*tokenizer)->EncodeUnpadded("<123456")->at(0), 123456);
  EXPECT_EQ((*tokenizer)->EncodeUnpadded(text)->size(), 64u);
}

// A copy of SigLIP 2's tokenizer.json in which one thing is replaced.
class GemmaFolderTest : public BrokenFolderTest {
 protected:
  GemmaFolderTest() : json_(*ReadFile(std::string(kGoldens) + "gemma/tokenizer.json", kMaxBytes)) {
    std::filesystem::remove_all(folder_);
    std::filesystem::copy(std::string(kGoldens) + "gemma", folder_);
  }
  std::string ErrorWith(const std::string& from, const std::string& to) {
    std::string json = json_;
    const std::size_t at = json.find(from);
    if (at == std::string::npos) return "no " + from;
    Write("tokenizer.json", json.replace(at, from.size(), to));
    return Error();
  }
  const std::string json_;
};

TEST_F(GemmaFolderTest, WhatGemmaHasNotIsRefusedByName) {
  const std::string space = R"("String": " ")";
  EXPECT_EQ(ErrorWith("Replace", "Replace"), "opened");
  EXPECT_THAT(ErrorWith(R"("type": "BPE")", R"("type": "Unigram")"),
              HasSubstr("model.type: expected BPE (SigLIP 2), got Unigram"));
  EXPECT_THAT(ErrorWith(R"("type": "Replace")", R"("type": "NFC")"), HasSubstr("normalizer: "));
  EXPECT_THAT(ErrorWith(space, R"("String": "x")"), HasSubstr("normalizer: expected Gemma's"));
  EXPECT_THAT(ErrorWith("\"Split\"", "\"Whitespace\""), HasSubstr("pre_tokenizer: expected none"));
  EXPECT_THAT(ErrorWith("TemplateProcessing", "ByteLevel"), HasSubstr("got ByteLevel"));
  EXPECT_THAT(ErrorWith(R"("dropout": null)", R"("dropout": 0.5)"), HasSubstr("model.dropout"));
  EXPECT_THAT(ErrorWith(R"("single_word": false)", R"("single_word": true)"),
              HasSubstr("added_tokens[0].single_word: expected false"));
  EXPECT_THAT(ErrorWith(R"("<eos>": 1,)", R"("<eos>": 0,)"),
              HasSubstr("expected an id of its own"));
  EXPECT_THAT(ErrorWith(R"("<eos>": 1,)", R"("<eos>": -1,)"), HasSubstr("expected an id from 0"));
  EXPECT_THAT(ErrorWith("\"merges\": [", "\"merges\": [[\"a\"],"), HasSubstr("model.merges[0]"));
  EXPECT_THAT(ErrorWith("\"merges\": [", R"("merges": ["a qqqq",)"),
              HasSubstr("merge 0: \"qqqq\" is not in the vocabulary"));
  EXPECT_THAT(ErrorWith("{", "["), HasSubstr("tokenizer.json"));
  Write("tokenizer.json", json_);
  Write("tokenizer_config.json", R"({"unk_token": "<what>"})");
  EXPECT_THAT(Error(), HasSubstr("unk_token \"<what>\" is not in the vocabulary"));
  Write("tokenizer_config.json", R"({"pad_token": ""})");
  EXPECT_THAT(Error(), HasSubstr("expected EOS and PAD"));
}

TEST_F(GemmaFolderTest, ASpecialTokenPastTheTowersVocabularyIsAnErrorWhereItIsUsed) {
  Write("tokenizer_config.json", R"({"mask_token": "<nothing>"})");
  const auto tokenizer = Tokenizer::Open(folder_, 64, 1158);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_TRUE((*tokenizer)->Encode("a cat").ok());
  EXPECT_THAT(std::string((*tokenizer)->Encode("a <nothing>").status().message()),
              HasSubstr("id is 1158, the text tower has a vocabulary of 1158"));
}

TEST_F(GemmaFolderTest, ALowercaseNormalizerChangesNothing) {
  const std::string replace = R"({"type": "Replace", "pattern": {"String": " "}, "content": ")"
                              "\u2581"
                              R"("})";
  std::string json = json_;
  const std::size_t begin = json.find("\"normalizer\"");
  const std::size_t end = json.find("\"pre_tokenizer\"");
  json.replace(begin, end - begin,
               R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, )" +
                   replace + "]}, ");
  Write("tokenizer.json", json);
  EXPECT_EQ(Error(), "opened");
}

TEST_F(GemmaFolderTest, LongTextIsCutAndEmptyTextIsEos) {
  const auto tokenizer = Tokenizer::Open(folder_, 8, kVocabulary);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "photo of ";
  const auto ids = (*tokenizer)->EncodeUnpadded(text);
  ASSERT_EQ(ids->size(), 8u);
  EXPECT_EQ(ids->back(), (*tokenizer)->eos_id());
  EXPECT_THAT(*(*tokenizer)->Encode(""), testing::ElementsAre(1, 0, 0, 0, 0, 0, 0, 0));
}

TEST_F(GemmaFolderTest, NoRoomForTheSpecialTokensIsRefused) {
  const auto tokenizer = Tokenizer::Open(std::string(kGoldens) + "gemma_variant", 1, kVocabulary);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("post_processor"));
}

TEST_F(BrokenFolderTest, AVocabularyLargerThanTheTowersIsRefused) {
  const auto tokenizer = Tokenizer::Open(folder_, 64, 10);
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace siglip
