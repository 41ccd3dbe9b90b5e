// Small files that declare much: what they would cost is known from the header.

#include "image/preprocess.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

#include <zlib.h>

namespace siglip {
namespace {

std::string Be(std::uint64_t value, int bytes) {
  std::string s;
  for (int i = bytes - 1; i >= 0; --i) s += static_cast<char>(value >> (8 * i));
  return s;
}

std::string Segment(std::uint32_t marker, const std::string& body) {
  return Be(marker, 2) + Be(body.size() + 2, 2) + body;
}

struct CodestreamSpec {
  std::uint32_t width = 64;
  std::uint32_t height = 64;
  std::uint32_t tile = 64;
  std::uint32_t components = 1;
  std::uint32_t layers = 1;
  std::string precincts = {};  // none: of 2^15
  std::string before_size = {};
  std::string in_tile = {};  // marker segments of the tile's header
};

// A JPEG 2000 codestream with one tile-part whose packets are empty.
std::string Codestream(const CodestreamSpec& spec) {
  std::string size = Be(0, 2) + Be(spec.width, 4) + Be(spec.height, 4) + Be(0, 8) +
                     Be(spec.tile, 4) + Be(spec.tile, 4) + Be(0, 8) + Be(spec.components, 2);
  for (std::uint32_t i = 0; i < spec.components; ++i) size += std::string("\7\1\1", 3);
  const bool has_precincts = !spec.precincts.empty();
  const std::string style = Be(has_precincts ? 1 : 0, 1) + Be(0, 1) + Be(spec.layers, 2) +
                            Be(0, 1) + Be(has_precincts ? spec.precincts.size() - 1 : 0, 1) +
                            std::string("\0\0\0\1", 4) + spec.precincts;
  const std::string body = spec.in_tile + "\xff\x93" + std::string(1, '\0');
  return "\xff\x4f" + spec.before_size + Segment(0xFF51, size) + Segment(0xFF52, style) +
         Segment(0xFF5C, std::string("\x40\x40", 2)) + Be(0xFF90, 2) + Be(10, 2) + Be(0, 2) +
         Be(12 + body.size(), 4) + Be(0, 1) + Be(1, 1) + body + "\xff\xd9";
}

std::string Box(std::string_view type, const std::string& body) {
  return Be(body.size() + 8, 4) + std::string(type) + body;
}

// JP2 boxes around it, `between` before the codestream.
std::string Jp2(const std::string& codestream, const std::string& between) {
  const std::string header = Be(64, 4) + Be(64, 4) + Be(1, 2) + std::string("\7\7\0\0", 4);
  return Box("jP  ", "\r\n\x87\n") + Box("ftyp", "jp2 " + Be(0, 4) + "jp2 ") +
         Box("jp2h", Box("ihdr", header) + Box("colr", std::string("\1\0\0", 3) + Be(17, 4))) +
         between + Box("jp2c", codestream);
}

std::int64_t WorkingSet(const std::string& bytes) {
  const auto header = ReadImageHeader(bytes, kPillowMaxPixels);
  EXPECT_TRUE(header.ok()) << header.status();
  return header.ok() ? header->working_set_bytes : 0;
}

bool IsRefused(const std::string& bytes) {
  return ReadImageHeader(bytes, kPillowMaxPixels).status().code() ==
         absl::StatusCode::kInvalidArgument;
}

TEST(Hostile, ComponentsOfJpeg2000AreCountedWhereverTheCodestreamIs) {
  const CodestreamSpec many = {.tile = 4, .components = 16384};
  EXPECT_TRUE(IsRefused(Jp2(Codestream(many), "")));
  EXPECT_TRUE(IsRefused(Jp2(Codestream(many), Box("free", "abcd"))));
  EXPECT_TRUE(IsRefused(Jp2(Codestream(many), Be(1, 4) + "free" + Be(20, 8) + "abcd")));
  CodestreamSpec behind_unknown = many;
  behind_unknown.before_size = "\xff\x30";
  EXPECT_TRUE(IsRefused(Jp2(Codestream(behind_unknown), Box("free", "abcd"))));
  EXPECT_TRUE(IsRefused(Jp2(Codestream({.components = 0}), Box("free", "abcd"))));
  EXPECT_FALSE(IsRefused(Jp2(Codestream({}), Box("free", "abcd"))));
}

// Measured with OpenJPEG 2.5.0: 824 MB for the tiles, 549 for the precincts, 184 for the layers.
TEST(Hostile, TilesPrecinctsAndLayersOfJpeg2000AreClaimed) {
  EXPECT_LT(WorkingSet(Codestream({})), 32 << 20);
  EXPECT_GT(WorkingSet(Codestream({.width = 255, .height = 257, .tile = 1, .components = 4})),
            824 << 20);
  const std::string smallest(1, '\0');
  const CodestreamSpec precincts = {
      .width = 1000, .height = 1000, .tile = 1000, .precincts = smallest};
  EXPECT_GT(WorkingSet(Codestream(precincts)), 549 << 20);
  const CodestreamSpec layers = {
      .width = 500, .height = 500, .tile = 500, .layers = 100, .precincts = smallest};
  EXPECT_GT(WorkingSet(Codestream(layers)), 184 << 20);
  // A tile may have a style of its own.
  const std::string of_tile = std::string("\1\0\0\1\0\0\0\0\0\1\0", 11);
  const CodestreamSpec in_tile = {
      .width = 1000, .height = 1000, .tile = 1000, .in_tile = Segment(0xFF52, of_tile)};
  EXPECT_GT(WorkingSet(Codestream(in_tile)), 549 << 20);
}

TEST(Hostile, PacketsOfJpeg2000AreLimited) {
  const std::string smallest(1, '\0');
  const CodestreamSpec few = {.layers = 100, .precincts = smallest};
  EXPECT_TRUE(DecodeRgb(Codestream(few), kPillowMaxPixels).ok());
  const CodestreamSpec many = {.layers = 65535, .precincts = smallest};
  EXPECT_EQ(DecodeRgb(Codestream(many), kPillowMaxPixels).status().code(),
            absl::StatusCode::kInvalidArgument);
}

std::string Deflated(const std::string& text) {
  uLongf size = compressBound(text.size());
  std::string packed(size, '\0');
  EXPECT_EQ(compress(reinterpret_cast<Bytef*>(packed.data()), &size,
                     reinterpret_cast<const Bytef*>(text.data()), text.size()),
            Z_OK);
  packed.resize(size);
  return packed;
}

std::string PngChunkOf(const std::string& type, const std::string& body) {
  const std::string named = type + body;
  const auto crc = crc32_z(0, reinterpret_cast<const Bytef*>(named.data()), named.size());
  return Be(body.size(), 4) + named + Be(crc, 4);
}

// One grey pixel, `between` before its data.
std::string PngWith(const std::string& between) {
  return "\x89PNG\r\n\x1a\n" +
         PngChunkOf("IHDR", Be(1, 4) + Be(1, 4) + std::string("\10\0\0\0\0", 5)) + between +
         PngChunkOf("IDAT", Deflated(std::string(2, '\0'))) + PngChunkOf("IEND", "");
}

// A door's thread reads the header: a file of 64 MB may hold millions of styles, whose cost takes a
// second to add up.
TEST(Hostile, StylesOfJpeg2000WithoutEndAreNotAddedUp) {
  const std::string style = Segment(0xFF52, std::string("\0\0\0\1\0\0\0\0\0\1", 10));
  std::string some, many;
  for (int i = 0; i < 1000; ++i) some += style;
  for (int i = 0; i < 400; ++i) many += some;
  EXPECT_LT(WorkingSet(Codestream({.in_tile = some})), 32 << 20);
  EXPECT_GT(WorkingSet(Codestream({.in_tile = many})), std::int64_t{4} << 30);
  EXPECT_TRUE(DecodeRgb(Codestream({.in_tile = many}), kPillowMaxPixels).ok())
      << "as OpenJPEG takes it";
}

// JP2 boxes whose header says `palettes` times that the picture is grey and has a palette of
// `entries` colours.
std::string Jp2OfPalettes(int palettes, std::uint32_t entries, std::uint32_t colors) {
  const std::string grey = Be(64, 4) + Be(64, 4) + Be(1, 2) + std::string("\7\7\0\0", 4);
  std::string palette = Be(entries, 2) + std::string("\3\7\7\7", 4);
  for (std::uint32_t i = 0; i < entries; ++i) palette += Be(i % colors, 3);
  std::string boxes;
  for (int i = 0; i < palettes; ++i) boxes += Box("ihdr", grey) + Box("pclr", palette);
  return Box("jP  ", "\r\n\x87\n") + Box("ftyp", "jp2 " + Be(0, 4) + "jp2 ") + Box("jp2h", boxes) +
         Box("jp2c", Codestream({}));
}

// 64 MiB, as much as a door takes. Each entry was compared with the 256 colours before it: half a
// minute of a door's thread.
TEST(Hostile, PalettesOfJpeg2000AreReadInTimeThatGrowsWithTheirBytes) {
  EXPECT_FALSE(IsRefused(Jp2OfPalettes(340, 65535, 256)));
  EXPECT_TRUE(IsRefused(Jp2OfPalettes(2, 65535, 257)));
  EXPECT_FALSE(IsRefused(Jp2OfPalettes(1, 256, 256)));
}

// A door's thread reads the head, and a kilobyte inflates to a megabyte: the verdict on what does
// not fit any more is the decoder's, which proves that the head's reader has not inflated it.
TEST(Hostile, TheHeadOfAPngIsReadWithoutInflating) {
  const std::string packed = Deflated(std::string((1 << 20) + 1, '\0'));
  const std::string method(2, '\0');  // the end of a name and the method
  EXPECT_TRUE(DecodeRgb(PngWith(""), kPillowMaxPixels).ok());
  for (const std::string& chunk :
       {PngChunkOf("iCCP", "a" + method + packed), PngChunkOf("zTXt", "a" + method + packed),
        PngChunkOf("iTXt", "a" + std::string("\0\1\0\0\0", 5) + packed)}) {
    EXPECT_FALSE(IsRefused(PngWith(chunk)));
    EXPECT_EQ(DecodeRgb(PngWith(chunk), kPillowMaxPixels).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

// Each kilobyte of profiles and of broken text inflates to a megabyte, and Pillow counts neither: a
// door's 64 MiB would take a minute.
TEST(Hostile, WhatAPngMayInflateIsBounded) {
  const std::string profile =
      PngChunkOf("iCCP", "a" + std::string(2, '\0') + Deflated(std::string((1 << 20) - 1, '\0')));
  std::string broken = Deflated(std::string((1 << 20) - 1, '\0'));
  broken.back() ^= 1;  // its checksum
  const std::string text = PngChunkOf("zTXt", "a" + std::string(2, '\0') + broken);
  for (const std::string& chunk : {profile, text}) {
    std::string chunks;
    for (int i = 0; i < 128; ++i) chunks += chunk;
    EXPECT_TRUE(DecodeRgb(PngWith(chunks), kPillowMaxPixels).ok());
    chunks += chunk;
    EXPECT_EQ(DecodeRgb(PngWith(chunks), kPillowMaxPixels).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

std::string Le(std::uint64_t value, int bytes) {
  const std::string s = Be(value, bytes);
  return std::string(s.rbegin(), s.rend());
}

struct TiffTag {
  std::uint32_t tag;
  std::uint32_t value;
  std::uint32_t type = 4;
  std::uint32_t count = 1;
};

// A TIFF of these tags alone; `rest` begins behind the directory, at 14 + 12 * tags.
std::string Tiff(const std::vector<TiffTag>& tags, const std::string& rest) {
  std::string s = std::string("II*\0", 4) + Le(8, 4) + Le(tags.size(), 2);
  for (const TiffTag& tag : tags) {
    s += Le(tag.tag, 2) + Le(tag.type, 2) + Le(tag.count, 4) + Le(tag.value, 4);
  }
  return s + Le(0, 4) + rest;
}

// Measured: 1,030 MB before the tile was left untouched; now what its data fill.
TEST(Hostile, ATileOfTiffLargerThanThePictureIsClaimed) {
  const auto tiled = [](std::uint32_t side) {
    return Tiff({{256, 1},
                 {257, 1},
                 {258, 8},
                 {259, 8},
                 {262, 1},
                 {322, side},
                 {323, side},
                 {324, 8},
                 {325, 9}},
                "");
  };
  EXPECT_LT(WorkingSet(tiled(16)), 32 << 20);
  EXPECT_GE(WorkingSet(tiled(16384)), 256 << 20);
  EXPECT_GE(WorkingSet(tiled(32752)), 1000 << 20);
  EXPECT_GE(WorkingSet(tiled(0x7FFFFFF0)), 1 << 30);
  EXPECT_LT(WorkingSet(tiled(0x7FFFFFF0)), (1 << 30) + (64 << 20));
}

// One pass over the list, and one over the picture: this took minutes.
TEST(Hostile, OffsetsOfTiffThatGoRoundThePictureDrawItOnce) {
  constexpr std::uint32_t kOffsets = 200'000;
  constexpr std::uint32_t kSide = 1000;
  std::string rest;
  const std::uint32_t start = 14 + 12 * 8;
  for (std::uint32_t i = 0; i < kOffsets; ++i) rest += Le(start + i, 4);
  rest += std::string(kOffsets + kSide * kSide, '\x55');
  const std::string bytes = Tiff({{256, kSide},
                                  {257, kSide},
                                  {258, 8},
                                  {259, 1},
                                  {262, 1},
                                  {273, start, 4, kOffsets},
                                  {277, 1},
                                  {278, kSide - 1}},
                                 rest);
  EXPECT_LT(WorkingSet(bytes), 40 << 20);
  EXPECT_TRUE(DecodeRgb(bytes, kPillowMaxPixels).ok());
  // The first tile's rows all lie in this part of the file, the last one's do not.
  EXPECT_FALSE(DecodeRgb(bytes.substr(0, start + kSide * (kSide - 1)), kPillowMaxPixels).ok());
}

}  // namespace
}  // namespace siglip
