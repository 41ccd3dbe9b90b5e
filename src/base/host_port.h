#pragma once

// "HOST:PORT": of names, of IPv4 addresses, and of IPv6 addresses with and without brackets.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace siglip {

struct HostPort {
  std::string host;  // without brackets
  std::uint16_t port = 0;
};

// "::1" of "[::1]"; everything else as it is.
std::string_view WithoutBrackets(std::string_view host);

// "localhost:80", "[::1]:80"; `host` with or without brackets.
std::string JoinHostPort(std::string_view host, std::uint16_t port);

// "localhost:80", "[::1]:80", "::1:80". InvalidArgument quotes the text.
absl::StatusOr<HostPort> ParseHostPort(std::string_view text);

}  // namespace siglip
