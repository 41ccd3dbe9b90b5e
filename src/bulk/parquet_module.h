#pragma once

// What the Parquet module, a shared library of its own, gives to the program. Arrow's libraries
// carry an OpenSSL whose symbols they export: linked into the program they would take the place of
// the system's. Loaded as a local module they cannot.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bulk/archive.h"
#include "bulk/parquet.h"

namespace siglip::bulk {

struct ParquetFunctions {
  std::string (*version)();
  absl::StatusOr<std::unique_ptr<Archive>> (*open)(const std::string& path,
                                                   const ParquetColumns& columns);
  absl::Status (*write)(const ParquetTable& table, const std::string& path);
};

// Name and type of the module's only entry.
inline constexpr char kParquetEntry[] = "siglip_parquet_functions";
using ParquetEntry = const ParquetFunctions* (*)();

}  // namespace siglip::bulk
