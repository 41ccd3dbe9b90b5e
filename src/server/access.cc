#include "server/access.h"

#include <algorithm>

#include "protocol/text.h"

namespace siglip {
namespace {

constexpr std::pair<std::string_view, Api> kApiNames[] = {
    {"health", Api::kHealth},
    {"metadata", Api::kMetadata},
    {"inference", Api::kInference},
    {"shared-memory", Api::kSharedMemory},
    {"model-config", Api::kModelConfig},
    {"model-repository", Api::kModelRepository},
    {"statistics", Api::kStatistics},
    {"trace", Api::kTrace},
    {"logging", Api::kLogging},
};

// std::regex recurses once per character.
constexpr std::size_t kMaxNameBytes = 256;

constexpr std::string_view kCredentials[] = {"authorization", "proxy-authorization", "cookie"};

// The text without its secret.
std::string_view BeforeValue(std::string_view text) { return text.substr(0, text.find('=')); }

}  // namespace

absl::StatusOr<RestrictedApis> RestrictedApis::Parse(const std::vector<std::string>& texts,
                                                     std::string_view prefix) {
  RestrictedApis apis;
  for (const std::string& text : texts) {
    std::string_view left = text;
    std::string_view names = NextPart(left, ':');
    const std::string_view header = NextPart(left, '=');
    if (names.empty() || header.empty() || left.empty()) {
      return absl::InvalidArgumentError(Concat("restricted API '", BeforeValue(text),
                                               "': expected <api>,<api>:<header>=<value>"));
    }
    while (!names.empty()) {
      const std::string_view name = Stripped(NextPart(names, ','));
      const auto* known = std::find_if(std::begin(kApiNames), std::end(kApiNames),
                                       [name](const auto& row) { return row.first == name; });
      if (known == std::end(kApiNames)) {
        return absl::InvalidArgumentError(
            Concat("restricted API '", BeforeValue(text),
                   "': expected health, metadata, inference, shared-memory, model-config, "
                   "model-repository, statistics, trace or logging, got '",
                   name, "'"));
      }
      const Rule rule{Concat(prefix, header), std::string(left)};
      if (!apis.rules_.emplace(known->second, rule).second) {
        return absl::InvalidArgumentError(
            Concat("restricted API '", name, "': expected once, got twice"));
      }
    }
  }
  return apis;
}

const RestrictedApis::Rule* RestrictedApis::RuleOf(Api api) const {
  const auto found = rules_.find(api);
  return found == rules_.end() ? nullptr : &found->second;
}

bool RestrictedApis::Matches(const Rule& rule, std::string_view given) {
  unsigned char difference = given.size() == rule.value.size() ? 0 : 1;
  for (std::size_t i = 0; i < given.size(); ++i) {
    const char expected = rule.value[i % rule.value.size()];
    difference = static_cast<unsigned char>(difference | (given[i] ^ expected));
  }
  return difference == 0;
}

absl::StatusOr<HeaderForwarding> HeaderForwarding::Parse(const std::string& pattern) {
  HeaderForwarding forwarding;
  if (pattern.empty()) return forwarding;
  try {
    forwarding.pattern_.emplace(pattern, std::regex::ECMAScript | std::regex::icase);
  } catch (const std::regex_error& error) {
    return absl::InvalidArgumentError(
        Concat("header forward pattern '", pattern, "': ", error.what()));
  }
  return forwarding;
}

void HeaderForwarding::Forward(std::string_view name, std::string_view value,
                               Parameters& parameters) const {
  if (!pattern_ || name.size() > kMaxNameBytes) return;
  for (const std::string_view credentials : kCredentials) {
    if (EqualsIgnoreCase(name, credentials)) return;
  }
  try {
    if (!std::regex_search(name.begin(), name.end(), *pattern_)) return;
  } catch (const std::regex_error&) {
    return;  // too complex for this name
  }
  parameters.emplace(std::string(name), std::string(value));
}

}  // namespace siglip
