#include "bulk/embedded_rows.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "bulk/half.h"
#include "bulk/output.h"

namespace siglip::bulk {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class EmbeddedRowsTest : public testing::Test {
 protected:
  EmbeddedRowsTest() : folder_(testing::TempDir() + "embedded_rows_test/") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~EmbeddedRowsTest() override { fs::remove_all(folder_); }

  // `images` pictures with rows [number, 0.5] from `first` on, and a text.
  std::string Write(const char* name, int first, int images, const char* dtype = "float32",
                    const char* checkpoint = "abc") {
    const std::string path = folder_ + name;
    const bool half = std::string_view(dtype) == "float16";
    auto output = Output::Open(
        {.path = path,
         .failures_path = "",
         .width = 2,
         .dtype = half ? DType::kFloat16 : DType::kFloat32},
        {{"dtype", dtype}, {"embedding_size", 2}, {"checkpoint_sha256", checkpoint}}, {});
    EXPECT_TRUE(output.ok()) << output.status();
    for (int i = first; i < first + images; ++i) {
      const std::vector<float> row = {static_cast<float>(i), 0.5f};
      EXPECT_TRUE((*output)->AddRow(Item::Kind::kImage, absl::StrCat("p/", i, "\".png"), row).ok());
    }
    EXPECT_TRUE((*output)->AddRow(Item::Kind::kText, "text", std::vector<float>{9, 9}).ok());
    EXPECT_TRUE((*output)->Finish().ok());
    return path;
  }
  static std::string ErrorOf(const std::string& path) {
    const auto rows = EmbeddedRows::Open(path);
    return rows.ok() ? "" : std::string(rows.status().message());
  }

