#pragma once

// Small JSON bodies of requests.

#include <string_view>

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "protocol/text.h"

namespace siglip {

// An object that nests no deeper than `max_depth`. Json: nlohmann::json, or ordered_json to keep
// the fields' order. InvalidArgument says that `expected` was expected.
template <class Json>
absl::StatusOr<Json> ParseJsonObject(std::string_view body, int max_depth,
                                     std::string_view expected) {
  bool deep = false;
  Json json = Json::parse(
      body.begin(), body.end(),
      [&deep, max_depth](int depth, typename Json::parse_event_t, Json&) {
        deep = deep || depth > max_depth;
        return !deep;
      },
      false);
  if (deep || json.is_discarded() || !json.is_object()) {
    return absl::InvalidArgumentError(Concat("failed to parse the request JSON buffer: expected ",
                                             expected, ", without deep nesting"));
  }
  return json;
}

}  // namespace siglip
