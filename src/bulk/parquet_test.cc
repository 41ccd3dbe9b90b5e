#include "bulk/parquet.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "bulk/archive.h"

namespace siglip::bulk {
namespace {

// What is written is read by pyarrow, and what pyarrow writes is read, in tests/pytest/arrow.

TEST(ParquetTest, WithoutArrowEveryUseSaysSo) {
  if (ParquetIsBuiltIn().ok()) GTEST_SKIP() << "Parquet is built in";
  const absl::Status status = OpenParquet("a.parquet", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("/libsiglip_parquet.so"), std::string::npos) << status;
  EXPECT_EQ(WriteParquet({}, "a.parquet").code(), absl::StatusCode::kUnimplemented);
}

TEST(ParquetTest, WhatArrowThrowsOrReturnsIsAStatus) {
  if (!ParquetIsBuiltIn().ok()) GTEST_SKIP() << "Parquet is not built in";
  const std::string path = testing::TempDir() + "parquet_test.parquet";
  for (const std::string& content : {std::string(), std::string("PAR1"), std::string(1000, 'x'),
                                     "PAR1" + std::string(100, '\xff') + "PAR1"}) {
    std::ofstream(path, std::ios::binary) << content;
    const auto archive = OpenParquet(path, {});
    ASSERT_FALSE(archive.ok());
    EXPECT_NE(archive.status().message().find(path), std::string::npos) << archive.status();
  }
  std::filesystem::remove(path);
  EXPECT_FALSE(OpenParquet(path, {}).ok());
}

TEST(ParquetTest, MissingRowsAreDataLoss) {
  if (!ParquetIsBuiltIn().ok()) GTEST_SKIP() << "Parquet is not built in";
  const std::string path = testing::TempDir() + "parquet_test";
  std::ofstream(path + ".rows") << "12345678";
  std::ofstream(path + ".names") << "\"a\"\n\"b\"\n";
  ParquetTable table{.rows_path = path + ".rows",
                     .names_path = path + ".names",
                     .num_rows = 2,
                     .num_image_rows = 1,
                     .width = 2,
                     .metadata = {}};
  EXPECT_EQ(WriteParquet(table, path).code(), absl::StatusCode::kDataLoss);
  table.num_rows = 1;
  EXPECT_TRUE(WriteParquet(table, path).ok());
  // The written table has no column of images.
  const auto archive = OpenParquet(path, {});
  EXPECT_EQ(archive.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(archive.status().message().find("embedding"), std::string::npos) << archive.status();
  for (const char* end : {"", ".rows", ".names"}) std::filesystem::remove(path + end);
}

}  // namespace
}  // namespace siglip::bulk
