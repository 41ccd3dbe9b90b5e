#include "server/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(RestrictedApis, RulesNeedTheirHeader) {
  const auto apis = RestrictedApis::Parse({"inference,health:key=a=b", "trace:other=x"}, "p-");
  ASSERT_TRUE(apis.ok()) << apis.status();
  ASSERT_NE(apis->RuleOf(Api::kHealth), nullptr);
  EXPECT_EQ(apis->RuleOf(Api::kInference)->header, "p-key");
  EXPECT_EQ(apis->RuleOf(Api::kInference)->value, "a=b");
  EXPECT_EQ(apis->RuleOf(Api::kTrace)->header, "p-other");
  EXPECT_EQ(apis->RuleOf(Api::kLogging), nullptr);
  const auto& rule = *apis->RuleOf(Api::kInference);
  EXPECT_TRUE(RestrictedApis::Matches(rule, "a=b"));
  for (const char* wrong : {"", "a", "a=", "a=c", "a=ba", "a=ba=b", "A=b"}) {
    EXPECT_FALSE(RestrictedApis::Matches(rule, wrong)) << wrong;
  }
}

TEST(RestrictedApis, WrongTextsAreNamed) {
  for (const char* text : {"", "inference", "inference:", "inference:key", "inference:key=",
                           ":key=s3cret", "inference:=s3cret", "infer:key=s3cret"}) {
    const auto apis = RestrictedApis::Parse({text}, "");
    ASSERT_FALSE(apis.ok()) << text;
    const std::string message(apis.status().message());
    EXPECT_THAT(message, HasSubstr(std::string(text).substr(0, std::string_view(text).find('='))));
    EXPECT_THAT(message, Not(HasSubstr("s3cret")));
  }
  EXPECT_FALSE(RestrictedApis::Parse({"trace:a=b", "trace,logging:c=d"}, "").ok());
}

TEST(HeaderForwarding, CredentialsStayBehind) {
  const auto forwarding = HeaderForwarding::Parse(".*");
  ASSERT_TRUE(forwarding.ok());
  Parameters parameters;
  for (const char* name : {"Authorization", "proxy-authorization", "COOKIE", "x"}) {
    forwarding->Forward(name, "Bearer s3cret", parameters);
  }
  EXPECT_EQ(parameters.size(), 1u);
}

TEST(HeaderForwarding, MatchingNamesBecomeParameters) {
  const auto forwarding = HeaderForwarding::Parse("^x-user|^traceparent$");
  ASSERT_TRUE(forwarding.ok());
  Parameters parameters = {{"X-User-Kept", std::string("own")}};
  forwarding->Forward("X-User-Id", "7", parameters);
  forwarding->Forward("X-User-Kept", "theirs", parameters);
  forwarding->Forward("Traceparent", "00", parameters);
  forwarding->Forward("My-X-User", "8", parameters);
  forwarding->Forward(std::string(100000, 'x'), "9", parameters);
  EXPECT_EQ(parameters.size(), 3u);
  EXPECT_EQ(std::get<std::string>(parameters["X-User-Id"]), "7");
  EXPECT_EQ(std::get<std::string>(parameters["X-User-Kept"]), "own");
  EXPECT_TRUE(HeaderForwarding::Parse("")->empty());
  EXPECT_FALSE(HeaderForwarding::Parse("(").ok());
}

}  // namespace
}  // namespace siglip
