// Without Apache Arrow: every use says so.

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "bulk/archive.h"
#include "bulk/parquet.h"

namespace siglip::bulk {
namespace {

absl::Status NotBuiltIn(const std::string& path) {
  return absl::UnimplementedError(
      absl::StrCat(path,
                   ": Parquet is not built in: this siglip was configured without Apache "
                   "Arrow (tools/setup/install.sh venv arrow, then configure again)"));
}

}  // namespace

std::string ParquetVersion() { return "not built in"; }
bool ParquetIsBuiltIn() { return false; }

absl::StatusOr<std::unique_ptr<Archive>> OpenParquet(const std::string& path,
                                                     const ParquetColumns&) {
  return NotBuiltIn(path);
}

absl::Status WriteParquet(const ParquetTable&, const std::string& path) { return NotBuiltIn(path); }

}  // namespace siglip::bulk
