#pragma once

// Where the doors listen, as the operator says it. Private to this folder.

#include <sys/socket.h>

#include <cstdint>
#include <string_view>

#include <boost/asio/detail/socket_option.hpp>
#include <boost/asio/ip/address.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/options.h"

namespace siglip {

// Of a socket before it is bound: other servers may have its port too.
using ReusePort = boost::asio::detail::socket_option::boolean<SOL_SOCKET, SO_REUSEPORT>;

// "127.0.0.1", "::1" or "[::1]". InvalidArgument names `door` and quotes the text.
absl::StatusOr<boost::asio::ip::address> ParseAddress(std::string_view door, std::string_view text);

// InvalidArgument unless a door is allowed, every allowed door has an address (of gRPC a name that
// resolves is one, too), and no two of them listen on one port. Port 0 is a port of its own.
absl::Status CheckDoorAddresses(const ServerOptions& options);

// Unavailable, CannotListen, if an allowed door cannot listen now: another program does, the port
// takes a right, the address is none of this machine's. What listening says later counts.
absl::Status CheckPortsAreFree(const ServerOptions& options);

// Unavailable: door, port, address as the operator says it, the system's reason.
absl::Status CannotListen(std::string_view door, std::uint16_t port, std::string_view address,
                          std::string_view reason);

}  // namespace siglip
