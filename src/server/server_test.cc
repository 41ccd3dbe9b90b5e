#include "server/server.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/fake_service.h"
#include "server/raw_client_for_test.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;

ServerOptions AnyPorts() {
  ServerOptions options;
  options.http_address = options.grpc_address = options.metrics_address = "127.0.0.1";
  options.http_port = options.grpc_port = options.metrics_port = 0;
  options.http_thread_count = 2;
  return options;
}

TEST(Server, OpensTheAllowedDoorsAndNamesThem) {
  FakeService service;
  ServerOptions options = AnyPorts();
  const auto server = Server::Start(service, options);
  ASSERT_TRUE(server.ok()) << server.status();
  const ServerPorts ports = (*server)->ports();
  EXPECT_NE(ports.http, 0);
  EXPECT_NE(ports.grpc, 0);
  EXPECT_NE(ports.metrics, 0);
  EXPECT_EQ(RawClient(ports.http).Ask(Get("/v2/health/ready")).status, 200);
  EXPECT_EQ(RawClient(ports.metrics).Ask(Get("/metrics")).status, 200);
  EXPECT_EQ(ListeningLine(options, ports),
            "listening http=127.0.0.1:" + std::to_string(ports.http) + " grpc=127.0.0.1:" +
                std::to_string(ports.grpc) + " metrics=127.0.0.1:" + std::to_string(ports.metrics));
  options.allow_grpc = options.allow_metrics = false;
  const auto http_only = Server::Start(service, options);
  ASSERT_TRUE(http_only.ok());
  EXPECT_EQ((*http_only)->ports().grpc, 0);
  EXPECT_EQ((*http_only)->ports().metrics, 0);
}

TEST(Server, ListensOnIpv6InBothForms) {
  if (std::ifstream("/proc/net/if_inet6").peek() == EOF) {
    GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: this machine has no IPv6";
  }
  FakeService service;
  ServerOptions options = AnyPorts();
  options.http_address = "::1";
  options.grpc_address = "[::1]";
  options.metrics_address = "[::1]";
  const auto server = Server::Start(service, options);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_THAT(
      ListeningLine(options, (*server)->ports()),
      ::testing::MatchesRegex(
          "listening http=\\[::1\\]:[0-9]+ grpc=\\[::1\\]:[0-9]+ metrics=\\[::1\\]:[0-9]+"));
  options.http_address = "[::1]";
  options.grpc_address = "::1";
  EXPECT_TRUE(Server::Start(service, options).ok());
}

// What a dry run refuses too: no door is open yet.
TEST(Server, CreateRefusesWrongOptions) {
  const auto error = [](void (*change)(ServerOptions&)) {
    ServerOptions options = AnyPorts();
    change(options);
    return std::string(Server::Create(options).status().message());
  };
  EXPECT_EQ(error([](ServerOptions&) {}), "");
  EXPECT_THAT(error([](ServerOptions& o) { o.api_key_file = "/no/keys"; }), HasSubstr("/no/keys"));
  EXPECT_THAT(error([](ServerOptions& o) { o.trace_config = {"foo=bar"}; }), HasSubstr("foo=bar"));
  EXPECT_THAT(error([](ServerOptions& o) { o.metrics_config = {"foo"}; }), HasSubstr("got 'foo'"));
  EXPECT_THAT(error([](ServerOptions& o) { o.http_tls.enabled = true; }), HasSubstr("http TLS"));
  EXPECT_THAT(error([](ServerOptions& o) { o.grpc_tls.enabled = true; }), HasSubstr("grpc TLS"));
  EXPECT_THAT(error([](ServerOptions& o) { o.http_restricted_apis = {"foo:k=v"}; }),
              HasSubstr("'foo'"));
  EXPECT_THAT(error([](ServerOptions& o) { o.http_header_forward_pattern = "("; }),
              HasSubstr("pattern '('"));
  EXPECT_THAT(error([](ServerOptions& o) { o.image_url_allow = {"http:///"}; }),
              HasSubstr("'http:///'"));
  EXPECT_THAT(error([](ServerOptions& o) { o.http_address = "nonsense"; }), HasSubstr("nonsense"));
}

TEST(Server, TraceLevelsHaveTheNamesOfTritonsCommandLine) {
  const auto level = [](const char* word) {
    ServerOptions options;
    options.trace_config = {std::string("level=") + word, "triton,file=x", "mode=Triton"};
    DoorState state(options);
    const absl::Status configured = state.Configure(options);
    return configured.ok() ? state.tracer->Get("").at("trace_level").at(0)
                           : std::string(configured.message());
  };
  for (const char* word : {"TIMESTAMPS", "Timestamps", "true", "ON", "min", "MAX"}) {
    EXPECT_EQ(level(word), "TIMESTAMPS") << word;
  }
  for (const char* word : {"OFF", "off", "False"}) EXPECT_EQ(level(word), "OFF") << word;
  EXPECT_THAT(level("tensors"), HasSubstr("TENSORS is not offered"));
  EXPECT_THAT(level("loud"), HasSubstr("got 'loud'"));
}

TEST(Server, AnIdleServerDrainsAtOnce) {
  FakeService service;
  const auto server = Server::Start(service, AnyPorts());
  ASSERT_TRUE(server.ok());
  RawClient idle((*server)->ports().http);
  EXPECT_EQ(idle.Ask(Get("/v2/health/ready")).status, 200);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE((*server)->Drain(std::chrono::seconds(20)));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
  EXPECT_TRUE(idle.ClosedByPeer());
}

TEST(Server, ALeavingServerIsNotReadyAndServes) {
  FakeService service;
  const auto server = Server::Start(service, AnyPorts());
  ASSERT_TRUE(server.ok());
  (*server)->Leave();
  RawClient client((*server)->ports().http);
  EXPECT_EQ(client.Ask(Get("/v2/health/ready")).status, 400);
  EXPECT_EQ(client.Ask(Get("/v2/health/live")).status, 200);
  EXPECT_EQ(client.Ask(Post("/v2/models/echo/infer", R"({"inputs":[]})")).status, 200);
  EXPECT_TRUE((*server)->Drain(std::chrono::seconds(20)));
}

TEST(Server, DrainReportsWorkThatDidNotFinish) {
  FakeService service;
  const auto server = Server::Start(service, AnyPorts());
  ASSERT_TRUE(server.ok());
  service.hold = true;
  RawClient client((*server)->ports().http);
  client.Send(Post("/v2/models/echo/infer", R"({"inputs":[]})"));
  service.AwaitHeld(1);
  EXPECT_FALSE((*server)->Drain(std::chrono::milliseconds(100)));
  service.Finish(service.Take(0));
  EXPECT_EQ(client.Receive().status, 200);
}

TEST(Server, APortInUseFailsTheStart) {
  FakeService service;
  const auto first = Server::Start(service, AnyPorts());
  ASSERT_TRUE(first.ok());
  ServerOptions options = AnyPorts();
  options.metrics_port = (*first)->ports().metrics;
  EXPECT_THAT(std::string(Server::Start(service, options).status().message()),
              HasSubstr("metrics port " + std::to_string(options.metrics_port)));
}

}  // namespace
}  // namespace siglip
