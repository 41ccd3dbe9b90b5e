#include "server/door_addresses.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/text.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const ServerOptions& options) {
  return std::string(CheckDoorAddresses(options).message());
}

TEST(DoorAddresses, BothFormsOfIpv6) {
  EXPECT_TRUE(CheckDoorAddresses({}).ok());
  for (const char* address : {"::", "[::]", "::1", "[::1]", "127.0.0.1"}) {
    EXPECT_EQ(
        ErrorOf({.http_address = address, .grpc_address = address, .metrics_address = address}),
        "");
  }
  EXPECT_EQ(ErrorOf({.grpc_address = "localhost"}), "");
}

TEST(DoorAddresses, WhatIsNoneIsNamedUnlessItsDoorIsClosed) {
  EXPECT_EQ(ErrorOf({.http_address = "nonsense"}),
            "http address: expected an IP address, got 'nonsense'");
  EXPECT_EQ(ErrorOf({.allow_http = false, .http_address = "nonsense"}), "");
  EXPECT_THAT(ErrorOf({.grpc_address = "no.such.invalid"}), HasSubstr("grpc address"));
  EXPECT_THAT(ErrorOf({.metrics_address = "[::1"}), HasSubstr("metrics address"));
  EXPECT_THAT(ErrorOf({.allow_http = false, .allow_grpc = false, .allow_metrics = false}),
              HasSubstr("expected a door"));
}

TEST(DoorAddresses, OnePortHasOneDoor) {
  EXPECT_EQ(ErrorOf({.http_port = 9000, .grpc_port = 9000}),
            "--http-port and --grpc-port: expected two ports, got 9000 for both");
  EXPECT_THAT(ErrorOf({.grpc_address = "127.0.0.1", .metrics_port = 8001}),
              HasSubstr("--grpc-port and --metrics-port"));
  EXPECT_THAT(ErrorOf({.http_address = "::1", .metrics_address = "::", .metrics_port = 8000}),
              HasSubstr("--http-port and --metrics-port"));
  // gRPC's wildcard is of both families.
  EXPECT_THAT(ErrorOf({.http_address = "::1", .http_port = 8001}), HasSubstr("two ports"));
  EXPECT_EQ(ErrorOf({.http_port = 0, .grpc_port = 0, .metrics_port = 0}), "");
  EXPECT_EQ(ErrorOf({.allow_http = false, .http_port = 9000, .grpc_port = 9000}), "");
  EXPECT_EQ(
      ErrorOf({.http_address = "127.0.0.1", .metrics_address = "127.0.0.2", .metrics_port = 8000}),
      "");
  EXPECT_EQ(ErrorOf({.http_address = "0.0.0.0", .metrics_address = "::1", .metrics_port = 8000}),
            "");
}

TEST(DoorAddresses, APortThatIsTakenIsSaidBeforehand) {
  boost::asio::io_context context;
  using boost::asio::ip::tcp;
  tcp::acceptor taken(context, {boost::asio::ip::make_address("127.0.0.1"), 0});
  const std::uint16_t port = taken.local_endpoint().port();
  const auto error_of = [](const ServerOptions& options) {
    return std::string(CheckPortsAreFree(options).message());
  };
  ServerOptions options{.http_port = 0, .grpc_port = 0, .metrics_port = 0};
  EXPECT_EQ(error_of(options), "");
  options.http_port = port;
  const std::string of_http = Concat("cannot listen on http port ", port, " of 0.0.0.0: Address");
  EXPECT_THAT(error_of(options), HasSubstr(of_http));
  options.reuse_http_port = true;  // the other does not share it
  EXPECT_THAT(error_of(options), HasSubstr(of_http));
  options.allow_http = false;
  options.grpc_port = port;  // gRPC's wildcard is of both families
  EXPECT_THAT(error_of(options), HasSubstr("cannot listen on grpc port"));
  options.grpc_port = 0;
  options.metrics_address = "127.0.0.1";
  options.metrics_port = port;
  EXPECT_THAT(error_of(options), HasSubstr("cannot listen on metrics port"));
  options.metrics_address = "127.0.0.2";
  EXPECT_EQ(error_of(options), "");
  options.metrics_address = "127.0.0.1";
  taken.close();
  EXPECT_EQ(error_of(options), "");
}

}  // namespace
}  // namespace siglip
