#pragma once

// The JSON files of a snapshot folder, read strictly: UTF-8, no duplicate keys, bounded depth and
// size.

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"

namespace siglip {

// The parsed text. InvalidArgument names `source`, the byte offset and what is wrong there.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text, const std::string& source);

// Reads and parses a file. NotFound if it is not there; InvalidArgument above `max_bytes`.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, std::uint64_t max_bytes);

}  // namespace siglip
