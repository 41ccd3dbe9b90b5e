#pragma once

// Keys given twice in one object of a request's JSON. Of the two values either may count, as a
// reader of the JSON likes: neither does.

#include <functional>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "base/log.h"
#include "protocol/text.h"

namespace siglip {

inline absl::Status GivenTwice(std::string_view key) {
  return absl::InvalidArgumentError(
      Concat("'", LogSafe(key), "' is given twice in the request JSON"));
}

// The keys of one object so far.
class JsonKeys {
 public:
  // GivenTwice, if the key is there.
  absl::Status Add(std::string_view key) {
    return seen_.emplace(key).second ? absl::OkStatus() : GivenTwice(key);
  }
  bool contains(std::string_view key) const { return seen_.contains(key); }

 private:
  std::set<std::string, std::less<>> seen_;
};

}  // namespace siglip
