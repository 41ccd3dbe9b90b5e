#pragma once

// Writing a Parquet table. Reading one is OpenParquet in bulk/archive.h. Both are in a module that
// is loaded when it is first used, and built if CMake finds Apache Arrow (bulk/parquet_module.h).

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace siglip::bulk {

// "Arrow 26.0.1", or "not built in".
std::string ParquetVersion();
// Unimplemented, with the reason, if not.
absl::Status ParquetIsBuiltIn();

// A table that lies in two files: rows as raw float32 or float16, one JSON string per line as
// names.
struct ParquetTable {
  std::string rows_path;
  std::uint64_t rows_offset = 0;  // of the first row
  std::string names_path;
  std::uint64_t num_rows = 0;
  std::uint64_t num_image_rows = 0;  // the first so many are images, the others texts
  std::int64_t width = 0;            // D
  bool half = false;                 // float16
  std::vector<std::pair<std::string, std::string>> metadata;  // of the file
};

// Columns name (string), kind (string: "image" or "text"), embedding (fixed-size list of D float or
// halffloat). Equal input gives equal bytes. Holds one row group in memory. `path` is replaced, and
// complete and flushed when ok is returned. Unimplemented if Parquet is not built in.
absl::Status WriteParquet(const ParquetTable& table, const std::string& path);

}  // namespace siglip::bulk
