#pragma once

// Where a command will write, looked at before it computes for hours.

#include <span>
#include <string>

#include "absl/status/status.h"
#include "bulk/names.h"

namespace siglip::cli {

// `outputs`: files that will be replaced; "" is none. InvalidArgument if one is "-" or a folder,
// lies in no folder, or is another of them, one of `lists` or one of `inputs`: what it holds would
// be lost. Symlinks are followed. Another error if one cannot be written now.
absl::Status CheckOutputPlaces(std::span<const std::string> outputs,
                               std::span<const std::string> lists, const bulk::NameList& inputs);

// `path`: a folder for files, made if it is not there; "" is none. InvalidArgument if it is
// something else, or lies in no folder.
absl::Status CheckOutputFolder(const std::string& path);

}  // namespace siglip::cli
