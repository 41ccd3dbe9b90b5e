#include "image/preprocess.h"

#include "base/file_map.h"
#include "image/codec.h"
#include "image/sha256_for_test.h"

#include <fstream>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace siglip {
namespace {

constexpr char kFolder[] = "tests/data/image/";
constexpr int kSize = 32;  // SIZE of tools/make_image_goldens.py

struct Golden {
  std::string name;
  std::string format;  // "refused" if Pillow refuses it
  std::vector<std::string> fields;
};

void PrintTo(const Golden& golden, std::ostream* out) { *out << golden.name; }

std::vector<Golden> ReadManifest() {
  std::vector<Golden> goldens;
  std::ifstream file(std::string(kFolder) + "manifest.tsv");
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    Golden golden;
    std::istringstream fields(line);
    std::getline(fields, golden.name, '\t');
    std::getline(fields, golden.format, '\t');
    for (std::string field; std::getline(fields, field, '\t');) golden.fields.push_back(field);
    goldens.push_back(golden);
  }
  return goldens;
}

std::string Load(const std::string& name) {
  const auto bytes = ReadFile(kFolder + name, 1 << 24);
  EXPECT_TRUE(bytes.ok()) << name;
  return bytes.ok() ? *bytes : std::string();
}

std::string Digest(const RgbImage& image) {
  return Sha256Hex(image.pixels.data(), image.pixels.size()).substr(0, 32);
}

PreprocessOptions Options(Resample resample, PillowVersion pillow) {
  PreprocessOptions options;
  options.image_size = kSize;
  options.resample = resample;
  options.pillow = pillow;
  return options;
}

class GoldenTest : public ::testing::TestWithParam<Golden> {};

TEST_P(GoldenTest, EqualsPillow) {
  const Golden& golden = GetParam();
  const std::string bytes = Load(golden.name);
  const auto image = DecodeRgb(bytes, kPillowMaxPixels);
  if (golden.format == "refused") {
    ASSERT_FALSE(image.ok()) << "Pillow: " << golden.fields.at(0);
    EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument) << image.status();
    return;
  }
  ASSERT_TRUE(image.ok()) << image.status();
  const auto header = ReadImageHeader(bytes, kPillowMaxPixels);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->format, golden.format);
  EXPECT_EQ(std::to_string(header->width), golden.fields.at(0));
  EXPECT_EQ(std::to_string(header->height), golden.fields.at(1));
  EXPECT_EQ(image->width, header->width);
  EXPECT_EQ(image->height, header->height);
  EXPECT_GE(header->working_set_bytes, static_cast<std::int64_t>(image->pixels.size()));
  EXPECT_EQ(Digest(*image), golden.fields.at(2)) << "full-size RGB";

  const Preprocessor bicubic(Options(Resample::kBicubic, PillowVersion::k13));
  const Preprocessor bilinear(Options(Resample::kBilinear, PillowVersion::k13));
  const Preprocessor old(Options(Resample::kBicubic, PillowVersion::k12));
  EXPECT_EQ(Digest(*bicubic.Resize(*image)), golden.fields.at(3)) << "bicubic";
  EXPECT_EQ(Digest(*bilinear.Resize(*image)), golden.fields.at(4)) << "bilinear";
  EXPECT_EQ(Digest(*old.Resize(*image)), golden.fields.at(5)) << "Pillow 12's order";
  std::vector<float> pixels(3 * kSize * kSize);
  ASSERT_TRUE(bicubic.Preprocess(bytes, pixels.data()).ok());
  EXPECT_EQ(Sha256Hex(pixels.data(), pixels.size() * sizeof(float)).substr(0, 32),
            golden.fields.at(6))
      << "pixels";
}

