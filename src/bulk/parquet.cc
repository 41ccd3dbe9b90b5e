#include "bulk/parquet.h"

#include <dlfcn.h>

#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "bulk/parquet_module.h"

namespace siglip::bulk {
namespace {

constexpr char kModule[] = "libsiglip_parquet.so";

// From the program's folder; CMake says where `cmake --install` puts both.
constexpr char kInstalledLibraries[] = SIGLIP_INSTALLED_LIBRARIES;

// Beside the program, where its libraries are installed, and in the build's folder beside the
// program's: no path of the machine that built it.
std::vector<std::string> Places() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return {};
  const std::filesystem::path folder = program.parent_path();
  return {(folder / kModule).string(),
          (folder / kInstalledLibraries / kModule).lexically_normal().string(),
          (folder.parent_path() / "bulk" / kModule).string()};
}

// The module stays loaded; loading it again only counts.
absl::StatusOr<const ParquetFunctions*> Load() {
  std::error_code error;
  for (const std::string& place : Places()) {
    if (!std::filesystem::exists(place, error)) continue;
    void* const module = ::dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) {
      return absl::UnimplementedError(absl::StrCat("Parquet cannot be loaded: ", ::dlerror()));
    }
    const auto entry = reinterpret_cast<ParquetEntry>(::dlsym(module, kParquetEntry));
    if (entry != nullptr) return entry();
    return absl::UnimplementedError(absl::StrCat(place, ": expected ", kParquetEntry, " in it"));
  }
  return absl::UnimplementedError(absl::StrCat(
      "Parquet is not there: found no ", absl::StrJoin(Places(), ", "),
      ", which is built where Apache Arrow is found (tools/setup/install.sh venv arrow, then "
      "configure, build and install again)"));
}

}  // namespace

std::string ParquetVersion() {
  const auto functions = Load();
  return functions.ok() ? (*functions)->version() : "not built in";
}

absl::Status ParquetIsBuiltIn() { return Load().status(); }

absl::StatusOr<std::unique_ptr<Archive>> OpenParquet(const std::string& path,
                                                     const ParquetColumns& columns) {
  const auto functions = Load();
  if (functions.ok()) return (*functions)->open(path, columns);
  return absl::UnimplementedError(absl::StrCat(path, ": ", functions.status().message()));
}

absl::Status WriteParquet(const ParquetTable& table, const std::string& path) {
  const auto functions = Load();
  if (functions.ok()) return (*functions)->write(table, path);
  return absl::UnimplementedError(absl::StrCat(path, ": ", functions.status().message()));
}

}  // namespace siglip::bulk
