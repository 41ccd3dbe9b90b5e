#pragma once

#include <string>

namespace siglip::cli {

// "0.1.0".
std::string VersionNumber();

// Version, commit, compiler, instruction sets, codec libraries, Parquet: what numbers and pixels
// depend on.
std::string VersionText();

}  // namespace siglip::cli
