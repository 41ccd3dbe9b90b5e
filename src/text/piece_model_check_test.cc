#include "text/piece_model_check.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "text/sentencepiece_tokenizer.h"

namespace siglip {
namespace {

using testing::HasSubstr;

std::string Varint(std::uint64_t value) {
  std::string text;
  for (; value >= 0x80; value >>= 7) text += static_cast<char>(value | 0x80);
  return text + static_cast<char>(value);
}

std::string Bytes(int field, const std::string& content) {
  return Varint(static_cast<std::uint64_t>(field) << 3 | 2) + Varint(content.size()) + content;
}

std::string Number(int field, std::uint64_t value) {
  return Varint(static_cast<std::uint64_t>(field) << 3) + Varint(value);
}

const TokenizerConfig kConfig = DefaultTokenizerConfig(TokenizerKind::kSiglip);
constexpr int kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4;

std::string Piece(const std::string& content, std::uint64_t type) {
  return Bytes(1, Bytes(1, content) + Number(3, type));
}

// The pieces that SiglipTokenizer needs, and `more`.
std::string Model(const std::string& more = "") {
  return Piece("<unk>", kUnknown) + Piece("</s>", kControl) + Piece("a", kNormal) +
         Piece("b", kNormal) + more;
}

std::string LittleEndian(std::uint32_t value) {
  std::string text;
  for (int shift = 0; shift < 32; shift += 8) text += static_cast<char>(value >> shift);
  return text;
}

constexpr std::uint32_t kLeaf = 0x80000000u, kEndsKey = 0x100u;

std::uint32_t Unit(std::uint32_t offset, std::uint32_t label, bool ends_key = false) {
  return offset << 10 | (ends_key ? kEndsKey : 0) | label;
}

// In this trie 'a' alone is a key, whose value is 0. Unit 0 leads to 1 ^ 'a', and that to 0x70.
std::map<std::uint32_t, std::uint32_t> TrieOfA() {
  return {{0, Unit(1, 0)}, {0x60, Unit(0x10, 'a', true)}, {0x70, kLeaf}};
}

// Other units are nobody's children.
std::string CharsMap(const std::map<std::uint32_t, std::uint32_t>& units,
                     const std::string& replacements = std::string("bb\0", 3)) {
  std::string trie;
  for (std::uint32_t i = 0; i < 256; ++i) {
    trie += LittleEndian(units.contains(i) ? units.at(i) : kLeaf);
  }
  return LittleEndian(static_cast<std::uint32_t>(trie.size())) + trie + replacements;
}

// SentencePiece's defaults, and the map.
std::string WithMap(const std::string& map, int spec = 3) {
  return Model(Bytes(spec, Bytes(2, map)));
}

std::string ErrorOf(const std::string& model) {
  const auto tokenizer = SentencePieceTokenizer::Create(model, "spiece.model", kConfig, 16, 1000);
  return tokenizer.ok() ? "opened" : std::string(tokenizer.status().message());
}

TEST(PieceModelCheckTest, TheLibraryReadsWhatTheseTestsWrite) {
  const auto tokenizer = SentencePieceTokenizer::Create(WithMap(CharsMap(TrieOfA())),
                                                        "spiece.model", kConfig, 16, 1000);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  // "ab" becomes "bbb"; the mark of a space in front is unknown, as "<unk>" is, and goes with it.
  EXPECT_THAT(*(*tokenizer)->EncodeUnpadded("ab"), testing::ElementsAre(3, 3, 3, 1));
}

// Its result alone would be no pieces at all.
TEST(PieceModelCheckTest, ATextThatTheLibraryRefusesIsAnError) {
  constexpr int kBpe = 2;
  const std::string model = Model(Piece("x", kControl) + Bytes(2, Number(3, kBpe)));
  const auto tokenizer = SentencePieceTokenizer::Create(model, "spiece.model", kConfig, 16, 1000);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_TRUE((*tokenizer)->Encode("a").ok());
  EXPECT_THAT(std::string((*tokenizer)->Encode("a x").status().message()),
              HasSubstr("SentencePiece refuses the text"));
}

TEST(PieceModelCheckTest, RealModelsPass) {
  for (const char* name : {"nfkc_unigram", "identity", "no_dummy_prefix", "byte_fallback", "bpe"}) {
    const auto model =
        ReadFile(std::string("tests/golden/text/") + name + "/spiece.model", 1 << 26);
    EXPECT_TRUE(CheckPieceModel(*model).ok()) << CheckPieceModel(*model);
  }
}

TEST(PieceModelCheckTest, ValuesOutsideTheReplacementsAreRefused) {
  auto units = TrieOfA();
  for (const std::uint32_t value : {3u, 4u, 0x7ffffff0u}) {
    units[0x70] = kLeaf | value;
    EXPECT_THAT(ErrorOf(WithMap(CharsMap(units))),
                HasSubstr("spiece.model: expected a SentencePiece model: "
                          "normalizer_spec.precompiled_charsmap: expected a "
                          "replacement"));
    EXPECT_THAT(ErrorOf(WithMap(CharsMap(units), 5)), HasSubstr("denormalizer_spec."));
  }
  units[0x70] = kLeaf | 2;
  EXPECT_EQ(ErrorOf(WithMap(CharsMap(units))), "opened");
}

TEST(PieceModelCheckTest, ReplacementsWithoutAnEndOrTooLongAreRefused) {
  EXPECT_THAT(ErrorOf(WithMap(CharsMap(TrieOfA(), "bb"))), HasSubstr("a replacement"));
  EXPECT_THAT(ErrorOf(WithMap(CharsMap(TrieOfA(), ""))), HasSubstr("a replacement"));
  const std::string zero(1, '\0');
  EXPECT_EQ(ErrorOf(WithMap(CharsMap(TrieOfA(), std::string(256, 'b') + zero))), "opened");
  EXPECT_THAT(ErrorOf(WithMap(CharsMap(TrieOfA(), std::string(257, 'b') + zero))),
              HasSubstr("at most 256 bytes"));
}

TEST(PieceModelCheckTest, TriesOfWrongSizesAreRefused) {
  const std::string map = CharsMap(TrieOfA());
  for (const std::uint32_t size : {0u, 2u, 1023u, 1028u, 0x80000000u, 0xffffffffu}) {
    EXPECT_THAT(ErrorOf(WithMap(LittleEndian(size) + map.substr(4))), HasSubstr("a trie of whole"))
        << size;
  }
  for (const std::size_t size : {1u, 3u, 4u, 1027u}) {
    EXPECT_NE(ErrorOf(WithMap(map.substr(0, size))), "opened") << size;
  }
}

TEST(PieceModelCheckTest, UnitsThatPointOutsideAreRefused) {
  for (const std::uint32_t unit :
       {Unit(256, 0), Unit(1 << 21, 0), Unit(1, 0) | 0x200u, Unit((1 << 22) - 1, 0) | 0x200u}) {
    auto units = TrieOfA();
    units[0] = unit;
    EXPECT_THAT(ErrorOf(WithMap(CharsMap(units))), HasSubstr("unit 0 to point into the 256 units"));
  }
  auto units = TrieOfA();
  units[0x60] = Unit(1024, 'a');
  EXPECT_THAT(ErrorOf(WithMap(CharsMap(units))), HasSubstr("unit 96 to point into"));
}

TEST(PieceModelCheckTest, KeysThatComeBackAreRefused) {
  // 'a' leads to a unit that is its own child by 'a', and ends a key each time.
  auto units = TrieOfA();
  units[0x60] = Unit(0x60 ^ 1, 'a', true);
  units[1] = kLeaf;
  EXPECT_THAT(ErrorOf(WithMap(CharsMap(units))), HasSubstr("no key without an end"));
}

// A chain of units, each the child of the former by another byte; `ending` of them end a key.
std::string Chain(std::uint32_t length, std::uint32_t ending) {
  const std::uint32_t blocks = length + 2;
  std::vector<std::uint32_t> trie(256 * blocks, kLeaf);
  std::uint32_t unit = 0;
  for (std::uint32_t i = 0; i < length; ++i) {
    const std::uint32_t base = 256 * (i + 1);
    const bool ends_key = i > 0 && i <= ending;
    // Offsets of more than 21 bits would need the shift by 8.
    trie[unit] = Unit(unit ^ base, unit & 0xff, ends_key);
    if (ends_key) trie[base] = kLeaf;
    unit = base ^ 'a';
  }
  trie[unit] = Unit(unit ^ (256 * (length + 1)), 'a');
  std::string text;
  for (const std::uint32_t value : trie) text += LittleEndian(value);
  return LittleEndian(static_cast<std::uint32_t>(text.size())) + text + std::string("b\0", 2);
}

TEST(PieceModelCheckTest, LongKeysAndManyPrefixesAreRefused) {
  EXPECT_EQ(ErrorOf(WithMap(Chain(256, 32))), "opened");
  EXPECT_THAT(ErrorOf(WithMap(Chain(257, 32))), HasSubstr("keys of at most 256 bytes"));
  EXPECT_THAT(ErrorOf(WithMap(Chain(256, 33))), HasSubstr("at most 32 keys that begin alike"));
}

TEST(PieceModelCheckTest, HugePiecesAndNestedSymbolsAreRefused) {
  EXPECT_EQ(ErrorOf(Model(Piece(std::string(1024, 'x'), kUserDefined))), "opened");
  for (const std::uint64_t type : {kNormal, kUserDefined}) {
    EXPECT_THAT(ErrorOf(Model(Piece(std::string(5'000'000, 'x'), type))),
                HasSubstr("pieces[4]: expected at most 1024 bytes, got 5000000"));
  }
  EXPECT_THAT(ErrorOf(Model(Piece(std::string("x\0y", 3), kNormal))), HasSubstr("no U+0000"));
  std::string nested;
  for (std::size_t i = 1; i <= 64; ++i) nested += Piece(std::string(i, 'x'), kUserDefined);
  EXPECT_EQ(ErrorOf(Model(nested)), "opened");
  // An enum's upper bits do not count.
  nested += Piece(std::string(65, 'x'), kUserDefined + (std::uint64_t{1} << 32));
  EXPECT_THAT(ErrorOf(Model(nested)), HasSubstr("at most 64 user-defined symbols"));
}

// As the library does: the pieces that the tokenizer adds for itself do not stand in for them.
TEST(PieceModelCheckTest, ByteFallbackWithoutPiecesForBytesIsRefused) {
  constexpr int kTrainerSpec = 2, kByteFallback = 35;
  EXPECT_EQ(ErrorOf(Model(Bytes(kTrainerSpec, Number(kByteFallback, 0)))), "opened");
  EXPECT_NE(ErrorOf(Model(Bytes(kTrainerSpec, Number(kByteFallback, 1)))), "opened");
}

TEST(PieceModelCheckTest, DamagedMessagesAreRefused) {
  const std::string model = WithMap(CharsMap(TrieOfA()));
  for (const std::size_t size : {1u, 5u, 20u, 40u, 1000u}) {
    EXPECT_NE(ErrorOf(model.substr(0, size)), "opened") << size;
  }
  for (const char* end : {"\x0b", "\x0c", "\x00", "\x0f", "\x0a\xff", "\xff\xff\xff\xff\xff\x7f"}) {
    EXPECT_THAT(ErrorOf(model + std::string(end, std::max<std::size_t>(1, std::strlen(end)))),
                HasSubstr("a protobuf message"));
  }
}

}  // namespace
}  // namespace siglip
