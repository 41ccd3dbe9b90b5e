#include "base/host_port.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

TEST(HostPort, NamesAndAddressesOfBothFamilies) {
  const struct {
    const char* text;
    const char* host;
    std::uint16_t port;
    const char* joined;
  } kCases[] = {{"localhost:8001", "localhost", 8001, "localhost:8001"},
                {"127.0.0.1:1", "127.0.0.1", 1, "127.0.0.1:1"},
                {"[::1]:65535", "::1", 65535, "[::1]:65535"},
                {"::1:8001", "::1", 8001, "[::1]:8001"},
                {"[fe80::1%eth0]:80", "fe80::1%eth0", 80, "[fe80::1%eth0]:80"}};
  for (const auto& expected : kCases) {
    const auto parsed = ParseHostPort(expected.text);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->host, expected.host);
    EXPECT_EQ(parsed->port, expected.port);
    EXPECT_EQ(JoinHostPort(parsed->host, parsed->port), expected.joined);
  }
  EXPECT_EQ(JoinHostPort("[::]", 80), "[::]:80");
  EXPECT_EQ(WithoutBrackets("[::]"), "::");
  EXPECT_EQ(WithoutBrackets("localhost"), "localhost");
}

TEST(HostPort, EverythingElseIsQuoted) {
  for (const char* text :
       {"", "localhost", ":80", "[]:80", "localhost:", "localhost:http", "localhost:65536",
        "localhost:-1", "http://localhost:80", "a:b:80", "::", "[::1]", "me@host:80"}) {
    const auto parsed = ParseHostPort(text);
    EXPECT_EQ(parsed.status(),
              absl::InvalidArgumentError("expected HOST:PORT, got '" + std::string(text) + "'"));
  }
}

}  // namespace
}  // namespace siglip
