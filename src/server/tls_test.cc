#include "server/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using ::testing::HasSubstr;

// Good files, and their exchange, are tests/pytest/clients/test_drop_in.py's.
TEST(Tls, MissingAndWrongFilesAreNamed) {
  const auto error = [](const TlsFiles& files) {
    const auto context = MakeTlsContext("http", files);
    return context.ok() ? std::string("ok") : std::string(context.status().message());
  };
  EXPECT_THAT(error({.server_cert = "/no/cert.pem"}),
              HasSubstr("http TLS: server certificate '/no/cert.pem'"));
  EXPECT_THAT(error({.server_cert = "README.md"}), HasSubstr("'README.md'"));
  EXPECT_THAT(error({.mutual = true, .server_cert = "README.md"}), HasSubstr("root certificate"));
}

}  // namespace
}  // namespace siglip
