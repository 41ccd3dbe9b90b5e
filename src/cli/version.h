#pragma once

#include <string>

namespace siglip::cli {

// "0.1.0".
std::string VersionNumber();
// Of the sources, in 12 hexadecimal digits; "unknown" if the build had no history beside it.
std::string VersionCommit();

// Version, commit, compiler, instruction sets, codec libraries, Parquet: what numbers and pixels
// depend on.
std::string VersionText();

}  // namespace siglip::cli