// No proper prefix may crash, and the header of a file that decodes is always readable.
TEST_P(GoldenTest, EveryTruncationIsAnswered) {
  const std::string bytes = Load(GetParam().name);
  const std::size_t step = bytes.size() / 60 + 1;
  for (std::size_t size = 0; size < bytes.size(); size += step) {
    const auto image = DecodeRgb(std::string_view(bytes).substr(0, size), 1 << 20);
    if (image.ok()) {
      EXPECT_TRUE(ReadImageHeader(std::string_view(bytes).substr(0, size), 1 << 20).ok());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenTest, ::testing::ValuesIn(ReadManifest()),
                         [](const ::testing::TestParamInfo<Golden>& test) {
                           std::string name = test.param.name;
                           for (char& c : name) {
                             if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
                           }
                           return name;
                         });

TEST(Preprocess, ManifestIsThere) { EXPECT_GT(ReadManifest().size(), 40U); }

TEST(Preprocess, WhatIsNoImageIsInvalidArgumentAndSaysWhatCame) {
  const auto nothing = DecodeRgb("", kPillowMaxPixels);
  EXPECT_EQ(nothing.status().code(), absl::StatusCode::kInvalidArgument);
  const auto text = DecodeRgb("hello", kPillowMaxPixels);
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(text.status().message().find("68 65 6c 6c 6f"), absl::string_view::npos);
}

TEST(Preprocess, WhatIsTakenForAnImageIsNamedWithWhatToDo) {
  using std::string_literals::operator""s;
  const auto error = [](const std::string& bytes) {
    const auto image = DecodeRgb(bytes, kPillowMaxPixels);
    return image.ok() ? "decoded" : std::string(image.status().message());
  };
  const std::string rest(100, '\0');
  for (const std::string& heic : {"\0\0\0\x18"
                                  "ftypheic\0\0\0\0mif1heic"s,
                                  "\0\0\0\x1c"
                                  "ftypmif1\0\0\0\0mif1miafheix"s,
                                  "\0\0\0\x14"
                                  "ftyphevc\0\0\0\0msf1"s}) {
    EXPECT_NE(error(heic + rest).find("HEIC, as iPhones write it"), std::string::npos)
        << error(heic + rest);
    EXPECT_EQ(error(heic.substr(0, 11)).find("HEIC"), std::string::npos);
  }
  EXPECT_EQ(error("\0\0\0\x1c"
                  "ftypmif1\0\0\0\0heicavif"s +
                  rest)
                .find("HEIC"),
            std::string::npos);
  EXPECT_NE(error("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
                .find("`git lfs pull`"),
            std::string::npos);
  EXPECT_NE(error("%PDF-1.7 ").find("a PDF"), std::string::npos);
  EXPECT_NE(error("<svg xmlns=\"http://www.w3.org/2000/svg\"/>").find("SVG"), std::string::npos);
}

TEST(Preprocess, MorePixelsThanTheLimitAreRefusedFromTheHeader) {
  const std::string bytes = Load("rgb8.png");  // 23 x 17
  EXPECT_TRUE(ReadImageHeader(bytes, 391).ok());
  const auto header = ReadImageHeader(bytes, 390);
  EXPECT_EQ(header.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(header.status().message().find("23x17"), absl::string_view::npos);
  EXPECT_FALSE(DecodeRgb(bytes, 390).ok());
}

TEST(Preprocess, WhyAnImageIsRefusedTravelsWithTheError) {
  const auto reason = [](const absl::Status& status) {
    return std::string(status.GetPayload("siglip.image_refused").value_or(absl::Cord("none")));
  };
  EXPECT_EQ(reason(ReadImageHeader("", kPillowMaxPixels).status()), "empty");
  EXPECT_EQ(reason(DecodeRgb("hello", kPillowMaxPixels).status()), "unknown_format");
  EXPECT_EQ(reason(ReadImageHeader(Load("rgb8.png"), 390).status()), "too_large");
  std::vector<float> pixels(3 * kSize * kSize);
  const Preprocessor preprocessor(Options(Resample::kBicubic, PillowVersion::k13));
  EXPECT_EQ(
      reason(preprocessor.Preprocess(Load("short_data.png").substr(0, 60), pixels.data()).status()),
      "damaged");
  StageTimes times;
  EXPECT_TRUE(preprocessor.Preprocess(Load("rgb8.png"), pixels.data(), times).ok());
  EXPECT_GT(times.decode_ns, 0);
  EXPECT_GT(times.resize_ns, 0);
  EXPECT_GT(times.normalize_ns, 0);
}

TEST(Preprocess, FailureLeavesThePixelsAlone) {
  std::vector<float> pixels(3 * kSize * kSize, 42.0F);
  const Preprocessor preprocessor(Options(Resample::kBicubic, PillowVersion::k13));
  EXPECT_FALSE(preprocessor.Preprocess(Load("short_data.png").substr(0, 60), pixels.data()).ok());
  for (const float pixel : pixels) EXPECT_EQ(pixel, 42.0F);
}

TEST(Preprocess, ErrorsAreOneLine) {
  EXPECT_EQ(BadImage("TIFF", "factors 1,3\nshould be\t1,1\x7f").message(),
            "TIFF: factors 1,3 should be 1,1 ");
}

TEST(Preprocess, NamesItsCodecs) {
  EXPECT_NE(CodecVersions().find("libjpeg-turbo"), std::string::npos);
}

}  // namespace
}  // namespace siglip
