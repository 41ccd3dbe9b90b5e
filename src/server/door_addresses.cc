#include "server/door_addresses.h"

#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "base/host_port.h"
#include "base/status_macros.h"
#include "protocol/text.h"

namespace siglip {
namespace {

namespace ip = boost::asio::ip;

struct DoorAddress {
  std::string_view door;
  ip::address address;
  std::uint16_t port = 0;
  std::string_view text;  // of the address, as the operator says it
  bool shared = false;    // with other servers
};

// gRPC takes what resolves, and both families for the wildcard of either.
absl::StatusOr<ip::address> ParseGrpcAddress(const std::string& text) {
  absl::StatusOr<ip::address> address = ParseAddress("grpc", text);
  if (!address.ok()) {
    boost::asio::io_context context;
    boost::system::error_code error;
    const auto found = ip::tcp::resolver(context).resolve(text, "0", error);
    if (!error && !found.empty()) return found.begin()->endpoint().address();
    return address;
  }
  if (address->is_unspecified()) return ip::address_v6::any();
  return address;
}

// Whether listening on `a` takes a port of `b` too.
bool Covers(const ip::address& a, const ip::address& b) {
  return a == b || (a.is_unspecified() && (a.is_v6() || b.is_v4()));
}

bool Collide(const DoorAddress& a, const DoorAddress& b) {
  return a.port != 0 && a.port == b.port &&
         (Covers(a.address, b.address) || Covers(b.address, a.address));
}

// Of the allowed doors.
absl::StatusOr<std::vector<DoorAddress>> DoorAddresses(const ServerOptions& options) {
  std::vector<DoorAddress> doors;
  if (options.allow_http) {
    SIGLIP_ASSIGN_OR_RETURN(const auto address, ParseAddress("http", options.http_address));
    doors.push_back(
        {"http", address, options.http_port, options.http_address, options.reuse_http_port});
  }
  if (options.allow_grpc) {
    SIGLIP_ASSIGN_OR_RETURN(const auto address, ParseGrpcAddress(options.grpc_address));
    doors.push_back(
        {"grpc", address, options.grpc_port, options.grpc_address, options.reuse_grpc_port});
  }
  if (options.allow_metrics) {
    SIGLIP_ASSIGN_OR_RETURN(const auto address, ParseAddress("metrics", options.metrics_address));
    doors.push_back({"metrics", address, options.metrics_port, options.metrics_address});
  }
  return doors;
}

// What the system says of listening there; no error where only trying tells.
boost::system::error_code TryToBind(const DoorAddress& door) {
  boost::asio::io_context context;
  ip::tcp::acceptor acceptor(context);
  const ip::tcp::endpoint endpoint(door.address, door.port);
  boost::system::error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(boost::asio::socket_base::reuse_address(true), error);
  if (!error && door.shared) acceptor.set_option(ReusePort(true), error);
  if (error) return {};
  acceptor.bind(endpoint, error);
  return error;
}

}  // namespace

absl::StatusOr<ip::address> ParseAddress(std::string_view door, std::string_view text) {
  boost::system::error_code error;
  const auto address = ip::make_address(std::string(WithoutBrackets(text)), error);
  if (!error) return address;
  return absl::InvalidArgumentError(
      Concat(door, " address: expected an IP address, got '", text, "'"));
}

absl::Status CheckDoorAddresses(const ServerOptions& options) {
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<DoorAddress> doors, DoorAddresses(options));
  if (doors.empty()) {
    return absl::InvalidArgumentError(
        "expected a door, got --allow-http, --allow-grpc and --allow-metrics all false");
  }
  for (auto a = doors.begin(); a != doors.end(); ++a) {
    for (auto b = a + 1; b != doors.end(); ++b) {
      if (!Collide(*a, *b)) continue;
      return absl::InvalidArgumentError(Concat("--", a->door, "-port and --", b->door,
                                               "-port: expected two ports, got ", a->port,
                                               " for both"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPortsAreFree(const ServerOptions& options) {
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<DoorAddress> doors, DoorAddresses(options));
  for (const DoorAddress& door : doors) {
    const boost::system::error_code error = TryToBind(door);
    if (error) return CannotListen(door.door, door.port, door.text, error.message());
  }
  return absl::OkStatus();
}

absl::Status CannotListen(std::string_view door, std::uint16_t port, std::string_view address,
                          std::string_view reason) {
  return absl::UnavailableError(
      Concat("cannot listen on ", door, " port ", port, " of ", address, ": ", reason));
}

}  // namespace siglip
