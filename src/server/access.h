#pragma once

// Which parts of the protocol a client may use only with a secret header, and which headers become
// request parameters.

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "serving/request.h"

namespace siglip {

enum class Api {
  kHealth,
  kMetadata,
  kInference,
  kSharedMemory,
  kModelConfig,
  kModelRepository,
  kStatistics,
  kTrace,
  kLogging,
};

// A row of a handler's route table.
struct RouteRow {
  std::string_view method = {};  // empty = GET and POST
  std::string_view path = {};    // {names} stand for a segment that clients choose
  std::optional<Api> api =
      {};  // the part that it belongs to; nothing = none, it is never restricted
};

// What a route that reads no body takes of one all the same: some clients send {} along.
inline constexpr std::size_t kUnreadBodyBytes = 4096;

// Whether requests that fit `row` say something in their bodies.
constexpr bool ReadsBody(const RouteRow& row) { return row.method != "GET"; }

// Thread-safe after Parse.
class RestrictedApis {
 public:
  struct Rule {
    std::string header;
    std::string value;
  };
  // Each text is "api,api:header=value", with Triton's names of the parts. `prefix` is put before
  // every header's name. InvalidArgument names the text, without the value.
  static absl::StatusOr<RestrictedApis> Parse(const std::vector<std::string>& texts,
                                              std::string_view prefix);

  bool empty() const { return rules_.empty(); }
  // The header that `api` needs; null if it is open.
  const Rule* RuleOf(Api api) const;
  // Whether `given` is the rule's value. Takes the same time however much of it is right.
  static bool Matches(const Rule& rule, std::string_view given);

 private:
  std::map<Api, Rule> rules_;
};

// Which header names are forwarded: an ECMAScript expression that is found in the name, whatever
// its case. Credentials ("authorization", "proxy-authorization", "cookie") are never forwarded.
// Thread-safe after Parse.
class HeaderForwarding {
 public:
  // Empty = none.
  static absl::StatusOr<HeaderForwarding> Parse(const std::string& pattern);

  bool empty() const { return !pattern_; }
  // Adds the header as a string parameter if it is to be forwarded. A parameter of the request's
  // own stays.
  void Forward(std::string_view name, std::string_view value, Parameters& parameters) const;

 private:
  std::optional<std::regex> pattern_;
};

}  // namespace siglip
