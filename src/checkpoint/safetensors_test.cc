#include "checkpoint/safetensors.h"

#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using testing::HasSubstr;

// A file of the format: length, header, data.
std::string Container(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  return file + header + std::string(data_bytes, '\1');
}

std::string Write(const std::string& content) {
  const std::string path = testing::TempDir() + "safetensors_test.safetensors";
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string OpenError(const std::string& content) {
  const auto file = SafetensorsFile::Open(Write(content));
  return file.ok() ? "opened" : std::string(file.status().message());
}

TEST(SafetensorsTest, TensorsAreReadWhereTheirOffsetsSay) {
  const auto file = SafetensorsFile::Open(Write(Container(
      R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},
          "a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},
          "__metadata__":{"format":"pt"}}   )",
      12)));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 2u);
  const StoredTensor& b = file->tensors().at("b");
  EXPECT_EQ(b.dtype, TensorDtype::kF32);
  EXPECT_EQ(b.shape, std::vector<std::int64_t>{2});
  EXPECT_EQ(b.bytes.size(), 8u);
  EXPECT_EQ(b.bytes.data(), file->tensors().at("a").bytes.data() + 4);
  EXPECT_EQ(file->metadata().at("format"), "pt");
}

TEST(SafetensorsTest, ScalarsAndEmptyTensorsAreTensors) {
  const auto file =
      SafetensorsFile::Open(Write(Container(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
                          "e":{"dtype":"F32","shape":[0,3],"data_offsets":[4,4]}})",
                                            4)));
  ASSERT_TRUE(file.ok()) << file.status();
}

// As safetensors 0.8 lists them, and one that it does not know.
TEST(SafetensorsTest, EveryDtypeIsReadAndKeepsItsName) {
  for (const char* dtype :
       {"BOOL", "U8",  "I8",  "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
        "I16",  "U16", "F16", "BF16",    "I32",     "U32",     "F32",         "C64",
        "F64",  "I64", "U64", "F4",      "F6_E2M3", "F6_E3M2", "I4_PACKED"}) {
    const std::string name = dtype;
    const int bits = name == "BOOL" || name.find('8') != std::string::npos ? 8
                     : name.find("16") != std::string::npos                ? 16
                     : name.find("32") != std::string::npos                ? 32
                     : name.find("64") != std::string::npos                ? 64
                     : name.find("F6") != std::string::npos                ? 6
                                                                           : 4;
    const auto file = SafetensorsFile::Open(
        Write(Container("{\"a\":{\"dtype\":\"" + name + "\",\"shape\":[2,4],\"data_offsets\":[0," +
                            std::to_string(bits) + "]}}",
                        static_cast<std::size_t>(bits))));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->tensors().at("a").dtype_name, name);
    EXPECT_EQ(file->tensors().at("a").dtype == TensorDtype::kOther,
              name != "F32" && name != "F16" && name != "BF16");
  }
}

TEST(SafetensorsTest, TruncatedFilesAreRefused) {
  const std::string whole =
      Container(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4);
  EXPECT_EQ(OpenError(whole), "opened");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_NE(OpenError(whole.substr(0, length)), "opened") << length;
  }
  EXPECT_THAT(OpenError(whole + "x"), HasSubstr("holds 5 bytes of data, the tensors cover 4"));
}

TEST(SafetensorsTest, LengthsThatLieAreRefused) {
  std::string huge(8, '\xff');
  EXPECT_THAT(OpenError(huge + "{}"), HasSubstr("at most"));
  const std::uint64_t beyond = 100;
  std::string file(8, '\0');
  std::memcpy(file.data(), &beyond, 8);
  EXPECT_THAT(OpenError(file + "{}"), HasSubstr("truncated"));
}

struct Case {
  const char* law;
  const char* header;
  std::size_t data_bytes;
  const char* message;
};

class BadHeaderTest : public testing::TestWithParam<Case> {};

TEST_P(BadHeaderTest, IsRefusedWithItsReason) {
  EXPECT_THAT(OpenError(Container(GetParam().header, GetParam().data_bytes)),
              HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadHeaderTest,
    testing::Values(
        Case{"NotJson", "{", 0, "not valid JSON"}, Case{"NotAnObject", "[]", 0, "JSON object"},
        Case{"LeadingSpace", " {}", 0, "JSON object"},
        Case{"BrokenUtf8", "{\"\xff\":1}", 0, "not valid JSON"},
        Case{
            "DuplicateKey",
            R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
            4, "duplicate key"},
        Case{"HalfAByte", R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1,
             "[3] of F4 needs 1.5 bytes"},
        Case{"NegativeShape", R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4,
             "shape"},
        Case{"FractionalShape", R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4,
             "shape"},
        Case{
            "WrappingShape",
            R"({"a":{"dtype":"F32","shape":[4194305,4194305,211106198978564],"data_offsets":[0,16]}})",
            16, "too many"},
        Case{"WrongSize", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
             "needs 8"},
        Case{"ReversedOffsets", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4,
             "begin <= end"},
        Case{"OffsetPastEnd", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4,
             "begin <= end <= 4 (truncated?)"},
        Case{"Hole", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "hole"},
        Case{
            "Overlap",
            R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
            8, "overlap"},
        Case{"UnknownField", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4,
             "unknown key"},
        Case{"MissingDtype", R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "dtype"},
        Case{"MetadataNotStrings", R"({"__metadata__":{"a":1}})", 0, "__metadata__"}),
    [](const testing::TestParamInfo<Case>& bad) { return std::string(bad.param.law); });

TEST(SafetensorsTest, DeepNestingIsRefusedWithoutRecursion) {
  std::string header = "{\"a\":";
  header += std::string(1'000'000, '[');
  EXPECT_THAT(OpenError(Container(header, 0)), HasSubstr("nested deeper"));
}

TEST(SafetensorsTest, MissingFileIsNamed) {
  const auto file = SafetensorsFile::Open("/nonexistent/model.safetensors");
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("/nonexistent/model.safetensors"));
}

}  // namespace
}  // namespace siglip
