#pragma once

#include <string>

namespace siglip::cli {

// Version, commit, compiler, instruction sets, codec libraries: what numbers and pixels depend on.
std::string VersionText();

}  // namespace siglip::cli
