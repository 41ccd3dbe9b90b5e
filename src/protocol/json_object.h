#pragma once

// Small JSON bodies of requests.

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "protocol/json_keys.h"
#include "protocol/text.h"

namespace siglip {

// Keys and values of a small body together: each costs far more memory than its bytes, and to an
// ordered_json time for each key before it.
inline constexpr int kMaxJsonParts = 20'000;

// An object that nests no deeper than `max_depth`, has at most kMaxJsonParts, and no key twice in
// one object. Json: nlohmann::json, or ordered_json to keep the fields' order. InvalidArgument says
// that `expected` was expected, or which key is there twice.
template <class Json>
absl::StatusOr<Json> ParseJsonObject(std::string_view body, int max_depth,
                                     std::string_view expected) {
  bool deep = false;
  int parts = 0;
  std::vector<JsonKeys> keys;  // of the objects that are open
  absl::Status twice;
  Json json = Json::parse(
      body.begin(), body.end(),
      [&](int depth, typename Json::parse_event_t event, Json& value) {
        using Event = typename Json::parse_event_t;
        deep = deep || depth > max_depth;
        if (event == Event::object_start) keys.emplace_back();
        if (event == Event::object_end) keys.pop_back();
        if (event == Event::key && twice.ok()) {
          twice = keys.back().Add(value.template get_ref<const std::string&>());
        }
        if (event != Event::object_end && event != Event::array_end) ++parts;
        return !deep && parts <= kMaxJsonParts;
      },
      false);
  if (!deep && parts > kMaxJsonParts) {
    return absl::InvalidArgumentError(
        Concat(kBrokenJson, ": expected at most ", kMaxJsonParts, " keys and values"));
  }
  if (!twice.ok() && !deep && !json.is_discarded()) return twice;
  if (deep || json.is_discarded() || !json.is_object()) {
    return absl::InvalidArgumentError(
        Concat(kBrokenJson, ": expected ", expected, ", without deep nesting"));
  }
  return json;
}

}  // namespace siglip
