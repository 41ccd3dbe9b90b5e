#pragma once

// Small JSON bodies of requests.

#include <string_view>

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "protocol/text.h"

namespace siglip {

// Keys and values of a small body together: each costs far more memory than its bytes, and to an
// ordered_json time for each key before it.
inline constexpr int kMaxJsonParts = 20'000;

// An object that nests no deeper than `max_depth` and has at most kMaxJsonParts. Json:
// nlohmann::json, or ordered_json to keep the fields' order. InvalidArgument says that `expected`
// was expected.
template <class Json>
absl::StatusOr<Json> ParseJsonObject(std::string_view body, int max_depth,
                                     std::string_view expected) {
  bool deep = false;
  int parts = 0;
  Json json = Json::parse(
      body.begin(), body.end(),
      [&](int depth, typename Json::parse_event_t event, Json&) {
        using Event = typename Json::parse_event_t;
        deep = deep || depth > max_depth;
        if (event != Event::object_end && event != Event::array_end) ++parts;
        return !deep && parts <= kMaxJsonParts;
      },
      false);
  if (!deep && parts > kMaxJsonParts) {
    return absl::InvalidArgumentError(
        Concat(kBrokenJson, ": expected at most ", kMaxJsonParts, " keys and values"));
  }
  if (deep || json.is_discarded() || !json.is_object()) {
    return absl::InvalidArgumentError(
        Concat(kBrokenJson, ": expected ", expected, ", without deep nesting"));
  }
  return json;
}

}  // namespace siglip
