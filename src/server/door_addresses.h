#pragma once

// Where the doors listen, as the operator says it. Private to this folder.

#include <string_view>

#include <boost/asio/ip/address.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/options.h"

namespace siglip {

// "127.0.0.1", "::1" or "[::1]". InvalidArgument names `door` and quotes the text.
absl::StatusOr<boost::asio::ip::address> ParseAddress(std::string_view door, std::string_view text);

// InvalidArgument unless a door is allowed, every allowed door has an address (of gRPC a name that
// resolves is one, too), and no two of them listen on one port. Port 0 is a port of its own.
absl::Status CheckDoorAddresses(const ServerOptions& options);

}  // namespace siglip