  const std::string folder_;
};

TEST_F(EmbeddedRowsTest, PicturesOfOneFileWithoutItsTexts) {
  const auto rows = EmbeddedRows::Open(Write("a.npy", 0, 3));
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ((*rows)->rows(), 3);
  EXPECT_EQ((*rows)->width(), 2);
  EXPECT_EQ((*rows)->checkpoint(), "abc");
  EXPECT_EQ((*rows)->name(2), "p/2\".png");
  std::vector<float> out(4);
  (*rows)->Read(1, 2, out.data());
  EXPECT_THAT(out, ElementsAre(1, 0.5f, 2, 0.5f));
}

TEST_F(EmbeddedRowsTest, AFolderIsItsFilesInOrderWhateverTheirNumbers) {
  Write("b.npy", 3, 4, "float16");
  Write("a.npy", 0, 3);
  Write("c.npy", 7, 0);
  Write("d.npy", 7, 1);
  const auto rows = EmbeddedRows::Open(folder_);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ((*rows)->rows(), 8);
  for (int first = 0; first < 8; ++first) {
    for (int count = 0; first + count <= 8; ++count) {
      std::vector<float> out(static_cast<std::size_t>(2 * count) + 1, -1.0f);
      (*rows)->Read(first, count, out.data());
      for (int i = 0; i < count; ++i) {
        EXPECT_EQ(out[static_cast<std::size_t>(2 * i)], static_cast<float>(first + i));
        EXPECT_EQ(out[static_cast<std::size_t>(2 * i) + 1], 0.5f);
      }
      const float* const floats = (*rows)->Floats(first, count);
      const std::uint16_t* const halves = (*rows)->Halves(first, count);
      ASSERT_EQ(halves != nullptr, first >= 3 && first < 7 && first + count <= 7)
          << first << ", " << count;
      for (int i = 0; halves != nullptr && i < 2 * count; ++i) {
        EXPECT_EQ(FloatOfHalf(halves[i]), out[static_cast<std::size_t>(i)]);
      }
      const bool one_float_file = (first < 3 && first + count <= 3) || first == 7;
      ASSERT_EQ(floats != nullptr, one_float_file) << first << ", " << count;
      if (one_float_file) {
        EXPECT_EQ(std::vector<float>(floats, floats + 2 * count),
                  std::vector<float>(out.begin(), out.end() - 1));
      }
      EXPECT_EQ(out.back(), -1.0f);
    }
    EXPECT_EQ((*rows)->name(first), absl::StrCat("p/", first, "\".png"));
  }
}

TEST_F(EmbeddedRowsTest, AFileThatAFolderHasUnderManyNamesIsReadOnce) {
  Write("b.npy", 0, 3);
  fs::create_symlink("b.npy", folder_ + "a.npy");
  fs::create_symlink(folder_ + "a.npy", folder_ + "c.npy");
  fs::create_hard_link(folder_ + "b.npy", folder_ + "d.npy");
  Write("e.npy", 3, 1);
  const auto rows = EmbeddedRows::Open(folder_);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ((*rows)->rows(), 4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ((*rows)->name(i), absl::StrCat("p/", i, "\".png"));
}

TEST_F(EmbeddedRowsTest, WhatIsMissingOrOtherIsNamed) {
  EXPECT_THAT(ErrorOf(folder_), HasSubstr("expected .npy files"));
  EXPECT_THAT(ErrorOf(folder_ + "x.npy"), HasSubstr("x.npy"));
  Write("a.npy", 0, 3);
  fs::rename(folder_ + "a.npy.meta.json", folder_ + "kept");
  EXPECT_THAT(ErrorOf(folder_), HasSubstr("a.npy.meta.json"));
  fs::rename(folder_ + "kept", folder_ + "a.npy.meta.json");
  fs::copy_file(folder_ + "a.npy", folder_ + "a.parquet");
  EXPECT_THAT(ErrorOf(folder_ + "a.parquet"), HasSubstr("expected a .npy file"));
  Write("b.npy", 0, 1, "float32", "def");
  EXPECT_THAT(ErrorOf(folder_), HasSubstr("expected rows of the same checkpoint"));
  EXPECT_THAT(ErrorOf(Write("none.npy", 0, 0)), HasSubstr("expected pictures, got none"));
}

TEST_F(EmbeddedRowsTest, PixelSettingsOfTheFilesEachOnce) {
  const auto write = [this](const char* name, const char* settings) {
    const std::string meta = absl::StrCat(
        R"({"dtype":"float32","embedding_size":2,"images":1,"texts":1,"checkpoint_sha256":"abc")",
        settings, "}");
    ASSERT_TRUE(WriteFileAtomically(Write(name, 0, 1) + ".meta.json", meta).ok());
  };
  write("a.npy", "");
  write("b.npy", R"(,"pillow":13,"max_patches":256)");
  write("c.npy", R"(,"pillow":12,"max_patches":256)");
  write("d.npy", R"(,"pillow":13,"max_patches":256)");
  EXPECT_EQ((*EmbeddedRows::Open(folder_))->pixels(),
            (std::vector<PixelSettings>{{0, 0}, {13, 256}, {12, 256}}));
}

TEST_F(EmbeddedRowsTest, DamagedFilesAreNamed) {
  const std::string path = Write("a.npy", 0, 3);
  const std::string meta = ReadFile(path + ".meta.json", 1 << 20).value_or("");
  for (const char* damaged :
       {"", "[]", "{}", R"({"dtype":"float32","embedding_size":2,"images":3,"texts":1})",
        R"({"dtype":"int8","embedding_size":2,"images":3,"texts":1,"checkpoint_sha256":"a"})",
        R"({"dtype":"float32","embedding_size":-2,"images":3,"texts":1,"checkpoint_sha256":"a"})",
        R"({"dtype":"float32","embedding_size":2,"images":1e9,"texts":1,"checkpoint_sha256":"a"})",
        R"({"dtype":1,"embedding_size":2,"images":3,"texts":1,"checkpoint_sha256":"a"})"}) {
    ASSERT_TRUE(WriteFileAtomically(path + ".meta.json", damaged).ok());
    EXPECT_THAT(ErrorOf(path), HasSubstr(".meta.json: expected what")) << damaged;
  }
  const std::string deep = std::string(500'000, '[') + std::string(500'000, ']');
  ASSERT_TRUE(
      WriteFileAtomically(path + ".meta.json", R"({"embedding_size":2,"images":3,"texts":1,)"
                                               R"("checkpoint_sha256":"a","dtype":)" +
                                                   deep + "}")
          .ok());
  EXPECT_THAT(ErrorOf(path), HasSubstr(".meta.json: expected what"));
  for (const char* other :
       {R"({"dtype":"float32","embedding_size":2,"images":4,"texts":1,"checkpoint_sha256":"a"})",
        R"({"dtype":"float16","embedding_size":4,"images":3,"texts":1,"checkpoint_sha256":"a"})"}) {
    ASSERT_TRUE(WriteFileAtomically(path + ".meta.json", other).ok());
    EXPECT_THAT(ErrorOf(path), HasSubstr("as its .meta.json says")) << other;
  }
  ASSERT_TRUE(WriteFileAtomically(path + ".meta.json", meta).ok());
  // As numpy.save writes columns one after the other.
  const std::string rows = ReadFile(path, 1 << 20).value_or("");
  std::string columns = rows;
  columns.replace(columns.find("False, "), 7, "True,  ");
  ASSERT_TRUE(WriteFileAtomically(path, columns).ok());
  EXPECT_THAT(ErrorOf(path),
              HasSubstr("expected {'descr': '<f4', 'fortran_order': False, 'shape': (4, 2), } in"));
  EXPECT_THAT(ErrorOf(path), HasSubstr("got {'descr': '<f4', 'fortran_order': True,  'shape'"));
  ASSERT_TRUE(WriteFileAtomically(path, "no rows").ok());
  EXPECT_THAT(ErrorOf(path), HasSubstr("got no head of .npy in 7 bytes"));
  ASSERT_TRUE(WriteFileAtomically(path, rows).ok());
  ASSERT_TRUE(WriteFileAtomically(path + ".names.txt", "\"a\"\n\"b\"\nc\n\"d\"\n").ok());
  EXPECT_THAT(ErrorOf(path), HasSubstr("names.txt: line 3: expected a JSON string"));
  ASSERT_TRUE(WriteFileAtomically(path + ".names.txt", "\"a\"\n\"b\"\n\"c\"\n").ok());
  EXPECT_THAT(ErrorOf(path), HasSubstr("expected 4 names, as many as rows, got 3"));
}

TEST_F(EmbeddedRowsTest, NamesOfAnotherJobAreRefusedIfTheMetaDataTell) {
  const std::string path = Write("a.npy", 0, 3);
  fs::copy_file(Write("other.npy", 5, 3) + ".names.txt", path + ".names.txt",
                fs::copy_options::overwrite_existing);
  EXPECT_THAT(ErrorOf(path), HasSubstr("a.npy.names.txt: expected the names"));
  auto meta = nlohmann::json::parse(ReadFile(path + ".meta.json", 1 << 20).value_or(""));
  meta.erase("names_sha256");  // of an earlier version
  ASSERT_TRUE(WriteFileAtomically(path + ".meta.json", meta.dump()).ok());
  EXPECT_EQ(ErrorOf(path), "");
}

}  // namespace
}  // namespace siglip::bulk
