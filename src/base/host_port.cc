#include "base/host_port.h"

#include <arpa/inet.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/checked_math.h"

namespace siglip {
namespace {

bool HasColon(std::string_view text) { return text.find(':') != std::string_view::npos; }

bool IsIpv6(std::string_view text) {
  // What follows '%' names an interface.
  const std::string address(text.substr(0, text.find('%')));
  in6_addr ignored;
  return ::inet_pton(AF_INET6, address.c_str(), &ignored) == 1;
}

// A colon or a slash would be part of something else: of a URL, mostly.
bool IsHost(std::string_view host) {
  if (host.empty() || host.find_first_of("/[]@ ") != std::string_view::npos) return false;
  return !HasColon(host) || IsIpv6(host);
}

}  // namespace

std::string_view WithoutBrackets(std::string_view host) {
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  return bracketed ? host.substr(1, host.size() - 2) : host;
}

std::string JoinHostPort(std::string_view host, std::uint16_t port) {
  const std::string bare(WithoutBrackets(host));
  return HasColon(bare) ? absl::StrCat("[", bare, "]:", port) : absl::StrCat(bare, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon != std::string_view::npos) {
    const std::string_view host = WithoutBrackets(text.substr(0, colon));
    const auto port = ParseInt<std::uint16_t>(text.substr(colon + 1));
    if (IsHost(host) && port) return HostPort{std::string(host), *port};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("expected HOST:PORT, got '", std::string(text), "'"));
}

}  // namespace siglip
